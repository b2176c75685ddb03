"""Convert fwknop's stanzas to doorward.toml: one door each, opened by a signed knock, and its authorized_keys options.

Never silently laxer: if a door opens more than a packet could request, a note says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from doorward.config.diagnostics import shown
from doorward.config.duration import format_duration
from doorward.config.values import MAX_FOR_MS
from doorward.escape import toml_list, toml_text
from doorward.importer.firewall_commands import parse_command, reverts
from doorward.importer.firewall_ports import Service
from doorward.importer.from_knockd import SHORTEST_MS, UNTIL_CLOSED_MS, Converted
from doorward.importer.fwknop_conf import DEFAULT_FOR_S, DEFAULT_MAX_S, NO_COMMAND, AccessConfiguration, Include, Stanza
from doorward.importer.toml_writer import ImportNote, comments, firewall_note, unique_names
from doorward.model import DEFAULT_SIGNED_PORT, NAME, Port, Protocol, Redirect

_HMAC = {"HMAC_KEY", "HMAC_KEY_BASE64", "%include_keys"}  # a key file may contain one
_GPG = {"GPG_DECRYPT_ID", "GPG_DECRYPT_PW", "GPG_ALLOW_NO_PW", "GPG_REMOTE_ID", "GPG_FINGERPRINT_ID"}


def file_notes(includes: Sequence[Include], signed_port: Port) -> Iterator[ImportNote]:
    """Yield the notes on the file as a whole."""
    for include in includes:
        yield ImportNote(
            None, True, f"line {include.line} includes {shown(include.path)}: import it too, and merge the results"
        )
    yield ImportNote(
        None,
        True,
        "the keys in access.conf are not used and not copied: `doorward key server` creates the server key, and the "
        "users' public SSH keys go into authorized_keys next to this file, one per line, as shown at each door",
    )
    yield ImportNote(
        None,
        True,
        f"fwknopd.conf is not read: signed knocks go to {signed_port}; if PCAP_INTF names one interface, write it as "
        "`interfaces` below [gate]",
    )
    yield ImportNote(
        None,
        False,
        "stricter: a packet could open for any address that it named (fwknop -a); now only for its own source, "
        'unless the user\'s line also has addresses="…"',
    )


def stanza_notes(name: str, stanza: Stanza, *, is_command: bool) -> Iterator[ImportNote]:
    """Yield the notes on settings of a stanza that have no counterpart or work differently."""
    for check, text in (*_access(stanza, is_command=is_command), *_network(stanza), *_keys(stanza)):
        yield ImportNote(name, check, text)


def _access(stanza: Stanza, *, is_command: bool) -> Iterator[tuple[bool, str]]:
    if stanza.source_required:
        what = (
            'REQUIRE_SOURCE_ADDRESS is now a client setting: without NAT in between, `from = "auto"` in its hosts.toml'
        )
        yield False, f"{what} puts the address into every packet"
    if stanza.username is not None:
        yield False, "REQUIRE_USERNAME checked a name that the sender wrote; now the key proves who it is"
    if stanza.runs_commands:
        yield (
            True,
            "ENABLE_CMD_EXEC: a packet carried the command to run; a signed knock names a door only. Write a door with "
            "`on_open` for each command that is needed",
        )
    if is_command and stanza.restrict_ports:
        yield True, "RESTRICT_PORTS limited what a packet could ask for; the door does one thing only"


def _network(stanza: Stanza) -> Iterator[tuple[bool, str]]:
    if stanza.destinations:
        yield True, "laxer: DESTINATION has no counterpart; knocks to every address of this host count"
    if stanza.translation is None and "FORCE_MASQUERADE" in stanza.flags:
        yield False, "FORCE_MASQUERADE: without FORCE_NAT nothing is forwarded"
    if "FORCE_SNAT" in stanza.named:
        yield True, "FORCE_SNAT: write it permanently into your own firewall, or masquerade = true here"
    if stanza.flags & {"FORWARD_ALL", "DISABLE_DNAT"}:
        yield (
            True,
            "FORWARD_ALL, DISABLE_DNAT: a door opens only the ports that it names and never forwards everything",
        )


def _keys(stanza: Stanza) -> Iterator[tuple[bool, str]]:
    if stanza.signers:
        yield (
            True,
            f"GPG_REMOTE_ID, GPG_FINGERPRINT_ID: {len(stanza.signers)} signers; each needs a line with an SSH key",
        )
    elif stanza.named & _GPG:
        yield False, "GnuPG keys: SSH keys replace them"
    if stanza.flags & {"GPG_DISABLE_SIG", "GPG_IGNORE_SIG_VERIFY_ERROR"}:
        yield False, "stricter: not all of its signatures were verified; now every one is"
    if not stanza.named & _HMAC:
        yield False, "stricter: packets without an HMAC were decrypted unverified; now every packet is verified first"


PortName = Callable[[Port], str | None]  # the name of a port as in services(5), or None

_MOST_IN_A_NAME = 3  # ports
_VARIABLE = re.compile(r"\$(PKT_SRC|SRC|IP|PORT|PROTO|DST|TIMEOUT)")
_IN_A_SHELL = re.compile(r"(?:^|[/\s])(?:ba|da|k|z)?sh\s(?:.*\s)?-[A-Za-z]*c\s.*%IP%")
_SIMPLE_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")


@dataclass
class SignedDoor:
    """A door of the new file while it is built, and what its users' authorized_keys lines need."""

    name: str
    stanza: Stanza
    opens: tuple[Port, ...] = ()
    redirects: tuple[Redirect, ...] = ()  # of its ports: all or none
    on_open: list[str] = field(default_factory=list)
    on_close: list[str] = field(default_factory=list)
    for_ms: int = SHORTEST_MS
    for_max_ms: int | None = None
    notes: list[ImportNote] = field(default_factory=list)

    def note(self, text: str, *, check: bool = False) -> None:
        """Add a note about this door."""
        self.notes.append(ImportNote(self.name, check, text))


def convert(configuration: AccessConfiguration, file: str, service: Service, port_name: PortName) -> Converted:
    """Convert each stanza to a door; `service` looks ports up by name, `port_name` names by port."""
    names = unique_names(_stem(stanza, port_name) for stanza in configuration.stanzas)
    doors = [_convert_stanza(name, stanza, service) for name, stanza in zip(names, configuration.stanzas, strict=True)]
    _resolve_redirects(doors)
    _note_duplicates(doors)
    opened = tuple(dict.fromkeys(port for door in doors for port in door.opens))
    signed_port = _signed_port(opened)
    notes = [*file_notes(configuration.includes, signed_port), *firewall_note(opened)]
    text = _write(file, doors, notes, signed_port)
    return Converted(text, (*notes, *(note for door in doors for note in door.notes)))


def _stem(stanza: Stanza, port_name: PortName) -> str:
    """Return a door's name, made from its ports."""
    if not stanza.allowed_ports:
        return "command" if stanza.cycle_open else "no-port" if stanza.open_ports else "any-port"
    words = []
    for port in stanza.allowed_ports:
        name = port_name(port) or ""
        is_valid = NAME.fullmatch(name) and not name.isdigit()
        words.append(name if is_valid else f"{port.protocol.name.lower()}-{port.number}")
    if len(words) > _MOST_IN_A_NAME:
        words = [*words[: _MOST_IN_A_NAME - 1], "and", str(len(words) - _MOST_IN_A_NAME + 1), "more"]
    return "-".join(words)


def _convert_stanza(name: str, stanza: Stanza, service: Service) -> SignedDoor:
    door = SignedDoor(name, stanza)
    if stanza.repeated:
        door.note(f"{', '.join(stanza.repeated)} occurred twice in one stanza: the last one counted", check=True)
    if stanza.cycle_open:
        _cycle(door, stanza.cycle_open, service)
    else:
        _ports(door)
        _redirect(door)
        _times(door)
    if not (door.opens or door.on_open):
        door.on_open = ["true"]
    if door.for_ms > MAX_FOR_MS or (door.for_max_ms or 0) > MAX_FOR_MS:
        door.for_ms, limit = min(door.for_ms, MAX_FOR_MS), format_duration(MAX_FOR_MS)
        door.for_max_ms = min(door.for_max_ms, MAX_FOR_MS) if door.for_max_ms else None
        door.note(f"its time is cut to {limit}", check=True)
    door.note(
        f"the stanza of line {stanza.line}; in authorized_keys, a line for each of its users: {_line(door)}", check=True
    )
    door.notes += stanza_notes(name, stanza, is_command=bool(stanza.cycle_open))
    return door


def _ports(door: SignedDoor) -> None:
    stanza = door.stanza
    door.opens = stanza.allowed_ports
    if not stanza.open_ports:
        but = f" but {', '.join(map(str, stanza.restrict_ports))}" if stanza.restrict_ports else ""
        door.note(
            f"no OPEN_PORTS: a packet chose any port{but}. A door names what it opens, and this one opens nothing yet: "
            'write the ports that were asked for, like opens = ["22/tcp"], instead of on_open',
            check=True,
        )
    elif not door.opens:
        door.note("RESTRICT_PORTS removes all ports of OPEN_PORTS, so it opens nothing", check=True)
    elif len(door.opens) > 1:
        door.note(
            "a packet chose among its ports; the door opens all of them. Write several doors if that is too much",
            check=True,
        )


def _redirect(door: SignedDoor) -> None:
    """Let the door's ports lead to where FORCE_NAT forwarded them."""
    to = door.stanza.translation
    if to is None:
        return
    try:
        parsed = [Redirect.parse(f"{port} -> {to.address}:{to.port}") for port in door.opens]
    except ValueError:
        door.opens = ()
        what = f"FORCE_NAT to {to.address}, where no packet is forwarded: it opens nothing yet"
        door.note(f"{what}; write that service's own port into `opens`", check=True)
        return
    door.redirects = tuple(filter(None, parsed))
    what = "FORCE_NAT: the opening forwards its port, for this door's clients alone, as fwknopd did"
    needs = "This host must forward packets (net.ipv4.ip_forward), and other firewalls must let them through"
    door.note(f"{what}. {needs}", check=True)


def _resolve_redirects(doors: Sequence[SignedDoor]) -> None:
    """Let each port lead to one place, that of its first door; fwknopd forwarded each client by its own stanza."""
    first: dict[Port, tuple[Redirect | None, str]] = {}
    for door in doors:
        leads = dict.fromkeys(door.opens) | {each.port: each for each in door.redirects}
        others = [port for port, lead in leads.items() if first.setdefault(port, (lead, door.name))[0] != lead]
        if others:
            door.opens, door.redirects, door.on_open = (), (), ["true"]
            what = f"{others[0]} leads elsewhere for {first[others[0]][1]}, and a port leads to one place"
            door.note(f"{what}: this door opens nothing yet; write another port", check=True)


def _times(door: SignedDoor) -> None:
    for_s, max_s = door.stanza.for_s or DEFAULT_FOR_S, door.stanza.max_s or DEFAULT_MAX_S
    door.for_ms = 1000 * min(for_s, max_s)  # like fwknopd, which also logs a warning
    door.for_max_ms = 1000 * max_s if max_s > for_s else None


def _cycle(door: SignedDoor, command: str, service: Service) -> None:
    """Convert the commands to `opens` if they are understood; otherwise keep them as hooks."""
    stanza = door.stanza
    closing = stanza.cycle_close if stanza.cycle_close not in (None, NO_COMMAND) else ""
    start, stop = (_substitute(text or "", stanza.open_ports) for text in (command, closing))
    rule = parse_command(start, service).rule
    door.for_ms = 1000 * (stanza.cycle_s or DEFAULT_FOR_S) if closing else SHORTEST_MS
    if rule is not None and rule.opens and (not stop or reverts(stop, rule, service)):
        door.opens = rule.ports
        for remark in rule.remarks:
            door.note(remark, check=True)
        if not closing:
            door.for_ms = UNTIL_CLOSED_MS
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


def _line(door: SignedDoor) -> str:
    stanza = door.stanza
    options = [f'doors="{door.name}"']
    if stanza.sources:
        networks = (str(place).removesuffix("/32") for place in stanza.sources)
        options.append(f'from="{",".join(networks)}"')
    if door.for_max_ms is not None:
        options.append(f'for-max="{format_duration(door.for_max_ms)}"')
    if stanza.expires:
        options.append(f'expiry-time="{stanza.expires}"')
    name = stanza.username if stanza.username and _SIMPLE_NAME.fullmatch(stanza.username) else "NAME"
    return f"{','.join(options)} KIND KEY {name}"


def _note_duplicates(doors: Sequence[SignedDoor]) -> None:
    """Note doors that could be one door: in access.conf every shared key needed its own stanza."""
    first: dict[object, str] = {}
    for door in doors:
        other = first.setdefault((door.opens, door.redirects, door.for_ms), door.name) if door.opens else door.name
        if other != door.name:
            door.note(f'does what {other} does: take it out, and write doors="{other}" in the line, if you like')


def _signed_port(opened: Sequence[Port]) -> Port:
    return next(
        port
        for number in range(DEFAULT_SIGNED_PORT.number, 0, -1)
        if (port := Port(Protocol.UDP, number)) not in opened
    )


def _write(file: str, doors: Sequence[SignedDoor], notes: Sequence[ImportNote], signed_port: Port) -> str:
    port = [f'port = "{signed_port}"'] if signed_port != DEFAULT_SIGNED_PORT else []
    tables = [line for door in doors for line in _table(door)]
    head = f"# Made from {toml_text(file)} by `doorward import`."
    return "\n".join([head, *comments(notes), "", "[signed]", *port, *tables]) + "\n"


def _table(door: SignedDoor) -> Iterator[str]:
    yield from ("", f"[doors.{door.name}]", *comments(door.notes))
    if door.opens:
        yield f"opens = {toml_list(map(str, door.redirects or door.opens))}"
    if door.redirects and "FORCE_MASQUERADE" in door.stanza.flags:
        yield "masquerade = true"
    if door.on_open:
        yield f"on_open = {toml_list(door.on_open)}"
    if door.on_close:
        yield f"on_close = {toml_list(door.on_close)}"
    yield f'for = "{format_duration(door.for_ms)}"'
