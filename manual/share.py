"""The files that a package installs below share/: manual pages and shell completions."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import shtab

from doorward.cli.completion import script
from manual.pages import pages

DOCS = Path(__file__).parent.parent / "docs"
COMPLETIONS = {
    "bash": "bash-completion/completions/doorward",
    "zsh": "zsh/site-functions/_doorward",
    "fish": "fish/vendor_completions.d/doorward.fish",
}


def use_standard_directories() -> None:
    """Have the options' help name the usual directories."""
    for name in ("CONFIGURATION_DIRECTORY", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"):
        os.environ.pop(name, None)


def files() -> dict[str, str]:
    """Make each file's text, by its path below share/; pages are dated by SOURCE_DATE_EPOCH where it is set."""
    use_standard_directories()
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    date = (datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)).date().isoformat()
    made = pages((DOCS / "configuration.md").read_text(encoding="utf-8"))
    manual = {f"man/man{page.section}/{page.name}.{page.section}": page.roff(date) for page in made}
    supported = COMPLETIONS.keys() & shtab.SUPPORTED_SHELLS  # an old shtab has no fish
    return manual | {COMPLETIONS[shell]: script(shell) for shell in supported}


def write(directory: Path) -> None:
    """Write the files into a directory."""
    for name, text in files().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
