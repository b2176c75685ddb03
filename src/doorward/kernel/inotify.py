"""Watches on files and directories with inotify(7): a file was written, replaced or removed."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable

from doorward.errors import HostError
from doorward.kernel.event_loop import EventLoop

_ATTRIB, _CLOSE_WRITE, _DELETE_SELF, _MOVE_SELF = 0x4, 0x8, 0x400, 0x800  # a file renamed over another is its ATTRIB
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200  # in a directory
_EVENTS = _ATTRIB | _CLOSE_WRITE | _DELETE_SELF | _MOVE_SELF
_DIRECTORY_EVENTS = _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_RECEIVE_BYTES = 1 << 16
_libc = ctypes.CDLL(None, use_errno=True)


class FileWatcher:
    """Calls `on_change` when a file may have changed. HostError: inotify is not available."""

    def __init__(self, loop: EventLoop, on_change: Callable[[], None]) -> None:
        self._loop, self._on_change = loop, on_change
        self._descriptor: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            reason = os.strerror(ctypes.get_errno())
            raise HostError(
                "no-inotify", f"inotify is not available ({reason}); raise the sysctl fs.inotify.max_user_instances"
            )
        loop.on_readable(self._descriptor, self._read)

    def watch(self, paths: Iterable[str]) -> None:
        """Watch the files that have these names now, in addition; missing ones are skipped."""
        for path in paths:
            _libc.inotify_add_watch(self._descriptor, os.fsencode(path), _EVENTS)

    def watch_directory(self, path: str) -> None:
        """Watch the files in a directory; a missing directory is skipped."""
        _libc.inotify_add_watch(self._descriptor, os.fsencode(path), _DIRECTORY_EVENTS)

    def close(self) -> None:
        """Stop watching."""
        self._loop.unregister(self._descriptor)
        os.close(self._descriptor)

    def _read(self) -> None:
        os.read(self._descriptor, _RECEIVE_BYTES)
        self._on_change()
