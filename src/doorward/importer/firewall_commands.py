"""Parse iptables, ip6tables and ufw commands that open or close ports for `%IP%`, with options in any order.

A command becomes a ParsedRule only if every word is understood: an unknown word may be what keeps others out.
`firewall_languages` parses firewalld and nft.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from typing import NamedTuple

from doorward.importer import firewall_languages as languages
from doorward.importer.firewall_ports import (
    PROTOCOLS,
    NotUnderstoodError,
    ParsedRule,
    Service,
    build_rule,
    is_source,
    parse_ports,
)

_SEPARATORS = {";", "&&"}
_SHELL = re.compile(r"[|<>()&;]+")
_RELOADS = ("--reload", "reload")


class ParsedCommand(NamedTuple):
    """The result of parsing a command: `rule`, or `why` it is None."""

    rule: ParsedRule | None
    why: str = ""


def parse_command(command: str, service: Service) -> ParsedCommand:
    """Parse a whole command line; `service` looks ports up by name, as in services(5)."""
    try:
        rules = [rule for words in _simple_commands(command) if (rule := _rule(words, service)) is not None]
    except NotUnderstoodError as error:
        return ParsedCommand(None, str(error))
    if not rules:
        return ParsedCommand(None, "it is empty")
    if len({rule.opens for rule in rules}) > 1:
        return ParsedCommand(None, "it opens and closes at once")
    return ParsedCommand(_union(rules))


def reverts(command: str, opening: ParsedRule, service: Service) -> bool:
    """Return whether a command reverts `opening`: it closes the same ports, or deletes an nft rule by its handle."""
    rule = parse_command(command, service).rule
    if rule is not None:
        return not rule.opens and rule.tool == opening.tool and set(rule.ports) == set(opening.ports)
    return opening.tool == "nft" and re.match(r"(sudo\s+)?(/\S*/)?nft\s+delete\s+rule\s", command) is not None


def _simple_commands(command: str) -> list[list[str]]:
    """Split at `;` and `&&`; any other shell syntax is not understood."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|<>()&;")
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError:
        raise NotUnderstoodError("unclosed-quote", "it has an unclosed quote") from None
    commands: list[list[str]] = [[]]
    for word in words:
        if word in _SEPARATORS:
            commands.append([])
        elif _SHELL.fullmatch(word) or word.startswith("#") or set(word) & set("$`\n"):
            raise NotUnderstoodError("uses-shell", f"it uses the shell ({word[:20]!r})")
        else:
            commands[-1].append(word)
    return [words for words in commands if words]


def _rule(words: list[str], service: Service) -> ParsedRule | None:
    """Parse one simple command; None if it changes nothing by itself."""
    if words[0].rpartition("/")[2] == "sudo":
        words = words[1:]
    program = words[0].rpartition("/")[2] if words else ""
    tool = re.sub(r"-(legacy|nft)$", "", program)
    parse = _TOOLS.get(tool)
    if parse is None:
        raise NotUnderstoodError("unknown-command", f"unknown firewall command {program or 'sudo'!r}")
    if tool in ("ufw", "firewall-cmd") and words[1:] and words[1] in _RELOADS:
        return None
    return parse(tool, words[1:], service)


def _union(rules: Sequence[ParsedRule]) -> ParsedRule:
    ports = tuple(dict.fromkeys(port for rule in rules for port in rule.ports))
    remarks = tuple(dict.fromkeys(remark for rule in rules for remark in rule.remarks))
    times = [rule.for_s for rule in rules if rule.for_s is not None]
    return ParsedRule(rules[0].opens, rules[0].tool, ports, max(times, default=None), remarks)


# iptables and ip6tables -----------------------------------------------------------------------------------------

_LONG = {
    "--append": "-A",
    "--insert": "-I",
    "--delete": "-D",
    "--source": "-s",
    "--src": "-s",
    "--protocol": "-p",
    "--proto": "-p",
    "--match": "-m",
    "--jump": "-j",
    "--table": "-t",
    "--wait": "-w",
    "--in-interface": "-i",
    "--destination-port": "--dport",
    "--destination-ports": "--dport",
    "--dports": "--dport",
    "--ctstate": "--state",
}
_MATCHES = {"state", "conntrack", "multiport", "tcp", "udp", "comment"}
_GOOD: dict[str, Callable[[str], bool]] = {
    "-m": _MATCHES.__contains__,
    "-t": "filter".__eq__,
    "-j": "ACCEPT".__eq__,
    "-s": is_source,
    "-p": lambda name: name.lower() in PROTOCOLS,
    "--dport": bool,
}
_WITH_VALUE = {"-A", "-I", "-D", "-s", "-p", "-m", "-j", "-t", "-i", "--dport", "--state", "--comment"}


def _iptables(_: str, words: list[str], service: Service) -> ParsedRule:
    options = _options([part for word in words for part in _split(word)])
    for option in _GOOD:
        _check_option(option, options.get(option, []))
    chains = [(option, chain) for option in ("-A", "-I", "-D") for chain in options.get(option, [])]
    if len(chains) != 1:
        raise NotUnderstoodError("not-one-rule", "it is not one -A, -I or -D")
    if chains[0][1] != "INPUT":
        raise NotUnderstoodError("other-chain", f"the chain {chains[0][1]!r} is not INPUT")
    if any("NEW" not in states.upper().split(",") for states in options.get("--state", [])):
        raise NotUnderstoodError("not-new-connections", "it is not for new connections")
    protocol = (options.get("-p") or ["tcp"])[0]
    if "--dport" not in options:
        raise NotUnderstoodError("opens-every-port", "it opens every port")
    remarks = [
        f"it was limited to the interface {name}; doorward opens on all watched interfaces"
        for name in options.get("-i", [])
    ]
    if "-p" not in options:
        remarks.append("iptables rejects --dport without -p; read as -p tcp")
    ports = parse_ports(options["--dport"][0].replace(":", "-"), protocol, service)
    return build_rule(chains[0][0] != "-D", "iptables", ports, remarks=remarks)


def _split(word: str) -> list[str]:
    return word.split("=", 1) if word.startswith("--") else [word]


def _options(words: list[str]) -> dict[str, list[str]]:
    """Pair options with their values; `-I INPUT` and `-w` may be followed by a number."""
    options: dict[str, list[str]] = {}
    remaining = iter(words)
    previous = ""
    for word in remaining:
        option = _LONG.get(word, word)
        if option.isdigit() and previous in ("-I", "-w"):
            previous = ""
        elif option in ("-w", "--syn"):
            previous = option
        elif option in _WITH_VALUE and (value := next(remaining, None)) is not None:
            options.setdefault(option, []).append(value)
            previous = option
        else:
            raise NotUnderstoodError("unknown-word", f"{word!r} is not understood")
    return options


def _check_option(option: str, values: Sequence[str]) -> None:
    for value in values:
        if not _GOOD[option](value):
            raise NotUnderstoodError("unknown-value", f"{option} {value!r} is not understood")
    if len(values) > 1 and option != "-m":
        raise NotUnderstoodError("duplicate-option", f"{option} occurs twice")
    if not values and option in ("-j", "-s"):
        raise NotUnderstoodError(
            "unfit-rule", "it does not accept packets" if option == "-j" else "it is not limited to %IP%"
        )


# ufw --------------------------------------------------------------------------------------------------------------


def _ufw(tool: str, words: list[str], service: Service) -> ParsedRule:
    remaining = [word for word in words if word != "--force"]
    opens = remaining[:1] != ["delete"]
    if not opens or remaining[:1] == ["prepend"]:
        remaining = remaining[1:]
    elif remaining[:1] == ["insert"] and remaining[1:2] and remaining[1].isdigit():
        remaining = remaining[2:]
    if remaining[:1] != ["allow"]:
        raise NotUnderstoodError("not-ufw-allow", "it is not `ufw allow` or `ufw delete allow`")
    pairs = _pairs(remaining[2:] if remaining[1:2] == ["in"] else remaining[1:])
    unknown = pairs.keys() - {"from", "to", "port", "proto", "comment", "on"}
    if unknown or not is_source(pairs.get("from", "")) or pairs.get("to", "any") != "any":
        raise NotUnderstoodError("unknown-word", f"{' '.join(sorted(unknown)) or 'from or to'} is not understood")
    if "port" not in pairs:
        raise NotUnderstoodError("opens-every-port", "it opens every port")
    remarks = []
    if "proto" not in pairs:
        remarks.append("without proto, ufw opens tcp and udp; remove the one that is not needed")
    if "on" in pairs:
        remarks.append(f"it was limited to the interface {pairs['on']}; doorward opens on all watched interfaces")
    return build_rule(
        opens, tool, parse_ports(pairs["port"].replace(":", "-"), pairs.get("proto"), service), remarks=remarks
    )


def _pairs(words: list[str]) -> dict[str, str]:
    if len(words) % 2 or len(set(words[::2])) < len(words) // 2:
        raise NotUnderstoodError("unknown-word", "its words are not understood")
    return dict(zip(words[::2], words[1::2], strict=True))


_TOOLS: dict[str, Callable[[str, list[str], Service], ParsedRule]] = {
    "iptables": _iptables,
    "ip6tables": _iptables,
    "ufw": _ufw,
    "firewall-cmd": languages.firewalld,
    "nft": languages.nft,
}
