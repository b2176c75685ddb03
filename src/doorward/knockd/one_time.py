"""The one-time sequences of all doors that have them: which is due, and what is told when they run out."""

from __future__ import annotations

from collections.abc import Mapping

from doorward.errors import HostError
from doorward.knockd import one_time_files
from doorward.knockd.output import Output
from doorward.model import Port

COUNTDOWN = (10, 5, 1)  # with so many left the operator is told


class OneTimeDoors:
    """`files` by door. A file without a good line is told of; its door stays shut."""

    def __init__(self, files: Mapping[str, str], output: Output) -> None:
        self.files, self._output = dict(files), output
        self._due: dict[str, tuple[tuple[Port, ...], ...]] = {}
        self._stamps: dict[str, tuple[int, int]] = {}
        for key in self.files:
            self._read(key)

    def current(self, key: str) -> tuple[Port, ...]:
        """Give the sequence that opens the door now; none where they are used up."""
        return next(iter(self._due[key]), ())

    def use(self, key: str, knock: tuple[Port, ...]) -> bool:
        """Mark a sequence as used, on the disk; False where it is not the one that is due, or cannot be marked."""
        if knock != self.current(key):
            self._output.debug(f"{key}: a one-time sequence that was used already; ignored")
            return False
        path = self.files[key]
        try:
            left = one_time_files.use(path, knock)
        except HostError as error:
            self._due[key] = ()
            self._output.complain(str(error))
            self._output.complain(f"error while disabling used one time sequence for door {key} --> disabling the door")
            return False
        self._due[key] = tuple(line.knock for line in left)
        self._stamps[key] = one_time_files.stamp(path)
        self._tell_what_is_left(key)
        return True

    def follow(self) -> bool:
        """Read files again that somebody edited; True where a door's sequence changed."""
        edited = [key for key, path in self.files.items() if one_time_files.stamp(path) != self._stamps[key]]
        before = {key: self.current(key) for key in edited}
        for key in edited:
            self._read(key)
        return any(self.current(key) != before[key] for key in edited)

    def _read(self, key: str) -> None:
        path = self.files[key]
        self._stamps[key] = one_time_files.stamp(path)
        try:
            file = one_time_files.read(path)
        except HostError as error:
            self._due[key] = ()
            self._output.complain(str(error))
            return
        for fault in file.faults:
            self._output.complain(str(fault))
        self._due[key] = tuple(line.knock for line in file.unused)
        if not self._due[key]:
            self._tell_what_is_left(key)

    def _tell_what_is_left(self, key: str) -> None:
        left = len(self._due[key])
        if left == 0:
            self._output.complain(
                f"no more sequences left in the one time sequences file for door {key} --> disabling the door"
            )
        elif left in COUNTDOWN:
            self._output.complain(
                f"{key}: {left} one-time sequence{'' if left == 1 else 's'} left in {self.files[key]}"
            )
