"""Markup: for any values, only the elements of the template come out."""

from __future__ import annotations

import html

from hypothesis import given
from hypothesis import strategies as st

from doorward.report.markup import LONGEST_TEXT, Html, escape, fill, join, untrusted
from tests.support.report_page import Read


def test_values_are_escaped_but_markup_is_not() -> None:
    inner = fill("<b>{}</b>", "<i>&\"'")
    assert inner == "<b>&lt;i&gt;&amp;&quot;&#x27;</b>"
    assert fill('<p title="{}">{}</p>', '"x', inner) == f'<p title="&quot;x">{inner}</p>'
    assert join([inner, Html("<br>")]) == f"{inner}<br>"
    assert fill("{}", 5) == "5"


def test_invisible_and_bidi_characters_are_replaced() -> None:
    assert untrusted("a\0b\x1b[31m\u202egpj.exe\ud800\n") == "<bdi>a�b�[31m�gpj.exe��</bdi>"


def test_long_values_are_cut() -> None:
    assert escape("x" * LONGEST_TEXT) == "x" * LONGEST_TEXT
    assert escape("x" * 10_000) == "x" * (LONGEST_TEXT - 1) + "…"
    assert untrusted("y" * 65) == "<bdi>" + "y" * 63 + "…</bdi>"


@given(st.text(st.characters()), st.text(st.characters()))
def test_no_value_becomes_markup(first: str, second: str) -> None:
    text = fill('<p title="{}">{}{}</p>', first, second, untrusted(first))
    read = Read(text)
    assert (read.tags, read.attributes) == ({"p", "bdi"}, {"title"})
    text.encode()
    assert html.unescape(escape(second))[:50] == "".join(one if one.isprintable() else "�" for one in second)[:50]
