"""Rewrite a shell command with %IP% in its text so that the shell gets the address as an argument. Pure.

Quotes are parsed as in a POSIX shell (XCU 2.2); syntax that shells parse differently is rejected.
"""

from __future__ import annotations

import re

from doorward.errors import InvalidValueError

PLACEHOLDER = "%IP%"

_SET = r"set\b(?!\s+[-+][A-Za-z]+\s*(?:[;&|\n]|$))"  # except options, as in `set -e`
_BEFORE_COMMAND = r"(?:^|[;&|({`\n]|\b(?:then|do|else|elif|if|while|until|eval|command)\s)\s*"
_OWN_ARGUMENTS = re.compile(rf"{_BEFORE_COMMAND}(?:{_SET}|shift\b)|\(\s*\)|\bfunction\s")
_EXPANSION = re.compile(
    r"\$\(\([^'\"`\\$()#<]*\)\)"  # arithmetic
    r"|\$\{#?[A-Za-z_][^'\"`\\${}]*\}"
    r"|\$[A-Za-z_][A-Za-z0-9_]*(?!%IP%)\b"
    r"|\$[?$!-]"
    r"|`[^'\"`\\$()#<\n]*`"
)
_COMMENT = re.compile(r"#[^\n]*")
_LITERAL = re.compile(r"'([^']*)'")
_WORD = re.compile(r"[^\\'\"`$#()<>%;&|\s]+")


def as_argument(script: str) -> str:
    """Return the script with each %IP%, within any quotes, replaced by `"$1"`. Raises ValueError if unsafe."""
    if PLACEHOLDER not in script:
        return script
    if _OWN_ARGUMENTS.search(script):
        raise InvalidValueError("own-arguments", "it sets arguments of its own")
    if f"~{PLACEHOLDER}" in script:
        raise InvalidValueError("tilde-before-address", "a ~ is before the address")
    return _Rewriter(script).rewrite()


class _Rewriter:
    """Reads the script once. `_open` is the stack of open double quotes, `$(` and `(`, the innermost last."""

    def __init__(self, script: str) -> None:
        self._script, self._at = script, 0
        self._open: list[str] = []
        self._begins_word: bool | None = True  # None: shells differ, or only a parser could decide

    def rewrite(self) -> str:
        """Rewrite the whole script."""
        done = []
        while self._at < len(self._script):
            is_quoted = self._open[-1:] == ['"']
            done.append(self._quoted() if is_quoted else self._unquoted())
        if self._open:
            raise InvalidValueError("unclosed-quote", "its quotes or brackets are not closed")
        return "".join(done)

    def _consume(self, count: int) -> str:
        self._at += count
        return self._script[self._at - count : self._at]

    def _next_is(self, text: str) -> bool:
        return self._script.startswith(text, self._at)

    def _matched(self, pattern: re.Pattern[str]) -> str:
        matched = pattern.match(self._script, self._at)
        return self._consume(len(matched[0])) if matched else ""

    def _quoted(self) -> str:
        """Rewrite the next part, within double quotes."""
        for original, replacement in (
            (f"\\{PLACEHOLDER}", r"\\$1"),
            (PLACEHOLDER, "$1"),
        ):  # the backslash stays if a digit follows
            if self._next_is(original):
                self._consume(len(original))
                is_longer = self._script[self._at : self._at + 1].isdigit()
                return replacement.replace("$1", "${1}") if is_longer else replacement
        if self._next_is('"'):
            self._open.pop()
        if self._next_is("\\"):
            return self._pair()
        return self._expansion() or self._consume(1)

    def _unquoted(self) -> str:
        """Rewrite the next part, outside of double quotes."""
        begins_word, self._begins_word = self._begins_word, False
        for original in (f"\\{PLACEHOLDER}", PLACEHOLDER):  # the shell would remove the backslash
            if self._next_is(original):
                self._consume(len(original))
                return '"$1"'
        if self._next_is("\\"):
            return self._pair()
        if self._next_is("'"):
            return self._literal()
        if self._next_is("#") and begins_word is not False:
            return self._comment(begins_word)
        if self._next_is("<<"):
            raise InvalidValueError("here-document", "it has a here-document")
        matched = self._expansion() or self._matched(_WORD)
        if matched == "case" and "$(" in self._open:
            raise InvalidValueError("case-in-substitution", "it has a `case` within `$(…)`")
        return matched or self._single()

    def _comment(self, begins_word: bool | None) -> str:
        if self._open or begins_word is None:
            raise InvalidValueError("comment-at-bracket", "it has a comment next to a bracket")
        return self._matched(_COMMENT).replace(PLACEHOLDER, "$1")

    def _single(self) -> str:
        letter = self._consume(1)
        if letter in '("':
            self._open.append(letter)
        elif letter == ")" and self._open:
            self._open.pop()
        self._begins_word = True if letter in ";&|" or letter.isspace() else None if letter in "()<>" else False
        return letter

    def _pair(self) -> str:
        pair = self._consume(2)
        if pair[1:] in ("", "\n"):
            raise InvalidValueError("line-continuation", "a line of it ends with a backslash")
        return pair

    def _literal(self) -> str:
        """Rewrite a single-quoted string: close the quotes before an address and reopen them after it."""
        matched = self._matched(_LITERAL)
        if not matched:
            raise InvalidValueError("unclosed-quote", "it has an unclosed quote")
        return '"$1"'.join(f"'{part}'" if part else "" for part in matched[1:-1].split(PLACEHOLDER)) or "''"

    def _expansion(self) -> str:
        """Rewrite an expansion with `$` or backticks; return nothing for a literal `$`."""
        if matched := self._matched(_EXPANSION):
            if PLACEHOLDER in matched and not (matched.startswith("`") and "IFS" not in self._script):
                raise InvalidValueError("address-in-expansion", "the address is within an expansion")
            return matched.replace(PLACEHOLDER, "${1}")
        if self._next_is("$(") and not self._next_is("$(("):
            self._open.append("$(")
            self._begins_word = None
            return self._consume(2)
        behind = self._script[self._at + 1 : self._at + 2]
        is_literal = behind in ("", " ", "\t", "\n") or (behind in "\"'/.:,;)=%" and not self._is_special(behind))
        if self._next_is("`") or (self._next_is("$") and not is_literal):
            raise InvalidValueError("unknown-word", f"{self._script[self._at : self._at + 12]!r} is not understood")
        return ""

    def _is_special(self, behind: str) -> bool:
        """Return whether a `$` and the character after it form an expansion."""
        is_quoted = self._open[-1:] == ['"']
        return self._script.startswith(PLACEHOLDER, self._at + 1) or (behind in "\"'" and not is_quoted)
