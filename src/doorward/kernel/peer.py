"""Who is at the other end of a Unix socket (SO_PEERCRED and SO_PEERGROUPS, unix(7))."""

from __future__ import annotations

import socket
import struct

_CREDENTIALS = struct.Struct("=iII")  # struct ucred: process, user, group
_SO_PEERGROUPS = 59


def credentials(sock: socket.socket) -> tuple[int, int, int]:
    """Return the process, the user and the group at the other end."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, group = _CREDENTIALS.unpack(raw)
    return process, user, group


def groups(sock: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups at the other end; none if the kernel does not report them."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)  # 256 groups; Python accepts no more
    except OSError:
        return ()
    return struct.unpack(f"={len(raw) // 4}I", raw)
