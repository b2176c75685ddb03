r"""The options in front of a key in authorized_keys: sshd's own, and doorward's. Pure.

The syntax is sshd's (AUTHORIZED_KEYS FILE FORMAT in its manual): case-insensitive names, values in double quotes, `\"`
for a quote inside. Options of sshd that do not concern knocks are accepted and ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from doorward.config.diagnostics import nearest, shown
from doorward.config.values import MAX_FOR_MS, duration
from doorward.errors import InvalidValueError
from doorward.model import NAME
from doorward.signed import address_patterns
from doorward.signed.address_patterns import AddressPatterns

ANY = "*"  # as the only principal: every certificate of the authority

LocalTime = Callable[[datetime], float]  # local time without a zone, to seconds since the epoch


class KeyOptions(NamedTuple):
    """The options of one key. None: the option is absent, so it neither restricts nor permits anything."""

    doors: frozenset[str] | None = None
    sources: AddressPatterns | None = None
    for_max_ms: int | None = None
    expires_s: float | None = None
    addresses: AddressPatterns | None = None
    is_authority: bool = False
    principals: frozenset[str] | None = None
    touch_required: bool = True
    verify_required: bool = False


Fault = tuple[str, str, str]  # code, fault, remedy


class ParsedOptions(NamedTuple):
    """The options, the rest of the line, and the faults."""

    options: KeyOptions
    rest: str
    faults: tuple[Fault, ...]


def parse(line: str, local_s: LocalTime) -> ParsedOptions:
    """Parse the options at the beginning of a line."""
    options: dict[str, Any] = {}
    faults: list[Fault] = []
    position, is_last = 0, False
    while not is_last:
        match = _OPTION.match(line, position)
        if match is None:
            return ParsedOptions(KeyOptions(), "", (*faults, _syntax_fault(line[position:])))
        try:
            _apply_option(options, match["name"].lower(), match["value"], local_s)
        except InvalidValueError as error:
            what, _, instead = str(error).rpartition("; ")
            faults.append((error.code, what, instead))
        position, is_last = match.end(), match["next"] != ","
    return ParsedOptions(KeyOptions(**options), line[position:], tuple(faults))


def _apply_option(options: dict[str, Any], name: str, value: str | None, local_s: LocalTime) -> None:
    if name in _FLAGS or name in _VALUES:
        if (value is None) != (name in _FLAGS):
            remedy = f"write {name} alone" if name in _FLAGS else f'write {name}="…"'
            raise InvalidValueError("option-value", f"{name} takes {'no' if name in _FLAGS else 'a'} value; {remedy}")
        if name in _FLAGS:
            options.update(_FLAGS[name])
        else:
            _apply_value(options, name, (value or "").replace('\\"', '"'), local_s)
    elif name not in _IGNORED:
        near = nearest(name, [*_FLAGS, *_VALUES, *_IGNORED])
        remedy = f"did you mean {near!r}?" if near else f"remove it, or write one of {', '.join(_VALUES)}"
        raise InvalidValueError("unknown-option", f"unknown option {shown(name)}; {remedy}")


def _apply_value(options: dict[str, Any], name: str, value: str, local_s: LocalTime) -> None:
    field, parser = _VALUES[name]
    try:
        parsed = parser(value)
    except InvalidValueError as error:
        raise InvalidValueError(error.code, f"{name}: {error}") from None
    if isinstance(parsed, datetime):  # the earliest of several applies, as in sshd
        parsed = min(_seconds(parsed, local_s), options.get(field, float("inf")))
    elif field in options:
        raise InvalidValueError(
            "duplicate-option", f"{name} appears twice; write one {name} with both, separated by a comma"
        )
    options[field] = parsed


def _seconds(moment: datetime, local_s: LocalTime) -> float:
    try:
        return moment.timestamp() if moment.tzinfo else local_s(moment)
    except (ValueError, OverflowError):  # outside the years that the system clock represents
        raise InvalidValueError(
            "expiry-range",
            f"expiry-time: {moment:%Y} is outside this host's time range; write an earlier or later year",
        ) from None


def _syntax_fault(rest: str) -> Fault:
    match = _BEGUN.match(rest)
    if match is None:
        where = f"where {shown(rest[:20].partition(' ')[0])} does" if rest else "after the last comma"
        return "no-option", f"no option {where}", "write OPTION,OPTION KIND KEY COMMENT, or the key alone"
    name = match["name"].lower()
    if match["value"] is not None or not match["ending"]:
        return (
            "text-after-option",
            f"unexpected text after the option {shown(name)}",
            "separate options by commas, without spaces",
        )
    if match["ending"] == "=":
        return (
            "unquoted-value",
            f"{name}: the value is not in quotes",
            f'write {name}="…", without a space before the quotes',
        )
    return (
        "unclosed-quotes",
        f"{name}: the quotes are not closed",
        'close them with ", and write \\" for a quote in the value',
    )


def _doors(text: str) -> frozenset[str]:
    names = text.split(",")
    for name in names:
        if not NAME.fullmatch(name):
            raise InvalidValueError("invalid-door-name", f'invalid door name {shown(name)}; write e.g. doors="ssh,db"')
    return frozenset(names)


def _principals(text: str) -> frozenset[str]:
    names = text.split(",")
    for name in names:
        if not name or (name != ANY and ("*" in name or "?" in name)):
            what = f"{shown(name)} has a wildcard" if name else "empty principal"
            raise InvalidValueError(
                "invalid-principal", f'{what}; write complete names, e.g. principals="alice,ops", or "*" alone'
            )
    if ANY in names and len(names) > 1:
        raise InvalidValueError(
            "wildcard-with-names", f'{shown(text)} mixes * with names; write principals="*" or the names'
        )
    return frozenset(names)


def _expiry(text: str) -> datetime:
    match = _TIME.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        numbers = [int(part) for part in match.groups()[:-1] if part]
        return datetime(*numbers, tzinfo=UTC if match["utc"] else None)  # type: ignore[arg-type,misc]
    except ValueError:
        remedy = "write YYYYMMDD or YYYYMMDDHHMM, followed by Z for UTC"
        raise InvalidValueError("invalid-time", f"invalid time {shown(text)}; {remedy}") from None


# No possessive groups: up to Python 3.11.4 they match too much where an alternative fails.
_START = r'(?P<name>[A-Za-z0-9-]+)(?:="(?P<value>(?:[^"\\]|\\"|\\(?!"))*)")?'
_OPTION = re.compile(_START + r"(?P<next>,(?![ \t])|,?[ \t]+|\Z)")
_BEGUN = re.compile(_START + '(?P<ending>="?)?')
_TIME = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})(?:([0-9]{2})([0-9]{2})([0-9]{2})?)?(?P<utc>Z|UTC)?", re.IGNORECASE)
_FLAGS: dict[str, dict[str, bool]] = {
    "cert-authority": {"is_authority": True},
    "touch-required": {"touch_required": True},
    "no-touch-required": {"touch_required": False},
    "verify-required": {"verify_required": True},
    "no-verify-required": {"verify_required": False},
}
_VALUES: dict[str, tuple[str, Callable[[str], object]]] = {
    "doors": ("doors", _doors),
    "from": ("sources", lambda text: address_patterns.parse(text, wildcards=True)),
    "for-max": ("for_max_ms", duration(MAX_FOR_MS)),
    "expiry-time": ("expires_s", _expiry),
    "addresses": ("addresses", lambda text: address_patterns.parse(text, wildcards=False)),
    "principals": ("principals", _principals),
}
_IGNORED = frozenset({"restrict", "command", "environment", "permitopen", "permitlisten", "tunnel"}) | {
    prefix + flag
    for prefix in ("", "no-")
    for flag in ("agent-forwarding", "port-forwarding", "pty", "user-rc", "x11-forwarding")
}
