"""SSH's own types (RFC 4251 section 5) to bytes and back. Pure."""

from __future__ import annotations

from doorward.errors import MalformedError


def string(raw: bytes) -> bytes:
    """Put the length before the bytes."""
    return len(raw).to_bytes(4) + raw


class SshReader:
    """Takes SSH's types from the front of `raw`; MalformedError says what was read where they are not there."""

    def __init__(self, raw: bytes, what: str) -> None:
        self.raw, self.at, self.what = raw, 0, what

    def take(self, count: int) -> bytes:
        """Give the next bytes."""
        end = self.at + count
        if end > len(self.raw):
            raise MalformedError(f"{self.what} is cut short: {len(self.raw) - self.at} bytes left, {count} wanted")
        found = self.raw[self.at : end]
        self.at = end
        return found

    def number(self, count: int) -> int:
        """Give an unsigned number of that many bytes."""
        return int.from_bytes(self.take(count))

    def string(self) -> bytes:
        """Give the bytes behind a length."""
        return self.take(self.number(4))

    def text(self) -> str:
        """Give a string of UTF-8."""
        try:
            return self.string().decode()
        except UnicodeDecodeError:
            raise MalformedError(f"{self.what} holds a text that is no UTF-8") from None

    def positive(self, *, canonical: bool) -> int:
        """Give an mpint that is not negative. `canonical`: without a zero byte too many in front."""
        raw = self.string()
        if raw[:1] >= b"\x80":
            raise MalformedError(f"{self.what} holds a negative number")
        if canonical and raw and raw[0] == 0 and raw[1:2] < b"\x80":
            raise MalformedError(f"{self.what} holds a number with zeros in front")
        return int.from_bytes(raw)

    def end(self) -> None:
        """Make sure that nothing is left."""
        if self.at != len(self.raw):
            raise MalformedError(f"{self.what} has {len(self.raw) - self.at} bytes too many")
