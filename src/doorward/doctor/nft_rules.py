"""nft's JSON list of a ruleset (libnftables-json(5)) as tables of rules to walk through."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from doorward.doctor.nft_match import Sets, address_of, element_test, mark_change, match_test
from doorward.doctor.walk import Base, Choice, Helper, Match, Rule, SetMark, Step, Table, Verdict

VERSIONS = {"ip": (4,), "ip6": (6,), "inet": (4, 6), "netdev": (4, 6)}  # not arp, not bridge: no packet to a port
_SILENT = {"counter", "log", "comment", "ct helper", "ct timeout", "set", "notrack", "flow", "dup", "last", "map"}
_TABLE = re.compile(r"table (\w+) (\S+) \{")
_CHAIN = re.compile(r"\s+chain (\S+) \{")
_RULE = re.compile(r"\s+(.*) # handle (\d+)")

Texts = Mapping[tuple[str, str, str, int], str]  # family, table, chain, handle


def rule_texts(listing: str) -> Texts:
    """Read what `nft -a list` prints: each rule as its author wrote it, by its handle."""
    texts: dict[tuple[str, str, str, int], str] = {}
    family = table = chain = ""
    for line in listing.splitlines():
        if found := _TABLE.match(line):
            family, table, chain = found[1], found[2], ""
        elif found := _CHAIN.match(line):
            chain = found[1]
        elif chain and (found := _RULE.fullmatch(line)):
            texts[family, table, chain, int(found[2])] = found[1]
    return texts


def parse(document: Mapping[str, Any], texts: Texts) -> list[Table]:
    """Read the tables of one or several lists; what is not understood becomes a match that nobody can tell."""
    sets: dict[tuple[str, str], dict[str, list[Any]]] = {}
    helpers: dict[tuple[str, str, str], str] = {}  # family, table, the object's name: the helper's
    bases: dict[tuple[str, str], list[Base]] = {}
    chains: dict[tuple[str, str], dict[str, list[Rule]]] = {}
    for kind, thing in _things(document):
        key = thing["family"], thing.get("table", thing["name"] if kind == "table" else "")
        if key[0] not in VERSIONS:
            continue
        if kind == "ct helper":
            helpers[*key, thing["name"]] = thing["type"]
        elif kind in ("set", "map"):
            sets.setdefault(key, {})[thing["name"]] = thing.get("elem", [])
        elif kind == "chain":
            chains.setdefault(key, {}).setdefault(thing["name"], [])
            if "hook" in thing:
                bases.setdefault(key, []).append(_base(thing))
    for kind, thing in _things(document):
        if kind == "rule" and (key := (thing["family"], thing["table"])) in chains:
            text = texts.get((*key, thing["chain"], thing["handle"]), f"handle {thing['handle']}")
            name = f"{' '.join(key)}, chain {thing['chain']}: {text}"
            steps = (*_steps(thing["expr"], sets.get(key, {})), *_helpers(thing, helpers))
            chains[key].setdefault(thing["chain"], []).append(Rule(steps, name))
    return [
        Table(
            "nft",
            " ".join(key),
            VERSIONS[key[0]],
            tuple(bases.get(key, ())),
            {name: tuple(rules) for name, rules in held.items()},
        )
        for key, held in chains.items()
    ]


def _helpers(rule: Mapping[str, Any], helpers: Mapping[tuple[str, str, str], str]) -> Iterator[Helper]:
    """Read the helpers that a rule assigns by an object of its table."""
    where = f"{rule['family']} {rule['table']} {rule['chain']} handle {rule['handle']}"
    for statement in rule["expr"]:
        if isinstance(statement, dict) and isinstance(name := statement.get("ct helper"), str):
            helper = helpers.get((rule["family"], rule["table"], name), name)
            yield Helper(helper, f"nft delete rule {where}")


def _things(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in document["nftables"]:
        for kind, thing in item.items():
            if kind != "metainfo":
                yield kind, thing


def _base(chain: Mapping[str, Any]) -> Base:
    devices = chain.get("dev", ())
    return Base(
        chain["name"],
        chain["hook"],
        chain["prio"],
        chain.get("policy", "accept") == "accept",
        (devices,) if isinstance(devices, str) else tuple(devices),
    )


def _steps(statements: list[Any], sets: Sets) -> Iterator[Step]:
    for statement in statements:
        try:
            ((kind, inner),) = statement.items()
            yield from _step(kind, inner, sets)
        except (AttributeError, KeyError, TypeError, ValueError):  # not as libnftables-json(5) describes it
            yield Match(lambda _: None)


def _step(kind: str, inner: Any, sets: Sets) -> Iterator[Step]:
    if kind == "match":
        yield Match(match_test(inner, sets))
    elif kind == "vmap":
        yield _choice(inner, sets)
    elif kind == "mangle":
        if inner["key"] == {"meta": {"key": "mark"}}:
            yield SetMark(mark_change(inner["value"]))
    elif kind == "limit":
        if inner.get("inv"):  # over the rate: a single packet is not
            yield Match(lambda _: False)
    elif kind == "xt":
        yield Match(lambda _: None)
    elif verdict := verdict_of(kind, inner):
        yield verdict
    elif kind not in _SILENT:
        yield Match(lambda _: None)


def verdict_of(kind: str, inner: Any) -> Verdict | None:
    """Read a statement that says what becomes of the packet."""
    if kind in ("accept", "drop", "return"):
        return Verdict(kind)
    if kind in ("jump", "goto"):
        return Verdict(kind, str(inner["target"]))
    if kind in ("reject", "synproxy", "tproxy"):
        return Verdict("drop" if kind == "reject" else "queue")
    if kind == "queue":
        return Verdict("queue")
    if kind in ("dnat", "redirect"):
        given = inner or {}
        port = given.get("port")
        return Verdict("dnat", "", address_of(given.get("addr")), port if isinstance(port, int) else None)
    if kind in ("snat", "masquerade"):
        return Verdict("accept")
    return None


def _choice(vmap: Mapping[str, Any], sets: Sets) -> Step:
    """Read a verdict map, written in the rule or named."""
    key, data = vmap["key"], vmap["data"]
    elements = sets.get(data.removeprefix("@")) if isinstance(data, str) else data.get("set")
    if elements is None:
        return Match(lambda _: None)
    options = []
    for element, written in elements:
        (kind, inner), *_ = written.items()
        if verdict := verdict_of(kind, inner):
            options.append((element_test(key, element, sets), verdict))
    return Choice(tuple(options))
