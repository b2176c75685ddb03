"""SSH's types, as RFC 4251 section 5 gives them."""

from __future__ import annotations

import pytest

from doorward.errors import MalformedError
from doorward.signed.ssh_wire import SshReader, string
from tests.support.errors import raises


def test_a_string_comes_back() -> None:
    reader = SshReader(string(b"testing") + string(b"") + b"\1\2", "it")
    assert (reader.string(), reader.string(), reader.number(2)) == (b"testing", b"", 258)
    reader.expect_end()


@pytest.mark.parametrize(
    ("raw", "number"),
    [("00000000", 0), ("0000000809a378f9b2e332a7", 0x9A378F9B2E332A7), ("000000020080", 0x80), ("0000000101", 1)],
)
def test_the_rfcs_numbers(raw: str, number: int) -> None:
    assert SshReader(bytes.fromhex(raw), "it").positive(canonical=True) == number


def test_leading_zeros_are_not_canonical() -> None:
    raw = string(b"\0\0\x80")
    assert SshReader(raw, "it").positive(canonical=False) == 0x80
    with raises(MalformedError, "leading-zeros"):
        SshReader(raw, "it").positive(canonical=True)


@pytest.mark.parametrize("raw", ["", "000000", "00000001", "ffffffff00", "0000000401"])
def test_truncated_input_is_rejected(raw: str) -> None:
    with raises(MalformedError, "truncated"):
        SshReader(bytes.fromhex(raw), "it").string()


def test_negative_numbers_are_rejected() -> None:
    with raises(MalformedError, "negative-number"):
        SshReader(string(b"\x80"), "it").positive(canonical=False)


def test_trailing_bytes_are_rejected() -> None:
    with raises(MalformedError, "trailing-bytes"):
        SshReader(b"abc", "it").expect_end()
