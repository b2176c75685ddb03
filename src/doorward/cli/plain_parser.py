"""Parse plain command lines without argparse, whose import takes longer than sending a knock.

The grammar is argparse's own: this parser receives the same declarations, and leaves everything but whole option names,
each at most once, and their separate values to argparse, errors and help included.
"""

from __future__ import annotations

from types import SimpleNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DECLARED = {"action", "const", "default", "dest", "help", "metavar", "nargs"}


class PlainParser:
    """Records the declarations of a command's arguments."""

    def __init__(self) -> None:
        self._defaults: dict[str, Any] = {}
        self._options: dict[str, tuple[str, Any]] = {}  # the attribute, and the constant of an option without value
        self._positionals: list[str] = []
        self._list: str | None = None  # the positional that takes all others
        self._is_plain = True

    def add_argument(self, *names: str, **declared: Any) -> None:
        """Declare an argument as argparse has it."""
        action, nargs = declared.get("action"), declared.get("nargs")
        if not names[0].startswith("-"):
            self._is_plain &= (
                declared.keys() <= {"default", "help", "metavar", "nargs"} and nargs in (None, "*") and not self._list
            )
            if nargs:
                self._list = names[0]
            else:
                self._positionals.append(names[0])
            return
        self._is_plain &= declared.keys() <= _DECLARED and not nargs and action in (None, "store_true", "store_const")
        long_name = next((name for name in names if name.startswith("--")), names[0])
        attribute = declared.get("dest") or long_name.lstrip("-").replace("-", "_")
        default = False if action == "store_true" else None
        self._defaults.setdefault(attribute, declared.get("default", default))
        constant = True if action == "store_true" else declared.get("const")
        self._options |= dict.fromkeys(names, (attribute, constant))

    def add_argument_group(self, *_: object) -> PlainParser:
        """Return a group, which matters to help alone."""
        return self

    def add_mutually_exclusive_group(self) -> PlainParser:
        """Return a group of options with one attribute, of which the second one is not plain."""
        return self

    def parse(self, words: list[str]) -> SimpleNamespace | None:
        """Return what argparse would; None if that is for argparse to find out."""
        values: dict[str, Any] = {}
        positionals = []
        rest = iter(words)
        for word in rest:
            if not word.startswith("-"):
                positionals.append(word)
                continue
            attribute, value = self._options.get(word, ("", None))
            if value is None:
                value = next(rest, "-")
                if value.startswith("-"):
                    return None
            if not attribute or attribute in values:
                return None
            values[attribute] = value
        named = len(self._positionals)
        if not self._is_plain or len(positionals) < named or (len(positionals) > named and not self._list):
            return None
        if self._list:
            values[self._list] = positionals[named:]
        return SimpleNamespace(**self._defaults | dict(zip(self._positionals, positionals, strict=False)) | values)
