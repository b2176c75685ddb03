"""Untrusted text cannot control a terminal and is otherwise unchanged."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.escape import visible, visible_in


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("key Zoë@größer 日本 👩‍💻", "key Zoë@größer 日本 👩‍💻"),
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("one\ntwo\r\tthree", r"one\ntwo\r\tthree"),
        ("\x7f\x9b1m\x85", r"\x7f\x9b1m\x85"),
        ("\u202eright\u2066\u2029", r"\u202eright\u2066\u2029"),
        ("a file \udcff", r"a file \udcff"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_any_text_becomes_one_printable_line(text: str) -> None:
    shown = visible(text)
    assert not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in shown)
    assert not {unicodedata.bidirectional(letter) for letter in shown} & {"LRE", "RLE", "LRO", "RLO", "LRI", "RLI"}
    assert len(shown.splitlines()) <= 1
    shown.encode()


def test_nested_texts_are_escaped() -> None:
    assert visible_in({"\x1b": ["\n", {"door": "\x07", "n": 1}, None]}) == {
        r"\x1b": [r"\n", {"door": r"\x07", "n": 1}, None]
    }
