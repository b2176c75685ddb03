"""The parser without argparse gives what argparse gives, or leaves the command line to it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.cli.main import build_parser, load
from doorward.cli.plain_parser import PlainParser

OPTIONS = (
    *("-4", "-6", "-v", "--verbose", "--dump", "--json", "--sequence", "--wait", "--timeout", "--delay", "--door"),
    *("--server-key", "--signed-port", "--identity", "--certificate", "--from", "--gate", "--for"),
)
WORDS = st.sampled_from(
    [*OPTIONS, "--", "-", "-h", "--ver", "--wait=22", "-4v", "-1", "", "home", "ssh", "22", "7000", "8000/udp", "1ms"]
)


def plain(command: str, words: Sequence[str]) -> dict[str, object] | None:
    parser = PlainParser()
    load(command).add_arguments(parser)  # type: ignore[arg-type]
    parsed = parser.parse(list(words))
    return None if parsed is None else vars(parsed)


@pytest.mark.parametrize("command", ["knock", "proxy"])
@given(words=st.lists(WORDS, max_size=8))
def test_same_as_argparse(command: str, words: list[str]) -> None:
    if (parsed := plain(command, words)) is not None:
        assert parsed == vars(build_parser(command).parse_intermixed_args(words))


@pytest.mark.parametrize(
    "words",
    [
        ["home"],
        ["home", "ssh", "--wait", "22"],
        ["192.0.2.7", "7000", "8000/udp", "9000", "--delay", "1ms"],
        ["-4", "home", "-v", "ssh", "--identity", "id", "--server-key", "x25519:A"],
    ],
)
def test_usual_lines_are_plain(words: list[str]) -> None:
    assert plain("knock", words) is not None


@pytest.mark.parametrize(
    "words", [[], ["-h"], ["home", "--wait"], ["home", "--wait=22"], ["home", "-4", "-6"], ["home", "--", "ssh"]]
)
def test_others_are_left_to_argparse(words: list[str]) -> None:
    assert plain("knock", words) is None
