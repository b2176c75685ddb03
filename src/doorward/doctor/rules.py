"""Parse the text of a ruleset: its rules, and which of them depend on state that a copy lacks. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from doorward.model import Address

_CHAIN = re.compile(r"\tchain (\S+) \{")
_RULE = re.compile(r"\t\t(.*) # handle (\d+)")
_QUOTED = re.compile(r'"[^"]*"')
_HANDLE = re.compile(r" # handle \d+$")
_PASSING = re.compile(r"elements = \{[^}]*\bexpires\b[^}]*\}")  # elements with a timeout
_COUNTS = re.compile(r"^(:\S+ \S+) \[.*|^#.*")
_LINE_OF_NFT = re.compile(r"^/[^:\n]+:(\d+):\d+", re.MULTILINE)
_LINE_OF_IPTABLES = re.compile(r"line:? (\d+)")
_OUTWARD = {
    "nft": re.compile(r"\tchain (\S+) \{[^\n]*\n\t\ttype \w+ hook (?:output|postrouting|egress) "),
    "iptables": re.compile(r"^:(OUTPUT|POSTROUTING) ", re.MULTILINE),
}
MAX_TEXT = 500  # characters shown of a rule
# What depends on something that only the host has: processes, sockets, MAC addresses, other programs, randomness.
_NEEDS_HOST = {
    "nft": re.compile(
        r"\b(?:skuid|skgid|cgroup|rtclassid|[io]if(?:kind|type|group)|sdif(?:name)?|[io]?ibr\w+|random|socket|flow add"
        r"|xt (?:match|target)|queue|synproxy|tproxy|osf|numgen|ipsec|tunnel|ether [sd]addr)\b"
    ),
    "iptables": re.compile(
        r"-m (?:owner|socket|physdev|mac|cgroup|bpf|policy|statistic|devgroup|realm|cluster|osf|set|nfacct)\b"
        r"|-j (?:NFQUEUE|QUEUE|TPROXY|SYNPROXY|SET|TEE|IDLETIMER)\b"
    ),
}
_TRANSLATES = re.compile(r"\bdnat\b", re.IGNORECASE)
_HELPER_OBJECT = re.compile(r'\tct helper (\S+) \{[^\n]*\n\t\ttype "([^"\n]*)"')
_HELPER = {
    "nft": re.compile(r'\bct helper set "([^"]*)"'),
    # The match `helper` has the same option but assigns nothing.
    "iptables": re.compile(r'-j CT .*--helper "?([^ "]+)'),
}
_RATE = {
    "nft": re.compile(r"\b(?:limit rate|quota|ct count|update @|add @|meter)\b"),
    "iptables": re.compile(r"-m (?:limit|hashlimit|recent|connlimit|quota)\b"),
}


class Helper(NamedTuple):
    """A rule that assigns a conntrack helper, such as ftp; `removal` is the command that deletes the rule."""

    rule: str
    name: str
    removal: str


@dataclass(frozen=True)
class ForeignRuleset:
    """One table; `owner` is the program that printed it: nft, iptables-nft, ip6tables-legacy and so on."""

    owner: str
    family: str
    table: str
    text: str

    @property
    def name(self) -> str:
        """Return the table's name in its program's notation."""
        return f"{self.family} {self.table}" if self.owner == "nft" else f"{self.owner} -t {self.table}"

    @property
    def is_legacy(self) -> bool:
        """Return whether the host has it outside of nf_tables."""
        return self.owner.endswith("-legacy")

    @property
    def versions(self) -> tuple[int, ...]:
        """Return the IP versions of the packets that it sees."""
        return {"ip": (4,), "ip6": (6,)}.get(self.family, (4, 6))

    @cached_property
    def chains(self) -> dict[str, list[tuple[int, str]]]:
        """Return each chain's rules in order, with their handles."""
        return parse_chains(self.owner, self.text)

    @cached_property
    def has_rates(self) -> bool:
        """Return whether a rule may treat the second packet differently from the first."""
        return bool(_RATE[self._language].search(self.text))

    def may_forward_to(self, address: Address) -> bool:
        """Return whether the table may translate destinations to this address."""
        named = re.search(rf"(?<![\w.:]){re.escape(str(address))}(?![\w.])", self.text)
        return named is not None and bool(_TRANSLATES.search(self.text))

    def uncheckable_rules(self) -> Iterator[tuple[str, bool]]:
        """Yield the rules that depend on state that only the host has; True if they see only outgoing packets."""
        outward = set(_OUTWARD[self._language].findall(self.text))
        for chain, rules in self.chains.items():
            for _, text in rules:
                if _NEEDS_HOST[self._language].search(_QUOTED.sub("", text)):
                    yield self.describe_rule(chain, text), chain in outward

    def helpers(self) -> Iterator[Helper]:
        """Yield the rules that assign a conntrack helper."""
        objects: dict[str, str] = dict(_HELPER_OBJECT.findall(self.text))
        for chain, rules in self.chains.items():
            for handle, text in rules:
                helper = _HELPER[self._language].search(text)
                if helper and self.owner == "nft":
                    removal = f"nft delete rule {self.name} {chain} handle {handle}"
                    yield Helper(self.describe_rule(chain, text), objects.get(str(helper[1]), str(helper[1])), removal)
                elif helper:
                    yield Helper(
                        self.describe_rule(chain, text), helper[1], f"{self.name} -D {text.removeprefix('-A ')}"
                    )

    def describe_rule(self, chain: str, text: str) -> str:
        """Return a rule's text with its location."""
        return f"{self.name}, chain {chain}: {text}" if self.owner == "nft" else f"{self.name}: {text}"

    @property
    def _language(self) -> str:
        return "nft" if self.owner == "nft" else "iptables"


def parse_chains(owner: str, text: str) -> dict[str, list[tuple[int, str]]]:
    """Return the rules of `nft -a list` or of iptables-save, which prints no handles."""
    chains: dict[str, list[tuple[int, str]]] = {}
    rules: list[tuple[int, str]] = []
    for line in text.splitlines():
        if owner == "nft":
            if match := _CHAIN.match(line):
                rules = chains.setdefault(match[1], [])
            elif match := _RULE.fullmatch(line):
                rules.append((int(match[2]), match[1]))
            elif line == "\t}":
                rules = []
        elif line.startswith("-A "):
            chains.setdefault(line[3:].partition(" ")[0], []).append((0, line))
        elif line.startswith(":"):
            chains.setdefault(line[1:].partition(" ")[0], [])
    return chains


def first_difference(ruleset: ForeignRuleset, copy: str) -> str | None:
    """Compare a ruleset with its copy; return the first line that differs, None if they are equal."""
    ours, theirs = _comparable(ruleset.text), _comparable(copy)
    if ours == theirs:
        return None
    return next((line for line, other in zip(ours, [*theirs, *[""] * len(ours)], strict=False) if line != other), "")


def _comparable(text: str) -> list[str]:
    lines = _PASSING.sub("", text).splitlines()
    return [_COUNTS.sub(r"\1", _HANDLE.sub("", line)).strip() for line in lines if not line.startswith("#")]


def rejected_line(text: str, message: str) -> str:
    """Return the line that nft or iptables-restore rejected; if it named none, its message."""
    match = _LINE_OF_NFT.search(message) or _LINE_OF_IPTABLES.search(message)
    lines = text.splitlines()
    if match and 0 < int(match[1]) <= len(lines):
        return _HANDLE.sub("", lines[int(match[1]) - 1]).strip()[:MAX_TEXT]
    return (message.strip().splitlines() or ["rejected"])[0][:MAX_TEXT]
