"""Parsing of nft's listings."""

from __future__ import annotations

from pathlib import Path

from doorward.nftables.libnftables import read_elements

LISTED = Path(__file__).parents[3] / "fuzz" / "corpus" / "nft_output"


def test_protocol_numbers_are_parsed_without_names() -> None:
    """A minimal host has no /etc/protocols, where nft looks them up."""
    named = (LISTED / "both").read_text()
    elements = read_elements(named)
    assert {str(element.port) for element in elements} == {"22/tcp", "53/udp"}
    assert read_elements(named.replace(" tcp ", " 6 ").replace(" udp ", " 17 ")) == elements
