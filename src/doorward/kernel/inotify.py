"""Files and folders followed with inotify(7): readable once somebody has written, replaced or removed a file."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from doorward.errors import HostError

_ATTRIB, _CLOSE_WRITE, _DELETE_SELF, _MOVE_SELF = 0x4, 0x8, 0x400, 0x800  # a file renamed over another is its ATTRIB
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200  # in a folder
_EVENTS = _ATTRIB | _CLOSE_WRITE | _DELETE_SELF | _MOVE_SELF
_FOLDER_EVENTS = _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_RECEIVE_BYTES = 1 << 16
_libc = ctypes.CDLL(None, use_errno=True)


class FileWatcher:
    """Tells by its descriptor that one of the files may have changed. HostError: there is no inotify to be had."""

    def __init__(self) -> None:
        self._descriptor: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            reason = os.strerror(ctypes.get_errno())
            raise HostError(f"no inotify ({reason}); raise the sysctl fs.inotify.max_user_instances")

    def fileno(self) -> int:
        """Give the descriptor to wait on."""
        return self._descriptor

    def watch(self, paths: Iterable[str]) -> None:
        """Watch what has these names now, as well as what is watched; a name that is nobody's is passed over."""
        for path in paths:
            _libc.inotify_add_watch(self._descriptor, os.fsencode(path), _EVENTS)

    def watch_folder(self, path: str) -> None:
        """Watch what happens to the files in a folder; one that is not there is passed over."""
        _libc.inotify_add_watch(self._descriptor, os.fsencode(path), _FOLDER_EVENTS)

    def drain(self) -> None:
        """Be unreadable until something changes again."""
        os.read(self._descriptor, _RECEIVE_BYTES)

    def close(self) -> None:
        """Watch nothing any more."""
        os.close(self._descriptor)
