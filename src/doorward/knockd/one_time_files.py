"""Files of one-time sequences on the disk: read, and mark as used so that no crash makes one good again."""

from __future__ import annotations

import os
from pathlib import Path

from doorward.config.one_time import ENCODING, ERRORS, MARK, OneTime, OneTimeFile, mark_used, sequences
from doorward.errors import HostError
from doorward.model import Port

MAX_BYTES = 16 << 20  # half a million sequences


def read(path: str) -> OneTimeFile:
    """Read a file's unused sequences; HostError where it cannot be read."""
    return sequences(_bytes(path).decode(ENCODING, ERRORS), path)


def use(path: str, knock: tuple[Port, ...]) -> tuple[OneTime, ...]:
    """Mark the first unused line that holds `knock`, on the disk when this returns; give what is left.

    HostError: it could not be marked (the disk, or somebody took the line away), so it must open nothing.
    """
    raw = _bytes(path)
    unused = sequences(raw.decode(ENCODING, ERRORS), path).unused
    line = next((line for line in unused if line.knock == knock), None)
    if line is None:
        raise HostError(f"{path}: the sequence is no longer in the file; it opens nothing")
    mark_used(raw, line.offset)  # refuses where the bytes are not what was read
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, MARK, line.offset)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}; the used sequence could not be marked") from None
    return tuple(other for other in unused if other is not line)


def stamp(path: str) -> tuple[int, int]:
    """Give what changes when somebody edits the file; zeros where there is none."""
    try:
        status = Path(path).stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _bytes(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}; it must hold the door's one-time sequences") from None
    if len(raw) > MAX_BYTES:
        raise HostError(f"{path}: larger than {MAX_BYTES >> 20} MiB; is this the right file?")
    return raw
