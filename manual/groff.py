"""Text of manual pages in the man(7) language. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ESCAPES = str.maketrans({"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"})
_MARKED = re.compile(r"\*\*(?P<bold>.+?)\*\*|``?(?P<code>[^`]+)``?|\[(?P<text>[^\]]+)\]\([^)]+\)")


def plain(text: str) -> str:
    """Escape what groff would take for its own."""
    return text.translate(_ESCAPES)


def bold(text: str) -> str:
    """Set in bold."""
    return rf"\fB{plain(text)}\fR"


def italic(text: str) -> str:
    """Set in italics."""
    return rf"\fI{plain(text)}\fR"


def marked(text: str) -> str:
    """Set a line of Markdown: **bold**, `code` in bold, and the words of links."""
    done, end = "", 0
    for found in _MARKED.finditer(text):
        done += plain(text[end : found.start()])
        done += marked(found["text"]) if found["text"] else bold(found["bold"] or found["code"])
        end = found.end()
    return done + plain(text[end:])


def line(text: str) -> str:
    """Make sure that a line of text is not taken for a request."""
    return rf"\&{text}" if text.startswith((".", "'")) else text


def title(name: str, section: int, date: str, source: str, manual: str) -> str:
    """Begin a page."""
    return f'.TH "{plain(name.upper())}" "{section}" "{date}" "{plain(source)}" "{plain(manual)}"\n'


def heading(text: str) -> str:
    """Begin a section; what is code in its name keeps its letters."""
    words = "".join(part if place % 2 else part.upper() for place, part in enumerate(text.split("`")))
    return f'.SH "{plain(words)}"\n'


def paragraph(text: str) -> str:
    """Set one paragraph of text that is escaped already."""
    return f".PP\n{line(text)}\n"


def entry(term: str, text: str) -> str:
    """Set a term and what it means, both escaped already."""
    return f".TP\n{line(term)}\n{line(text)}\n"


def bullet(text: str) -> str:
    """Set one entry of a list."""
    return f".IP \\(bu 2\n{line(text)}\n"


def page(head: str, sections: str) -> str:
    """Put a page together: a paragraph that begins a section needs no sign of its own."""
    return head + re.sub(r"^(\.SH .*\n)\.PP\n", r"\1", sections, flags=re.MULTILINE)


def verbatim(lines: Iterable[str]) -> str:
    """Set lines as they are."""
    body = "".join(f"{line(plain(one))}\n" for one in lines)
    return f".PP\n.RS 4\n.nf\n{body}.fi\n.RE\n"
