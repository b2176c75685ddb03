"""What iptables-save prints, of iptables-nft and of iptables-legacy, as tables of rules to walk through."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import NamedTuple

from doorward.doctor.walk import Base, Helper, Match, Probe, Rule, SetMark, Step, Table, Test, Verdict
from doorward.model import TCP_FLAGS

# Table: chain to priority (NF_IP_PRI_*), as ip_tables registers them.
_PRIORITIES = {
    "raw": {"PREROUTING": -300},
    "mangle": {"PREROUTING": -150, "INPUT": -150, "FORWARD": -150},
    "nat": {"PREROUTING": -100, "INPUT": 100},
    "filter": {"INPUT": 0, "FORWARD": 0},
    "security": {"INPUT": 50, "FORWARD": 50},
}
_ENDS = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "drop", "RETURN": "return", "QUEUE": "queue", "NFQUEUE": "queue"}
# Targets after which the packet meets the next rule.
_GOES_ON = {
    "LOG", "NFLOG", "ULOG", "TRACE", "CT", "NOTRACK", "TCPMSS", "DSCP", "TOS", "CLASSIFY", "SET", "AUDIT", "TEE",
    "CHECKSUM", "RATEEST", "SECMARK", "CONNSECMARK", "ECN", "TTL", "HL",
}  # fmt: skip
# Matches of headers that a plain packet has not.
_NOT_THERE = {"--icmp-type", "--icmpv6-type", "--rt-type", "--fragmore", "--ahspi", "--espspi"}
_SOURCES = {"--sport", "--sports", "--source-port", "--source-ports", "--src-range", "--mac-source", "--src-type"}
# Options that say how often or what to print: they never decide on one packet that comes alone.
_IGNORED = {
    "--comment", "--limit", "--limit-burst", "--reject-with", "--log-prefix", "--log-level", "--nflog-group",
    "--nflog-prefix", "--validmark", "--loose", "--accept-local",
}  # fmt: skip
# Modules that decide by their options alone; any other is a condition by itself.
_MODULES = {
    "tcp", "udp", "icmp", "icmp6", "conntrack", "state", "mark", "connmark", "multiport", "comment", "limit", "set",
    "addrtype", "iprange", "pkttype", "rt", "ah", "esp", "rpfilter", "recent", "hashlimit", "mac",
}  # fmt: skip


class _Option(NamedTuple):
    name: str
    words: tuple[str, ...]
    is_negated: bool


def parse(text: str, program: str) -> list[Table]:
    """Read every table; `program` is the one that printed the text, such as `iptables-nft`."""
    version = 6 if program.startswith("ip6") else 4
    tables: list[Table] = []
    name, bases, chains = "", list[Base](), dict[str, list[Rule]]()
    for line in text.splitlines():
        if line.startswith("*"):
            name, bases, chains = line[1:].strip(), [], {}
        elif line.startswith(":"):
            chain, _, policy = line[1:].partition(" ")
            chains[chain] = []
            if (priority := _PRIORITIES.get(name, {}).get(chain)) is not None:
                bases.append(Base(chain, chain.lower(), priority, not policy.startswith("DROP")))
        elif line.startswith("-A "):
            chain = line[3:].partition(" ")[0]
            steps = (*_understood(line), *_helpers(line, f"{program} -t {name}"))
            chains.setdefault(chain, []).append(Rule(steps, f"{program} -t {name}: {line}"))
        elif line.startswith("COMMIT") and name in _PRIORITIES:
            held = {chain: tuple(rules) for chain, rules in chains.items()}
            tables.append(Table(program, f"{program} -t {name}", (version,), tuple(bases), held))
    return tables


def _understood(line: str) -> tuple[Step, ...]:
    try:
        return tuple(_steps(list(_options(shlex.split(line)[2:]))))
    except (ValueError, IndexError):  # an extension's own way of writing
        return (Match(lambda _: None),)


def _helpers(line: str, table: str) -> Iterator[Helper]:
    """Read the conntrack helper that a rule with the target CT assigns."""
    words = line.split()
    for word, value in pairwise(words):
        if word == "--helper" and "CT" in words:  # the match `helper` has the same option, and assigns nothing
            yield Helper(value.strip('"'), f"{table} -D {line.removeprefix('-A ')}")


def _options(words: list[str]) -> Iterator[_Option]:
    """Split a rule into its options; iptables-save writes `!` before the option that it negates."""
    negated, at = False, 0
    while at < len(words):
        if words[at] == "!":
            negated, at = True, at + 1
            continue
        end = at + 1
        while end < len(words) and words[end] != "!" and not _is_option(words[end]):
            end += 1
        yield _Option(words[at], tuple(words[at + 1 : end]), negated)
        negated, at = False, end


def _is_option(word: str) -> bool:
    return word.startswith("-") and not word[1:2].isdigit() and len(word) > 1


def _steps(options: list[_Option]) -> Iterator[Step]:
    target = next((option for option in options if option.name in ("-j", "-g")), None)
    after = options.index(target) + 1 if target else len(options)
    for option in options[: after - 1] if target else options:
        if option.name not in _IGNORED and not (option.name == "-m" and set(option.words) <= _MODULES):
            yield Match(_test(option))
    if target is not None:
        yield from _target(target, {option.name: option.words for option in options[after:]})


def _target(target: _Option, given: dict[str, tuple[str, ...]]) -> Iterator[Step]:
    word = target.words[0]
    if word in _ENDS:
        yield Verdict(_ENDS[word])
    elif word in ("DNAT", "REDIRECT"):
        yield _destination((given.get("--to-destination") or given.get("--to-ports") or ("",))[0], word)
    elif word in ("SNAT", "MASQUERADE"):
        yield Verdict("accept")
    elif word == "MARK":
        yield SetMark(_mark_change(given))
    elif word == "CONNMARK":
        if "--restore-mark" in given:
            yield SetMark(lambda probe: _restored(probe, given))
    elif word not in _GOES_ON:
        yield Verdict("goto" if target.name == "-g" else "jump", word)


def _destination(written: str, word: str) -> Verdict:
    """Read `ADDRESS:PORT`, `[ADDRESS]:PORT`, either alone, or for REDIRECT a port."""
    if word == "REDIRECT":
        return Verdict("dnat", "", None, int(written) if written.isdecimal() else None)
    host, _, port = written.rpartition(":") if written.count(":") == 1 or "]:" in written else (written, "", "")
    try:
        return Verdict("dnat", "", ip_address(host.strip("[]")), int(port) if port.isdecimal() else None)
    except ValueError:  # a range
        return Verdict("queue")


def _mark_change(given: dict[str, tuple[str, ...]]) -> Callable[[Probe], int | None]:
    for name, words in given.items():
        value, mask = _masked(words[0] if words else "")
        if name in ("--set-xmark", "--set-mark"):
            keep = 0xFFFF_FFFF & ~(mask | value if name == "--set-mark" else mask)
            flips = name == "--set-xmark"
            return lambda probe: (
                None if probe.mark is None else probe.mark & keep ^ value if flips else (probe.mark & keep | value)
            )
    return lambda _: None


def _restored(probe: Probe, given: dict[str, tuple[str, ...]]) -> int | None:
    """Give the mark after CONNMARK --restore-mark: a new connection has none to restore."""
    if probe.mark is None or probe.state != "new":
        return None
    mask = int((given.get("--nfmask") or ("0xffffffff",))[0], 0)
    return probe.mark & ~mask


def _masked(word: str) -> tuple[int, int]:
    value, _, mask = word.partition("/")
    try:
        return int(value, 0), int(mask, 0) if mask else 0xFFFF_FFFF
    except ValueError:
        return 0, 0xFFFF_FFFF


def _test(option: _Option) -> Test:
    """Give the test of one option; one that is not understood is one that nobody can tell."""
    plain = _plain_test(option.name, option.words)

    def test(probe: Probe) -> bool | None:
        result = plain(probe)
        return result if result is None else result != option.is_negated

    return test


def _plain_test(name: str, words: tuple[str, ...]) -> Test:
    word = words[0] if words else ""
    tests: dict[str, Test] = {
        "-i": lambda probe: _is_interface(probe.iif, word),
        "-o": lambda probe: None if probe.oif is None else _is_interface(probe.oif, word),
        "-p": lambda probe: _is_protocol(probe, word),
        "-s": lambda probe: _is_within(probe.source, word),
        "-d": lambda probe: _is_within(probe.destination, word),
        "--dst-type": lambda probe: ("LOCAL" if probe.is_local else "UNICAST") in word.upper().split(","),
        "--mark": lambda probe: None if probe.mark is None else probe.mark & _masked(word)[1] == _masked(word)[0],
        "--ctstate": lambda probe: _is_state(probe, word),
        "--state": lambda probe: _is_state(probe, word),
        "--ctdir": lambda _: word == "ORIGINAL",
        "--ctorigdstport": lambda probe: _is_port(probe.translated_from or probe.port.number, word),
        "--tcp-flags": lambda probe: _flags(probe, words),
        "--invert": lambda _: False,  # of rpfilter: there is a way back to the sender
        "--pkt-type": lambda _: word == "unicast",
    }
    if name in ("--dport", "--dports", "--destination-port", "--destination-ports"):
        return lambda probe: _is_one_of(probe.port.number, word.split(","))
    if name == "--match-set" and words[1:2] == ("src",):  # somebody's list of addresses
        return lambda probe: False if probe.source is None else None
    if name in _NOT_THERE:
        return lambda _: False
    if name in _SOURCES:
        return lambda _: None
    return tests.get(name, lambda _: None)


def _is_interface(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern


def _is_protocol(probe: Probe, word: str) -> bool:
    return word.lower() in (probe.port.protocol.name.lower(), str(int(probe.port.protocol)), "all")


def _is_within(address: object, word: str) -> bool | None:
    try:
        network = ip_network(word, strict=False)
    except ValueError:
        return None
    return network.prefixlen == 0 if address is None else address in network


def _is_port(number: int, word: str) -> bool | None:
    low, colon, high = word.partition(":")
    try:
        return int(low or 0) <= number <= int((high or 65535) if colon else low)
    except ValueError:
        return None


def _is_one_of(number: int, words: list[str]) -> bool | None:
    results = [_is_port(number, word) for word in words]
    return True if True in results else None if None in results else False


def _is_state(probe: Probe, word: str) -> bool:
    states = word.upper().split(",")
    return probe.state.upper() in states or ("DNAT" in states and probe.translated_from is not None)


def _flags(probe: Probe, words: tuple[str, ...]) -> bool | None:
    if len(words) != 2:
        return None
    mask, wanted = (
        sum(TCP_FLAGS.get(flag.lower(), 0) for flag in part.replace("ALL", "FIN,SYN,RST,PSH,ACK,URG").split(","))
        for part in words
    )
    return TCP_FLAGS["syn" if probe.state == "new" else "ack"] & mask == wanted
