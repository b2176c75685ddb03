"""One-time sequences: read the files, mark used sequences, and warn when they run out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from doorward.config.knockd import WHITESPACE, sequence, split_messages
from doorward.errors import ConfigFault, HostError, InvalidValueError
from doorward.knockd.knockd_log import KnockdLog
from doorward.model import Port

MARK = b"#"
ENCODING = "utf-8"
ERRORS = "surrogateescape"  # knockd reads bytes: comments may have any encoding, and offsets must stay correct


class OneTime(NamedTuple):
    """An unused sequence; `offset` is the beginning of its line, in bytes."""

    line: int
    offset: int
    knock: tuple[Port, ...]


class OneTimeFile(NamedTuple):
    """The unused sequences in order, and the faults of invalid lines."""

    unused: tuple[OneTime, ...]
    faults: tuple[ConfigFault, ...]


def sequences(text: str, file: str) -> OneTimeFile:
    """Parse a file's text, decoded with `ENCODING` and `ERRORS`; invalid lines are skipped."""
    unused: list[OneTime] = []
    faults: list[ConfigFault] = []
    offset = 0
    for number, line in enumerate(text.split("\n"), 1):
        words = line.strip(WHITESPACE)
        if words and not words.startswith("#"):
            try:
                unused.append(OneTime(number, offset, sequence(words)))
            except (InvalidValueError, ExceptionGroup) as error:
                faults += (ConfigFault(code, file, number, *fault) for code, *fault in split_messages(error))
        offset += len(line.encode(ENCODING, ERRORS)) + 1
    return OneTimeFile(tuple(unused), tuple(faults))


def mark_used(raw: bytes, offset: int) -> bytes:
    """Return the file with the first byte of the line at `offset` replaced by `#`, as knockd marks it.

    ValueError: no unused line begins there; the file has changed since it was read.
    """
    begins = offset == 0 or raw[offset - 1 : offset] == b"\n"
    line = raw[offset:].split(b"\n", 1)[0].strip(WHITESPACE.encode())
    if offset < 0 or not begins or not line or line.startswith(MARK):
        raise InvalidValueError("line-changed", f"no unused line begins at byte {offset}; read the file again")
    return raw[:offset] + MARK + raw[offset + 1 :]


MAX_BYTES = 16 << 20  # half a million sequences


def read(path: str) -> OneTimeFile:
    """Read a file's unused sequences. HostError: it cannot be read."""
    return sequences(_bytes(path).decode(ENCODING, ERRORS), path)


def use(path: str, knock: tuple[Port, ...]) -> tuple[OneTime, ...]:
    """Mark the first unused line with `knock` as used, synced to disk; return the remaining sequences.

    HostError: it could not be marked (disk error, or the line is gone), so it must open nothing.
    """
    raw = _bytes(path)
    unused = sequences(raw.decode(ENCODING, ERRORS), path).unused
    line = next((line for line in unused if line.knock == knock), None)
    if line is None:
        raise HostError("sequence-gone", f"{path}: the sequence is no longer in the file; it opens nothing")
    mark_used(raw, line.offset)  # raises if the bytes have changed
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, MARK, line.offset)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise HostError(
            "sequence-not-marked", f"{path}: {error.strerror}; the used sequence could not be marked"
        ) from None
    return tuple(other for other in unused if other is not line)


def file_stamp(path: str) -> tuple[int, int]:
    """Return modification time and size of the file; zeros if it is missing."""
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
        raise HostError(
            "unreadable-file", f"{path}: {error.strerror}; it must hold the door's one-time sequences"
        ) from None
    if len(raw) > MAX_BYTES:
        raise HostError("file-too-large", f"{path}: larger than {MAX_BYTES >> 20} MiB; is this the right file?")
    return raw


COUNTDOWN = (10, 5, 1)  # remaining sequences at which a warning is logged


class OneTimeDoors:
    """The one-time sequences by door. A file without a valid line is logged, and its door stays closed."""

    def __init__(self, files: Mapping[str, str], output: KnockdLog) -> None:
        self.files, self._output = dict(files), output
        self._due: dict[str, tuple[tuple[Port, ...], ...]] = {}
        self._stamps: dict[str, tuple[int, int]] = {}
        for key in self.files:
            self._read(key)

    def current(self, key: str) -> tuple[Port, ...]:
        """Return the sequence that opens the door now; empty if all are used."""
        return next(iter(self._due[key]), ())

    def use(self, key: str, knock: tuple[Port, ...]) -> bool:
        """Mark a sequence as used, on disk; return False if it is not the current one or cannot be marked."""
        if knock != self.current(key):
            self._output.debug(f"{key}: a one-time sequence that was used already; ignored")
            return False
        path = self.files[key]
        try:
            left = use(path, knock)
        except HostError as error:
            self._due[key] = ()
            self._output.alert(str(error))
            self._output.alert(f"error while disabling used one time sequence for door {key} --> disabling the door")
            return False
        self._due[key] = tuple(line.knock for line in left)
        self._stamps[key] = file_stamp(path)
        self._report_remaining(key)
        return True

    def poll(self) -> bool:
        """Re-read edited files; return whether any door's current sequence changed."""
        edited = [key for key, path in self.files.items() if file_stamp(path) != self._stamps[key]]
        previous = {key: self.current(key) for key in edited}
        for key in edited:
            self._read(key)
        return any(self.current(key) != previous[key] for key in edited)

    def _read(self, key: str) -> None:
        path = self.files[key]
        self._stamps[key] = file_stamp(path)
        try:
            file = read(path)
        except HostError as error:
            self._due[key] = ()
            self._output.alert(str(error))
            return
        for fault in file.faults:
            self._output.alert(str(fault))
        self._due[key] = tuple(line.knock for line in file.unused)
        if not self._due[key]:
            self._report_remaining(key)

    def _report_remaining(self, key: str) -> None:
        left = len(self._due[key])
        if left == 0:
            self._output.alert(
                f"no more sequences left in the one time sequences file for door {key} --> disabling the door"
            )
        elif left in COUNTDOWN:
            self._output.alert(f"{key}: {left} one-time sequence{'' if left == 1 else 's'} left in {self.files[key]}")
