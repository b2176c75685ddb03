"""One target under atheris (libFuzzer), in a process of its own: `python -m fuzz.engine TARGET [its words]`."""

from __future__ import annotations

import sys
from importlib import import_module

import atheris

LIBRARIES = ("tomllib", "shlex")  # of Python's own, those that read foreign text


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    target = sys.argv.pop(1)
    atheris.enabled_hooks.add("str")  # guides the search into what is compared; "RegEx" breaks Pattern.match(text, at)
    with atheris.instrument_imports(include=["doorward", "fuzz", *LIBRARIES]):
        for library in LIBRARIES:  # now, since some are imported where they are used
            import_module(library)
        one = import_module(f"fuzz.{target}").one
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
