"""Report settings that conflict with each other, though each is valid by itself."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from itertools import accumulate

from doorward.config.diagnostics import ErrorCollector, nearest, shown
from doorward.config.schema import BROWSER_REFUSED_PORTS, MAX_STANZAS, Configuration, Fleet, Gate
from doorward.config.toml_positions import Keys
from doorward.model import Door, HostPort, OpenPort, Port, PortRange, Protocol, Redirect, set_port

_AFTER_ALL = 1 << 16  # above every port
_MAX_RANGES = 1024  # of all doors; each is a chain, and so many take half a second to load


def check_unique_sequences(report: ErrorCollector, doors: Iterable[Door]) -> None:
    """Report two doors of one state machine with the same sequence: a knock would match both."""
    first: dict[object, str] = {}
    for door in doors:
        other = first.setdefault((door.flags, door.within_ms, door.target, door.knock), door.name)
        if door.knock and other != door.name:
            report.add(
                "same-sequence",
                ("doors", door.name, "knock"),
                f"door {shown(door.name)} has the same sequence as door {shown(other)} "
                f"(line {report.line(('doors', other, 'knock'))})",
                "change one of them, or let one door open the ports of both",
            )


def check_targets(report: ErrorCollector, doors: Iterable[Door]) -> None:
    """Report doors that would open ports of this host for a knock at another."""
    for door in doors:
        local: tuple[OpenPort, ...] = (*door.opens, *door.ranges)
        if door.target is not None and local:
            fault = f"door {shown(door.name)} has a target, and {local[0]} is of this host"
            host = f"[{door.target}]" if door.target.version == 6 else str(door.target)
            remedy = f'write "{host}:{set_port(local[0])}", or leave out one of the two'
            report.add("opens-and-target", ("doors", door.name, "opens"), fault, remedy)


def check_redirects(report: ErrorCollector, doors: Sequence[Door]) -> None:
    """Report ports that would lead to two places, and hidden ports that a door leads to and does not open."""
    hidden = {port: door.name for door in doors for port in door.behind}
    first: dict[Port, tuple[frozenset[HostPort], str]] = {}
    for door in doors:
        path = ("doors", door.name, "opens")
        for port in door.opens:
            ends = frozenset(redirect.to for redirect in door.redirects if redirect.port == port)
            others, other = first.setdefault(port, (ends, door.name))
            if ends != others or len({end.host.version for end in ends}) < len(ends):
                what = f"opens: {port} leads to {_places(ends)}"
                where = f"in door {shown(other)} (line {report.line(('doors', other, 'opens'))}) to {_places(others)}"
                fault = what if other == door.name else f"{what}, and {where}"
                report.add(
                    "redirect-conflict", path, fault, "a port leads to one place per address family; use two ports"
                )
        for end in (to for _, to in door.redirects if to in hidden and to not in door.behind):
            line = report.line(("doors", hidden[end], "opens"))
            fault = f"opens: door {shown(hidden[end])} (line {line}) hides {end}, to which this door leads"
            report.add("redirect-to-hidden-port", path, fault, f'write "{end}" in its `opens` too')
        if door.masquerade and not door.redirects:
            fault = f"door {shown(door.name)} forwards nothing"
            remedy = 'remove it, or write opens = ["2222/tcp -> 192.0.2.7:22"]'
            report.add("nothing-to-masquerade", ("doors", door.name, "masquerade"), fault, remedy)


def check_ranges(report: ErrorCollector, configuration: Configuration) -> None:
    """Report ranges that overlap with what is public, opened, or used for knocks, naming both lines, and too many."""
    owners = {span: door.name for door in reversed(configuration.doors) for span in door.ranges}
    spans = sorted(owners)
    if len(spans) > _MAX_RANGES:
        last = next(iter(owners.values()))
        fault = f"opens: with those of door {shown(last)} there are {len(spans)} ranges"
        remedy = f"write at most {_MAX_RANGES} at all doors; a wide one may do for several"
        report.add("too-many-ranges", ("doors", last, "opens"), fault, remedy)
    widest = list(accumulate(spans, _later))
    for before, span in zip(widest, spans[1:], strict=False):
        if before.includes(span.first):
            what = f"with {before}, which door {shown(owners[before])} opens"
            _report_overlap(report, owners[span], span, what, ("doors", owners[before], "opens"))
    uses: dict[tuple[PortRange, str], Keys] = {}
    for port, use, place in _uses(configuration) if spans else ():
        index = bisect_right(spans, (*port, _AFTER_ALL)) - 1  # the last range that begins at the port or before
        span = widest[index]
        if index >= 0 and span.includes(port) and uses.setdefault((span, use), place) is place:
            _report_overlap(report, owners[span], span, f"with {port}, which {use}", place)


def _later(one: PortRange, other: PortRange) -> PortRange:
    """Return which of two ranges in order reaches further."""
    return one if one.protocol is other.protocol and one.last >= other.last else other


def _uses(configuration: Configuration) -> Iterator[tuple[Port, str, Keys]]:
    """Yield single ports, what each is used for, and its path of keys."""
    for port in configuration.gate.public:
        yield port, "is public", ("gate", "public")
    for port in configuration.signed_ports:
        yield port, "is for signed knocks", _signed_path(configuration, port)
    for door in configuration.doors:
        for port in door.opens:
            yield port, f"door {shown(door.name)} opens", ("doors", door.name, "opens")
        for path, port in _knock_ports(door) if door.target is None else ():
            yield port, f"is a knock port of door {shown(door.name)}", path


def _report_overlap(report: ErrorCollector, door: str, span: PortRange, what: str, place: Keys) -> None:
    fault = f"opens: {span} overlaps {what} (line {report.line(place)})"
    report.add("range-overlap", ("doors", door, "opens"), fault, "write a range without it, or take it out there")


def _places(ends: Iterable[HostPort]) -> str:
    return " and ".join(sorted(map(str, ends))) or "this host"


def check_knock_ports(report: ErrorCollector, configuration: Configuration) -> None:
    """Report knock ports that never count, because they are public or opened by a door."""
    doors, public = configuration.doors, frozenset(configuration.gate.public)
    opener: dict[Port, str] = {}
    for door in doors:
        for port in door.opens:
            opener.setdefault(port, door.name)
    behind = {(port.host, port[:2]): door.name for door in reversed(doors) for port in door.behind}
    for door in doors:
        for path, port in _knock_ports(door):
            if door.target is not None and (door.target, port) in behind:
                opens: Keys = ("doors", behind[door.target, port], "opens")
                what = f"door {shown(opens[1])} opens {port} of {door.target}"
                _report_knock_port(report, path, what, opens, "open another port")
            elif port in public:
                _report_knock_port(report, path, f"{port} is public", ("gate", "public"), 'remove it from "public"')
            elif port in opener:
                other = opener[port]
                whose = "the same door" if other == door.name else f"door {shown(other)}"
                _report_knock_port(
                    report, path, f"{whose} opens {port}", ("doors", other, "opens"), "open another port"
                )
            elif port in configuration.signed_ports:
                place = _signed_path(configuration, port)
                _report_knock_port(
                    report, path, f"{port} is a port for signed knocks", place, "use another one for them"
                )


def check_signed_ports(report: ErrorCollector, configuration: Configuration) -> None:
    """Report signed knock ports that are also used otherwise: every packet to them is taken for a signed knock."""
    taken = dict.fromkeys(configuration.gate.public, "is public")
    taken |= {port: f"is what door {shown(door.name)} opens" for door in configuration.doors for port in door.opens}
    for port in configuration.signed_ports:
        if port in taken:
            fault = f"port: {port} {taken[port]}"
            remedy = "use a port for signed knocks that nothing else uses"
            report.add("signed-port-in-use", _signed_path(configuration, port), fault, remedy)
    if configuration.is_for_browsers and BROWSER_REFUSED_PORTS.issuperset(p.number for p in configuration.signed_ports):
        report.add(
            "browser-refused-port",
            ("signed", "browser"),
            f"browser = true, and browsers send nothing to {', '.join(map(str, configuration.signed_ports))}",
            "add a port of 1024 or more to `port`, except 5060, 6000, 6667 and 10080; or 80/udp or 443/udp",
        )


def check_door(report: ErrorCollector, path: Keys, table: object) -> None:
    """Report a door that does nothing."""
    if not isinstance(table, dict):
        return
    name = shown(path[-1])
    if "opens" not in table and "on_open" not in table:
        report.add(
            "opens-missing",
            path,
            f"door {name}: `opens` is missing",
            'name what it opens, like opens = ["22/tcp"], or `on_open`',
        )
    if "on_close" in table and not {"opens", "on_open"} & table.keys():
        report.add(
            "close-without-open", (*path, "on_close"), f"door {name} closes what it never opens", "write `on_open` too"
        )


def check_once(report: ErrorCollector, door: Door, opens: Sequence[OpenPort | Redirect]) -> None:
    """Report a door for one TCP connection that opens no port, or others than TCP ports."""
    if not door.once:
        return
    path = ("doors", door.name)
    if not opens:
        fault = f"door {shown(door.name)} lets one connection in, and opens no port"
        report.add("once-without-port", (*path, "once"), fault, "name a TCP port in `opens`, or leave `once` out")
    for index, opened in enumerate(opens):
        port = opened.port if isinstance(opened, Redirect) else opened
        if port.protocol is not Protocol.TCP:
            fault = f"opens: {port} has no connections, and door {shown(door.name)} lets one in"
            report.add("once-not-tcp", (*path, "opens", str(index)), fault, "give it a door without `once`")


def check_fwknop(report: ErrorCollector, configuration: Configuration) -> None:
    """Report stanzas of fwknop that could open nothing, and those without an HMAC that do not say so."""
    fwknop = configuration.fwknop
    if fwknop is None:
        return
    if configuration.signed is None:
        remedy = "write a table [signed] too: its users can then move to signed knocks one by one"
        report.add("no-signed-table", ("fwknop",), "there is a [fwknop] and no [signed]", remedy)
    if not 1 <= len(fwknop.stanzas) <= MAX_STANZAS:
        what = f"[fwknop] has {len(fwknop.stanzas)} stanzas"
        report.add("stanza-count", ("fwknop",), what, f"write 1 to {MAX_STANZAS}: each packet is tried with each key")
    doors = {door.name: door for door in configuration.doors}
    for stanza in fwknop.stanzas:
        path: Keys = ("fwknop", "stanzas", stanza.name)
        what = f"stanza {shown(stanza.name)}"
        if not stanza.doors:
            report.add("stanza-without-door", path, f"{what} names no door", 'write like doors = ["ssh"]')
        for index, name in enumerate(stanza.doors):
            if name not in doors:
                near = nearest(name, doors)
                remedy = f"did you mean {near!r}?" if near else f"write a table [doors.{name}]"
                report.add("unknown-door", (*path, "doors", str(index)), f"{what}: unknown door {shown(name)}", remedy)
            elif doors[name].ranges or doors[name].behind:
                fault = f"{what}: door {shown(name)} opens ranges or hosts behind this one, which no packet requests"
                report.add(
                    "not-requested", (*path, "doors", str(index)), fault, "name a door of single ports, or forward"
                )


def check_fleet(report: ErrorCollector, gate: Gate, doors: Sequence[Door], fleet: Fleet | None) -> None:
    """Report a fleet gate without a name, half of a pair of settings, and shared doors without a fleet."""
    if fleet is not None:
        _check_fleet_table(report, gate, fleet)
        return
    for door in (door for door in doors if door.shared):
        fault = f"door {shown(door.name)} is shared, and there is no [fleet]"
        report.add("no-fleet-table", ("doors", door.name, "shared"), fault, "write that table, or leave `shared` out")


def _check_fleet_table(report: ErrorCollector, gate: Gate, fleet: Fleet) -> None:
    place = ("fleet",)
    if gate.name is None:
        report.add("no-gate-name", place, "this gate has no name in the fleet", 'write name = "edge-1" in [gate]')
    elif gate.name == fleet.name:
        report.add(
            "fleet-named-as-gate", (*place, "name"), "the fleet has the gate's own name", "give them different names"
        )
    for one, other in (("certificate", "key"), ("user", "password")):
        if bool(getattr(fleet, one)) != bool(getattr(fleet, other)):
            has, lacks = (one, other) if getattr(fleet, one) else (other, one)
            report.add(
                "incomplete-pair",
                (*place, has),
                f"[fleet] has a {has} and no {lacks}",
                f"write {lacks} too, or leave both out",
            )
    for index, endpoint in enumerate(() if fleet.plain else fleet.endpoints):
        if endpoint.startswith("http:") and not _is_local(endpoint):
            fault = f"endpoints: {shown(endpoint)} is not encrypted: anyone on the network path can open doors"
            path = (*place, "endpoints", str(index))
            report.add("plain-http", path, fault, "write https://, or plain = true on a dedicated network")


def _is_local(endpoint: str) -> bool:
    host = endpoint.partition("://")[2].rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _knock_ports(door: Door) -> Iterator[tuple[Keys, Port]]:
    """Yield each port of a sequence once, with its path of keys."""
    for index, port in enumerate(door.knock):
        if port not in door.knock[:index]:
            yield ("doors", door.name, "knock", str(index)), port


def _signed_path(configuration: Configuration, port: Port) -> Keys:
    if configuration.signed is None or port not in configuration.signed.ports:
        return ("fwknop", "port")
    return ("signed", "port", str(configuration.signed_ports.index(port)))


def _report_knock_port(report: ErrorCollector, path: Keys, why: str, place: Keys, remedy: str) -> None:
    fault = f"door {shown(path[1])} has a knock port that never counts: {why} (line {report.line(place)})"
    report.add("unusable-knock-port", path, fault, f"knock at another port, or {remedy}")
