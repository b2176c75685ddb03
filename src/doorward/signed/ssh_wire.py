"""SSH data types (RFC 4251 section 5) to bytes and back. Pure."""

from __future__ import annotations

import base64

from doorward.errors import MalformedError


def string(raw: bytes) -> bytes:
    """Return the bytes with their length in front."""
    return len(raw).to_bytes(4) + raw


def mpint(value: int) -> bytes:
    """Return a number that is not negative; a set top bit would mean a negative one."""
    return string(value.to_bytes(value.bit_length() // 8 + 1))


def fingerprint_text(fingerprint: bytes) -> str:
    """Return a SHA-256 fingerprint, or its beginning of 12 bytes, as `ssh-keygen -l` prints it."""
    return "SHA256:" + base64.b64encode(fingerprint).decode().rstrip("=")


class SshReader:
    """Reads SSH data types from `raw` in order; MalformedError names `what` was being read."""

    def __init__(self, raw: bytes, what: str) -> None:
        self.raw, self.offset, self.what = raw, 0, what

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        end = self.offset + count
        if end > len(self.raw):
            raise MalformedError(
                "truncated", f"{self.what} is truncated: {len(self.raw) - self.offset} bytes left, {count} needed"
            )
        data = self.raw[self.offset : end]
        self.offset = end
        return data

    def number(self, count: int) -> int:
        """Return an unsigned number of `count` bytes."""
        return int.from_bytes(self.read(count))

    def string(self) -> bytes:
        """Return a length-prefixed string."""
        return self.read(self.number(4))

    def text(self) -> str:
        """Return a string decoded as UTF-8."""
        try:
            return self.string().decode()
        except UnicodeDecodeError:
            raise MalformedError("not-utf8", f"{self.what} contains text that is not UTF-8") from None

    def positive(self, *, canonical: bool) -> int:
        """Return a non-negative mpint. `canonical`: reject superfluous leading zeros."""
        raw = self.string()
        if raw[:1] >= b"\x80":
            raise MalformedError("negative-number", f"{self.what} contains a negative number")
        if canonical and raw and raw[0] == 0 and raw[1:2] < b"\x80":
            raise MalformedError("leading-zeros", f"{self.what} contains a number with leading zeros")
        return int.from_bytes(raw)

    def expect_end(self) -> None:
        """Check that nothing is left."""
        if self.offset != len(self.raw):
            raise MalformedError("trailing-bytes", f"{self.what} has {len(self.raw) - self.offset} bytes too many")
