"""Parse firewalld's rich rules and nft's rules that open or close ports for `%IP%`."""

from __future__ import annotations

import re
import shlex

from doorward.importer.firewall_ports import NotUnderstoodError, ParsedRule, Service, build_rule, is_source, parse_ports
from doorward.model import Port

_RICH = re.compile(r"--(add|remove)-rich-rule(?:=(.*))?", re.DOTALL)
_TIMEOUT = re.compile(r"([0-9]{1,6})([smh]?)")
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600}

_RULE = {"address", "family", "priority"}

_NFT = re.compile(r'"[^"]*"|[{},]|[^\s{},"]+')
_FAMILIES = {"ip", "ip6", "inet"}


def firewalld(tool: str, words: list[str], service: Service) -> ParsedRule:
    """Parse `firewall-cmd --add-rich-rule=…`."""
    remarks: list[str] = []
    rich: list[tuple[str, str]] = []
    for_s = None
    remaining = iter(words)
    for word in remaining:
        if match := _RICH.fullmatch(word):
            rich.append((match[1], next(remaining, "") if match[2] is None else match[2]))
        elif word == "--permanent":
            remarks.append("firewalld applies a --permanent rule at its next reload only; doorward opens immediately")
        elif word.partition("=")[0] in ("--timeout", "--zone"):
            value = word.partition("=")[2] or next(remaining, "")
            for_s = _timeout_s(value) if word.startswith("--timeout") else for_s
        elif word.startswith(("--add-port", "--add-service")):
            raise NotUnderstoodError("not-limited", "it is not limited to %IP%")
        elif word not in ("-q", "--quiet"):
            raise NotUnderstoodError("unknown-word", f"{word!r} is not understood")
    if len(rich) != 1:
        raise NotUnderstoodError("not-one-rule", "it is not one rich rule")
    action, text = rich[0]
    return build_rule(action == "add", tool, _rich_ports(text, service), for_s=for_s, remarks=remarks)


def _timeout_s(text: str) -> int:
    match = _TIMEOUT.fullmatch(text)
    if match is None:
        raise NotUnderstoodError("unknown-timeout", f"the timeout {text!r} is not understood")
    return int(match[1]) * _UNIT_S[match[2]]


def _rich_ports(text: str, service: Service) -> tuple[Port, ...]:
    """Parse `rule family="ipv4" source address="%IP%" port port="22" protocol="tcp" accept`."""
    try:
        words = shlex.split(text)
    except ValueError:
        raise NotUnderstoodError("unclosed-quote", "the rich rule's quotes are not closed") from None
    values = dict(word.split("=", 1) for word in words if "=" in word)
    plain = {word for word in words if "=" not in word}
    if not is_source(values.get("address", "")):
        raise NotUnderstoodError("not-limited", "it is not limited to %IP%")
    if plain == {"rule", "source", "port", "accept"} and values.keys() - _RULE == {"port", "protocol"}:
        return parse_ports(values["port"], values["protocol"], service)
    if plain == {"rule", "source", "service", "accept"} and values.keys() - _RULE == {"name"}:
        return parse_ports(values["name"], "tcp", service)
    raise NotUnderstoodError("unknown-rich-rule", f"the rich rule {text[:40]!r} is not understood")


def nft(tool: str, words: list[str], service: Service) -> ParsedRule:
    """Parse `nft add rule …`; nft deletes rules by their handle only, which is unknown here."""
    tokens = _NFT.findall(" ".join(words))
    if tokens[:1] not in (["add"], ["insert"]) or tokens[1:2] != ["rule"]:
        raise NotUnderstoodError("not-add-rule", f"`nft {' '.join(tokens[:2])}` is not `nft add rule`")
    start = 3 if tokens[2:3] and tokens[2] in _FAMILIES else 2
    if [chain.lower() for chain in tokens[start + 1 : start + 2]] != ["input"]:
        raise NotUnderstoodError("other-chain", "the chain is not input")
    remaining = tokens[start + 2 :]
    if remaining[:1] and remaining[0] in ("position", "handle", "index"):
        remaining = remaining[2:]
    statements = _statements(remaining)
    if not is_source(statements.get("saddr", "")) or "accept" not in statements:
        raise NotUnderstoodError(
            "unfit-rule", "it is not limited to %IP%" if "accept" in statements else "it does not accept packets"
        )
    if "dport" not in statements:
        raise NotUnderstoodError("opens-every-port", "it opens every port")
    return build_rule(True, tool, parse_ports(statements["dport"], statements["protocol"], service))


def _statements(tokens: list[str]) -> dict[str, str]:
    """Parse the statements of a rule, each of which may occur once."""
    statements: dict[str, str] = {}
    while tokens:
        first, size = tokens[0], 1
        if tokens[:2] in (["ip", "saddr"], ["ip6", "saddr"]) and "saddr" not in statements:
            statements["saddr"], size = " ".join(tokens[2:3]), 3
        elif first in ("tcp", "udp") and tokens[1:2] == ["dport"] and "dport" not in statements:
            statements["dport"], size = _set(tokens[2:])
            statements["protocol"], size = first, size + 2
        elif tokens[:2] == ["ct", "state"]:
            states, size = _set(tokens[2:])
            size += 2
            if "new" not in states.split(","):
                raise NotUnderstoodError("not-new-connections", "it is not for new connections")
        elif first in ("counter", "accept"):
            statements[first] = ""
        elif first == "comment":
            size = 2
        else:
            raise NotUnderstoodError("unknown-word", f"{first!r} is not understood")
        tokens = tokens[size:]
    return statements


def _set(tokens: list[str]) -> tuple[str, int]:
    """Parse `22`, `{ 22, 80 }` or `new,established`: the elements joined by commas, and the number of tokens."""
    if tokens[:1] == ["{"] and "}" in tokens:
        end = tokens.index("}")
        return "".join(tokens[1:end]), end + 1
    end = 1
    while tokens[end : end + 1] == [","]:
        end += 2
    return "".join(tokens[:end]), end
