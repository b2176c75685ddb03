"""doorward.toml, up to the ruleset that nft takes."""

from __future__ import annotations

from doorward.config.files import decode_text
from doorward.config.toml import parse
from doorward.config.toml_positions import find_lines
from doorward.daemon.ruleset_loader import compile_configuration
from doorward.errors import ConfigError
from doorward.lint.checks import warnings
from fuzz import faults

MEMORY = 1 << 30


def one(data: bytes) -> None:
    """Read and compile a file: faults have a line and a remedy, and no text of the file breaks out of the ruleset."""
    try:
        text = decode_text(data, "f")
        configuration = parse(text, "f")
    except ConfigError as error:
        faults.check(error, data)
        return
    lines = find_lines(text)
    for finding in warnings(configuration, lines):
        assert 1 <= finding.line <= text.count("\n") + 1
    ruleset = compile_configuration(configuration, MEMORY).full_text()
    assert all(line.count('"') % 2 == 0 for line in ruleset.splitlines())
    assert ruleset.isprintable() or set(filter(lambda letter: not letter.isprintable(), ruleset)) <= {"\n", "\t"}
