"""Parse the operator's answers, and write the text of the configuration. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from doorward.config import values
from doorward.config.duration import format_duration
from doorward.config.schema import Configuration, Mark, Mode
from doorward.doctor import firewalls
from doorward.doctor.host import Facts
from doorward.doctor.remedies import DEFAULT_MARK
from doorward.errors import InvalidValueError, UsageError
from doorward.escape import printable, toml_list, toml_text
from doorward.init.random_sequence import Pick, choose_sequence
from doorward.init.survey import HostSurvey
from doorward.model import DEFAULT_SIGNED_PORT, Port

_OTHER_MARKS = tuple(Mark(1 << bit, 1 << bit) for bit in (13, 20, 21, 22, 23))  # if routing rules match DEFAULT_MARK


def accept_mark_for(configuration: Configuration, facts: Facts) -> Mark | None:
    """Return a mark for `accept_mark` if another firewall drops what a door opens and can accept by mark."""
    findings = firewalls.check("", configuration, facts)
    if not any("mark" in command for finding in findings for command in finding.commands):
        return None
    taken = [rule.mask for rule in facts.network.mark_rules]
    free = (mark for mark in (DEFAULT_MARK, *_OTHER_MARKS) if not any(mark.mask & mask for mask in taken))
    return next(free, None)


FOR_MS = 30_000


class DoorSpec(NamedTuple):
    """A door to write: its name, and the ports it opens."""

    name: str
    opens: tuple[Port, ...]

    def __str__(self) -> str:
        return f"{self.name}={','.join(map(str, self.opens))}"


class ConfigPlan(NamedTuple):
    """The configuration to write. `knocks` has the sequences, by door name."""

    mode: Mode
    doors: tuple[DoorSpec, ...]
    public: tuple[Port, ...] = ()
    knocks: Mapping[str, tuple[Port, ...]] = {}
    signed: bool = True
    accept_mark: Mark | None = None
    name: str | None = None  # of the gate, which signed knocks are for
    address: str | None = None  # that clients use, if it is not this host's own


def parse_door(text: str) -> DoorSpec:
    """Return the door of `ssh=22` or `web=80/tcp,443/tcp`; a bare number is TCP. UsageError: it is invalid."""
    name, equals, ports = text.partition("=")
    try:
        opens = [_port(word) for word in ports.split(",")] if equals else []
        return DoorSpec(values.name(name.strip()), values.opens(opens))
    except InvalidValueError as error:
        what = f"invalid door {text[:60]!r}" + (f": {str(error).partition('; ')[0]}" if equals else "")
        raise UsageError(
            "invalid-door", f"{what}; expected NAME=PORTS, e.g. ssh=22/tcp or web=80/tcp,443/tcp"
        ) from None


def gate_name(*names: str) -> str | None:
    """Return the first of these that a gate can have as its name; None: none can."""
    for word in names:
        with suppress(ValueError):
            return values.name(word)
    return None


def parse_doors(texts: Iterable[str]) -> tuple[DoorSpec, ...]:
    """Return several doors. UsageError: one is invalid, or a name or port is used twice."""
    doors = tuple(map(parse_door, texts))
    for what, things in (
        ("name", [door.name for door in doors]),
        ("port", [port for door in doors for port in door.opens]),
    ):
        twice = next((thing for place, thing in enumerate(things) if thing in things[:place]), None)
        if twice is not None:
            raise UsageError("duplicate-door", f"duplicate {what} {twice}; each door needs its own")
    signed = next((door for door in doors if DEFAULT_SIGNED_PORT in door.opens), None)
    if signed is not None:
        raise UsageError(
            "reserved-port", f"door {signed.name!r}: {DEFAULT_SIGNED_PORT} is reserved for signed knocks; leave it out"
        )
    return doors


def parse_public(text: str) -> tuple[Port, ...]:
    """Return ports and port ranges separated by commas or spaces. UsageError: one is invalid."""
    try:
        ports = [
            values.port_range(f"{word}/tcp" if word.isdecimal() else word) for word in text.replace(",", " ").split()
        ]
    except InvalidValueError as error:
        raise UsageError(error.code, f"{error} (separate public ports with commas)") from None
    return values.public(ports)


def public_ports(host: HostSurvey, doors: Collection[DoorSpec]) -> tuple[Port, ...]:
    """Return the ports to keep public in mode stealth: every service that no door hides."""
    hidden = {port for door in doors for port in door.opens}
    return tuple(service.port for service in host.services if service.port not in hidden)


def with_sequences(plan: ConfigPlan, host: HostSurvey, pick: Pick) -> ConfigPlan:
    """Return the plan with a random sequence for each door, far from those of the others."""
    taken = {*host.taken, *plan.public, DEFAULT_SIGNED_PORT, *(port for door in plan.doors for port in door.opens)}
    knocks: dict[str, tuple[Port, ...]] = {}
    for door in plan.doors:
        others = [port for knock in knocks.values() for port in knock]
        knocks[door.name] = choose_sequence(pick, taken, host.ephemeral, others)
    return plan._replace(knocks=knocks)


def config_text(plan: ConfigPlan, programs: Mapping[Port, str]) -> str:
    """Return the text of the configuration; `programs` has the listening programs, for the comments."""
    return "\n".join([*_gate(plan, programs), *_doors(plan, programs), *_signed(plan)]) + "\n"


def _gate(plan: ConfigPlan, programs: Mapping[Port, str]) -> Iterator[str]:
    yield "# Written by `doorward init`."
    if plan.knocks:
        yield "# Its sequences are secrets: anyone who knows one can knock."
    yield "# doorward.toml(5) explains every setting; `doorward check` validates an edit and rates its strength."
    yield from ("", "[gate]", f"mode = {toml_text(plan.mode)}")
    if plan.name is not None:
        yield f"name = {toml_text(plan.name)}    # in each client's link: a signed knock for it opens no other gate"
    if plan.address is not None:
        yield f"address = {toml_text(plan.address)}    # in each client's link"
    if plan.mode is Mode.STEALTH and not plan.public:
        yield "public = []"
    elif plan.mode is Mode.STEALTH:
        yield "public = ["
        for ports, program in _ranges(plan.public, programs):
            yield f"    {toml_text(ports)},{_comment(program)}"
        yield "]"
    if plan.accept_mark is not None:
        yield f"accept_mark = {toml_text(str(plan.accept_mark))}    # for the other firewall; see `doorward doctor`"


def _ranges(ports: Iterable[Port], programs: Mapping[Port, str]) -> Iterator[tuple[str, str]]:
    """Yield adjacent ports of the same program as a range."""
    run: list[Port] = []
    for port in [*sorted(set(ports)), None]:
        is_adjacent = port is not None and run and port == Port(run[-1].protocol, run[-1].number + 1)
        if run and not (is_adjacent and port is not None and programs.get(port, "") == programs.get(run[-1], "")):
            first = f"{run[0].number}-" if len(run) > 1 else ""
            yield f"{first}{run[-1]}", programs.get(run[0], "")
            run = []
        run += [port] if port is not None else []


def _doors(plan: ConfigPlan, programs: Mapping[Port, str]) -> Iterator[str]:
    for door in plan.doors:
        yield from ("", f"[doors.{door.name}]")
        if door.name in plan.knocks:
            yield f"knock = {toml_list(map(str, plan.knocks[door.name]))}"
        yield f"opens = {toml_list(map(str, door.opens))}{_comment(', '.join(_names(door.opens, programs)))}"
        yield f'for = "{format_duration(FOR_MS)}"'


def _signed(plan: ConfigPlan) -> Iterator[str]:
    if plan.signed:
        yield from (
            "",
            "[signed]",
            'key = "server.key"',
            'authorized_keys = "authorized_keys"    # keys that may knock',
        )


def _names(ports: Iterable[Port], programs: Mapping[Port, str]) -> Sequence[str]:
    return list(dict.fromkeys(name for port in ports if (name := programs.get(port, ""))))


def _comment(text: str) -> str:
    """Return a name as a comment, without control characters, which would end it."""
    return f"    # {printable(text)}" if text else ""


def _port(word: str) -> Port:
    word = word.strip()
    return values.port(f"{word}/tcp" if word.isdecimal() else word)
