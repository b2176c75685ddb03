"""Convert fwknop's stanzas to doorward.toml: a door for each port or command, and who may open it.

Each stanza becomes a table [fwknop.stanzas.NAME], so that its clients go on as before, and options of authorized_keys
for its users' SSH keys. Never silently laxer: where a door opens more than a packet could request, a note says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from doorward.config.diagnostics import shown
from doorward.config.duration import format_duration
from doorward.config.schema import Hmac
from doorward.config.values import MAX_FOR_MS
from doorward.escape import toml_list, toml_text
from doorward.fwknop.authorizer import StanzaKeys
from doorward.fwknop.keys import MAX_HMAC_BYTES, MAX_KEY_BYTES, format_file
from doorward.fwknop.spa_packet import HMACS
from doorward.importer.firewall_commands import parse_command, reverts
from doorward.importer.firewall_ports import Service
from doorward.importer.from_knockd import SHORTEST_MS, UNTIL_CLOSED_MS, Converted
from doorward.importer.fwknop_conf import (
    DEFAULT_FOR_S,
    DEFAULT_MAX_S,
    NO_COMMAND,
    AccessConfiguration,
    Stanza,
)
from doorward.importer.fwknop_notes import file_notes, stanza_notes
from doorward.importer.toml_writer import ImportNote, comments, firewall_note, unique_names
from doorward.model import DEFAULT_SIGNED_PORT, NAME, Port, Protocol, Redirect, SecretBytes

PortName = Callable[[Port], str | None]  # the name of a port as in services(5), or None

_MOST_IN_A_NAME = 3  # ports
_FORWARDS = (
    "FORCE_NAT: the opening forwards its port, for this door's clients alone, as fwknopd did. This host must forward "
    "packets (net.ipv4.ip_forward), and other firewalls must let them through"
)
_VARIABLE = re.compile(r"\$(PKT_SRC|SRC|IP|PORT|PROTO|DST|TIMEOUT)")
_IN_A_SHELL = re.compile(r"(?:^|[/\s])(?:ba|da|k|z)?sh\s(?:.*\s)?-[A-Za-z]*c\s.*%IP%")
_SIMPLE_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")


@dataclass
class ImportedDoor:
    """A door of the new file while it is built."""

    name: str
    opens: tuple[Port, ...] = ()
    redirect: Redirect | None = None  # of its port
    masquerade: bool = False
    on_open: list[str] = field(default_factory=list)
    on_close: list[str] = field(default_factory=list)
    for_ms: int = MAX_FOR_MS
    notes: list[ImportNote] = field(default_factory=list)

    def note(self, text: str, *, check: bool = False) -> None:
        """Add a note about this door."""
        self.notes.append(ImportNote(f"door {self.name!r}", check, text))


@dataclass
class ImportedStanza:
    """A stanza of the new file while it is built: who may open its doors, for how long."""

    name: str
    old: Stanza
    doors: list[ImportedDoor] = field(default_factory=list)
    for_ms: int = SHORTEST_MS
    for_max_ms: int | None = None
    notes: list[ImportNote] = field(default_factory=list)

    def note(self, text: str, *, check: bool = False) -> None:
        """Add a note about this stanza."""
        self.notes.append(ImportNote(f"stanza {self.name!r}", check, text))


def convert(configuration: AccessConfiguration, file: str, service: Service, port_name: PortName) -> Converted:
    """Convert all stanzas; `service` looks ports up by name, `port_name` names by port."""
    doors = _Doors(service, port_name)
    names = unique_names(_stanza_name(stanza, port_name) for stanza in configuration.stanzas)
    stanzas = [_convert_stanza(ImportedStanza(*pair), doors) for pair in zip(names, configuration.stanzas, strict=True)]
    opened = tuple(dict.fromkeys(port for door in doors.all for port in door.opens))
    signed_port = _signed_port(opened)
    notes = [*file_notes(configuration.includes, signed_port), *firewall_note(opened)]
    keys = dict[str, StanzaKeys]()
    for stanza in stanzas:
        if reason := _not_accepted(stanza):
            stanza.note(f"fwknop's packets are not accepted for it: {reason}", check=True)
        elif stanza.old.key is not None:
            keys[stanza.name] = StanzaKeys(stanza.old.key, stanza.old.hmac_key)
    text = _write(file, doors.all, stanzas, notes, signed_port, keys)
    own = [*(note for door in doors.all for note in door.notes), *(note for new in stanzas for note in new.notes)]
    return Converted(text, (*notes, *own), SecretBytes(format_file(keys).encode()) if keys else SecretBytes())


def _not_accepted(stanza: ImportedStanza) -> str:
    """Return why the packets of a stanza cannot be accepted, or ""."""
    old = stanza.old
    if not any(door.opens for door in stanza.doors) and not (old.cycle_open and old.allowed_ports):
        return "it opens no port that a packet may request"
    if old.key is None or not 1 <= len(old.key) <= MAX_KEY_BYTES:
        return "it has no usable KEY or KEY_BASE64"
    if old.mode != "cbc":
        return f"ENCRYPTION_MODE {shown(old.mode)}; only CBC, fwknop's default, is"
    if old.hmac_key is None:
        return "it has no HMAC key, so nothing would prove who sent a packet; give its clients one, and import again"
    if old.hmac_digest not in HMACS:
        return f"HMAC_DIGEST_TYPE {shown(old.hmac_digest)}; write SHA256 here and at its clients, and import again"
    if not 1 <= len(old.hmac_key) <= MAX_HMAC_BYTES or old.hmac_key == old.key:
        return "its HMAC key has an invalid length, or is its KEY"
    return ""


def _stanza_name(stanza: Stanza, port_name: PortName) -> str:
    """Return a stanza's name: its user's, or one made from its ports."""
    name = stanza.username or ""
    return name if _is_name(name) else _stem(stanza.allowed_ports, stanza, port_name)


def _is_name(word: str) -> bool:
    return NAME.fullmatch(word) is not None and not word.isdigit()


class _Doors:
    """The doors of the new file: one for each port and where it leads, and one for each stanza with commands."""

    def __init__(self, service: Service, port_name: PortName) -> None:
        self.service, self._port_name = service, port_name
        self.all: list[ImportedDoor] = []
        self._by_port: dict[Port, ImportedDoor] = {}

    def add(self, ports: Sequence[Port], stanza: Stanza) -> ImportedDoor:
        """Add a door, named after its ports."""
        stems = [door.name for door in self.all] + [_stem(ports, stanza, self._port_name)]
        self.all.append(ImportedDoor([*unique_names(stems)][-1]))
        return self.all[-1]

    def for_ports(self, stanza: Stanza) -> list[ImportedDoor]:
        """Return a door for each port, or one that opens nothing yet if one of them cannot lead to where it did."""
        try:
            leads = {port: _redirect(port, stanza) for port in stanza.allowed_ports}
            why = self.conflict(leads)
        except ValueError:
            to = stanza.translation.address if stanza.translation else ""
            why = (
                f"FORCE_NAT to {to}, where no packet is forwarded: it opens nothing yet; write that service's own port"
            )
        if not why:
            return [self._for_port(port, lead, stanza) for port, lead in leads.items()]
        door = self.add(stanza.allowed_ports, stanza)
        door.note(why, check=True)
        return [door]

    def conflict(self, leads: Mapping[Port, Redirect | None]) -> str:
        """Return why ports cannot lead there, or "": each leads to one place, that of its first door."""
        for door in self.all:
            for port in door.opens:
                if leads.get(port, door.redirect) != door.redirect:
                    what = f"{port} leads elsewhere for {door.name}, and a port leads to one place"
                    return f"{what}: this door opens nothing yet; write another port"
        return ""

    def _for_port(self, port: Port, redirect: Redirect | None, stanza: Stanza) -> ImportedDoor:
        """Return the door that opens a port alone."""
        if port not in self._by_port:
            door = self._by_port[port] = self.add((port,), stanza)
            door.opens, door.redirect = (port,), redirect
            if redirect is not None:
                door.note(_FORWARDS, check=True)
        door = self._by_port[port]
        door.masquerade |= redirect is not None and "FORCE_MASQUERADE" in stanza.flags
        return door


def _redirect(port: Port, stanza: Stanza) -> Redirect | None:
    """Return where FORCE_NAT forwards a port; None: to this host. ValueError: no packet is forwarded there."""
    to = stanza.translation
    return Redirect.parse(f"{port} -> {to.address}:{to.port}") if to else None


def _stem(ports: Sequence[Port], stanza: Stanza, port_name: PortName) -> str:
    """Return a door's name, made from its ports."""
    if not ports:
        return "command" if stanza.cycle_open else "no-port" if stanza.open_ports else "any-port"
    words = []
    for port in ports:
        name = port_name(port) or ""
        words.append(name if _is_name(name) else f"{port.protocol.name.lower()}-{port.number}")
    if len(words) > _MOST_IN_A_NAME:
        words = [*words[: _MOST_IN_A_NAME - 1], "and", str(len(words) - _MOST_IN_A_NAME + 1), "more"]
    return "-".join(words)


def _convert_stanza(new: ImportedStanza, doors: _Doors) -> ImportedStanza:
    stanza = new.old
    if stanza.repeated:
        new.note(f"{', '.join(stanza.repeated)} occurred twice in one stanza: the last one counted", check=True)
    if stanza.cycle_open:
        new.doors = [doors.add(stanza.allowed_ports, stanza)]
        new.for_ms = _cycle(new.doors[0], stanza, doors.service)
        if why := doors.conflict(dict.fromkeys(new.doors[0].opens)):
            new.doors[0].opens = ()
            new.doors[0].note(why, check=True)
    else:
        _times(new)
        new.doors = doors.for_ports(stanza)
    if not new.doors:
        new.doors = [doors.add((), stanza)]
        _no_ports(new.doors[0], stanza)
    longest_ms = max(new.for_ms, new.for_max_ms or 0)
    if longest_ms > MAX_FOR_MS:
        new.for_ms, limit = min(new.for_ms, MAX_FOR_MS), format_duration(MAX_FOR_MS)
        new.for_max_ms = min(new.for_max_ms, MAX_FOR_MS) if new.for_max_ms else None
        new.note(f"its time is cut to {limit}", check=True)
    for door in new.doors:
        door.for_ms = min(door.for_ms, new.for_ms)
        if not (door.opens or door.on_open):
            door.on_open = ["true"]
    new.note(
        f"the stanza of line {stanza.line}; in authorized_keys, a line for each of its users: {_line(new)}", check=True
    )
    for check, text in stanza_notes(stanza, is_command=bool(stanza.cycle_open)):
        new.note(text, check=check)
    return new


def _no_ports(door: ImportedDoor, stanza: Stanza) -> None:
    if stanza.open_ports:
        door.note("RESTRICT_PORTS removes all ports of OPEN_PORTS, so it opens nothing", check=True)
        return
    but = f" but {', '.join(map(str, stanza.restrict_ports))}" if stanza.restrict_ports else ""
    door.note(
        f"no OPEN_PORTS: a packet chose any port{but}. A door names what it opens, and this one opens nothing yet: "
        'write the ports that were asked for, like opens = ["22/tcp"], instead of on_open',
        check=True,
    )


def _times(new: ImportedStanza) -> None:
    for_s, max_s = new.old.for_s or DEFAULT_FOR_S, new.old.max_s or DEFAULT_MAX_S
    new.for_ms = 1000 * min(for_s, max_s)  # like fwknopd, which also logs a warning
    new.for_max_ms = 1000 * max_s if max_s > for_s else None


def _cycle(door: ImportedDoor, stanza: Stanza, service: Service) -> int:
    """Convert the commands to `opens` if they are understood, or to hooks; return how long it stays open, in ms."""
    closing = stanza.cycle_close if stanza.cycle_close not in (None, NO_COMMAND) else ""
    start, stop = (_substitute(text or "", stanza.open_ports) for text in (stanza.cycle_open, closing))
    rule = parse_command(start, service).rule
    for_ms = 1000 * (stanza.cycle_s or DEFAULT_FOR_S) if closing else SHORTEST_MS
    if rule is not None and rule.opens and (not stop or reverts(stop, rule, service)):
        door.opens = rule.ports
        for remark in rule.remarks:
            door.note(remark, check=True)
        if not closing:
            for_ms = UNTIL_CLOSED_MS
            hour = format_duration(UNTIL_CLOSED_MS)
            door.note(
                f"nothing closed it (CMD_CYCLE_CLOSE NONE); now it is open for {hour}: write another `for`", check=True
            )
    elif reason := _cannot_run(start) or (_cannot_run(stop) if stop else ""):
        door.note(
            f"its commands cannot run as they are: {reason}. It runs nothing yet: write `on_open` and `on_close`",
            check=True,
        )
    else:
        door.on_open, door.on_close = start.split(), stop.split()
        door.note("its commands stay and run as before, without a shell; %IP% is replaced by the address", check=True)
    return for_ms


def _substitute(command: str, ports: Sequence[Port]) -> str:
    """Replace fwknop's variables: the address by %IP%, and the port if there is only one."""
    values = {"IP": "%IP%", "SRC": "%IP%", "PKT_SRC": "%IP%"}
    if len(ports) == 1:
        values |= {"PORT": str(ports[0].number), "PROTO": ports[0].protocol.name.lower()}
    return _VARIABLE.sub(lambda match: values.get(match[1], match[0]), command)


def _cannot_run(command: str) -> str:
    if left := _VARIABLE.search(command):
        return f"{left[0]} is not known when a door opens"
    if _IN_A_SHELL.search(command):
        return 'a shell would read the address as part of its text; pass it as "$1"'
    program = (command.split() or [""])[0]
    return "" if program and ("/" not in program or program.startswith("/")) else "its program has no full path"


def _line(new: ImportedStanza) -> str:
    stanza = new.old
    options = [f'doors="{",".join(door.name for door in new.doors)}"']
    if stanza.sources:
        options.append(f'from="{",".join(_networks(stanza))}"')
    if new.for_max_ms is not None:
        options.append(f'for-max="{format_duration(new.for_max_ms)}"')
    if stanza.expires:
        options.append(f'expiry-time="{stanza.expires}"')
    name = stanza.username if stanza.username and _SIMPLE_NAME.fullmatch(stanza.username) else "NAME"
    return f"{','.join(options)} KIND KEY {name}"


def _networks(stanza: Stanza) -> list[str]:
    return [str(network).removesuffix("/32") for network in stanza.sources]


def _signed_port(opened: Sequence[Port]) -> Port:
    return next(
        port
        for number in range(DEFAULT_SIGNED_PORT.number, 0, -1)
        if (port := Port(Protocol.UDP, number)) not in opened
    )


def _write(
    file: str,
    doors: Sequence[ImportedDoor],
    stanzas: Sequence[ImportedStanza],
    notes: Sequence[ImportNote],
    signed_port: Port,
    accepted: Collection[str],
) -> str:
    port = [f'port = "{signed_port}"'] if signed_port != DEFAULT_SIGNED_PORT else []
    lines = [f"# Made from {toml_text(file)} by `doorward import`.", *comments(notes), "", "[signed]", *port]
    for door in doors:
        lines += _door_table(door)
    if accepted:
        lines += ["", "[fwknop]", *port]
    for stanza in stanzas:
        lines += _stanza_table(stanza) if stanza.name in accepted else ["", *comments(stanza.notes)]
    return "\n".join(lines) + "\n"


def _door_table(door: ImportedDoor) -> Iterator[str]:
    yield from ("", f"[doors.{door.name}]", *comments(door.notes))
    if door.opens:
        yield f"opens = {toml_list(map(str, (door.redirect,) if door.redirect else door.opens))}"
    if door.masquerade:
        yield "masquerade = true"
    if door.on_open:
        yield f"on_open = {toml_list(door.on_open)}"
    if door.on_close:
        yield f"on_close = {toml_list(door.on_close)}"
    yield f'for = "{format_duration(door.for_ms)}"'


def _stanza_table(new: ImportedStanza) -> Iterator[str]:
    stanza = new.old
    yield from ("", f"[fwknop.stanzas.{new.name}]", *comments(new.notes))
    yield f"doors = {toml_list(door.name for door in new.doors)}"
    if set(stanza.allowed_ports) - {port for door in new.doors for port in door.opens}:
        yield f"ports = {toml_list(map(str, stanza.allowed_ports))}"  # for its commands
    if stanza.sources:
        yield f"from = {toml_list(_networks(stanza))}"
    yield f'for = "{format_duration(new.for_ms)}"'
    yield f'for_max = "{format_duration(new.for_max_ms or new.for_ms)}"'
    if stanza.username is not None:
        yield f"username = {toml_text(stanza.username)}"
    if not stanza.source_required:
        yield "require_source_address = false"
    if stanza.expires:
        yield f"expires = {_toml_time(stanza.expires)}"
    if stanza.hmac_digest != Hmac.SHA256:
        yield f'hmac = "{stanza.hmac_digest}"'


def _toml_time(expires: str) -> str:
    """Return authorized_keys' YYYYMMDD or YYYYMMDDHHMMSSZ as TOML."""
    day = f"{expires[:4]}-{expires[4:6]}-{expires[6:8]}"
    clock = expires[8:]
    return f"{day}T{clock[:2]}:{clock[2:4]}:{clock[4:6]}Z" if clock else day
