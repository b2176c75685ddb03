"""Other firewalls' rules, as iptables-save and nft print them: what is not understood is a "may", never a traceback."""

from __future__ import annotations

import json
from contextlib import suppress
from ipaddress import ip_address

from doorward.doctor import iptables_rules, nft_rules
from doorward.doctor.walk import Probe, Table, TooLargeError, outcomes_of
from doorward.model import Port

PROBES = [
    Probe(Port.parse("22/tcp"), "eth0", source, ip_address("192.0.2.1"), 4, state=state)
    for source in (None, ip_address("198.51.100.9"))
    for state in ("new", "established")
]


def one(data: bytes) -> None:
    """Read the bytes as iptables-save's text and as the statements of an nft rule, and walk packets through them."""
    text = data.decode(errors="replace")
    _walk(iptables_rules.parse(text, "iptables-nft"))
    nft_rules.rule_texts(text)
    with suppress(ValueError, RecursionError):
        statements = json.loads(text)
        if isinstance(statements, list):
            _walk(nft_rules.parse(_document(statements), {}))


def _document(statements: list[object]) -> dict[str, object]:
    """Give what nft lists of a table with one rule: its form is nft's, only what the rule says is its author's."""
    at = {"family": "ip", "table": "filter"}
    chain = {**at, "name": "input", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}
    rule = {**at, "chain": "input", "handle": 2, "expr": statements}
    return {"nftables": [{"table": {"family": "ip", "name": "filter"}}, {"chain": chain}, {"rule": rule}]}


def _walk(tables: list[Table]) -> None:
    for table in tables:
        for base in table.bases:
            for probe in PROBES:
                with suppress(TooLargeError):
                    outcomes_of(table, base, probe)
