"""Parse knockd.conf as knockd 0.8 does, and report every fault in it at once.

A working file is read as knockd reads it, which is not always what its manual says: a later directive replaces an
earlier one (Interface: the first counts), UseSyslog counts in any section, two sections may have the same name.
Whatever knockd accepts silently although it can never open anything is a fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

from doorward.config.diagnostics import nearest, shown
from doorward.config.schema import MAX_SEQUENCE
from doorward.config.values import MAX_INTERFACE_BYTES
from doorward.errors import ConfigError, ConfigFault, InvalidValueError
from doorward.model import FlagFilter, Port, Protocol, parse_address

WHITESPACE = " \t\n\v\f\r"  # C's isspace; str.strip() alone would also strip a no-break space
FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg")
MAX_SECONDS = (1 << 31) - 1  # beyond it knockd's int overflows
EXAMPLE = "7000,8000:udp,9000"

_NUMBER = re.compile(r"\s*([0-9]{1,9})(?:/tcp)?\s*(?:#.*)?", re.ASCII | re.DOTALL)
_SECONDS = re.compile(r"([0-9]{1,12})\s*(?:s|secs?|seconds?)?\s*(?:#.*)?", re.ASCII | re.DOTALL | re.IGNORECASE)


def sequence(text: str) -> tuple[Port, ...]:
    """Parse `7000,8000:udp,9000:tcp`. Raises an ExceptionGroup with an InvalidValueError per invalid port."""
    words = text.split(",")
    if not text:
        raise InvalidValueError("empty-sequence", f"the sequence is empty; write its ports, like {EXAMPLE}")
    if len(words) > MAX_SEQUENCE:
        raise InvalidValueError("sequence-too-long", f"{len(words)} ports are too many; write at most {MAX_SEQUENCE}")
    ports: list[Port] = []
    faults: list[InvalidValueError] = []
    for word in words:
        try:
            ports.append(port(word))
        except InvalidValueError as error:
            faults.append(error)
    if faults:
        raise ExceptionGroup("ports", faults)
    return tuple(ports)


def port(word: str) -> Port:
    """Parse one port of a sequence; the default protocol is tcp."""
    number, *rest = word.split(":")
    protocol = rest[0].strip(WHITESPACE).upper() if rest else "TCP"
    name = shown(word.strip(WHITESPACE))
    if not word.strip(WHITESPACE):
        raise InvalidValueError(
            "missing-port", f"a port is missing next to a comma, and knockd reads it as port 0; write {EXAMPLE}"
        )
    if protocol not in Protocol.__members__ or len(rest) > 1:
        raise InvalidValueError("invalid-port", f"invalid port {name}; write it as 7000, 7000:tcp or 7000:udp")
    match = _NUMBER.fullmatch(number)
    if match is None:
        raise InvalidValueError(
            "invalid-port", f"invalid port {name}, which knockd misreads; write it as 7000 or 7000:udp"
        )
    if not 1 <= int(match[1]) <= 65535:
        raise InvalidValueError("port-range", f"port {int(match[1])} does not exist; write a number from 1 to 65535")
    return Port(Protocol[protocol], int(match[1]))


def seconds(minimum: int) -> Callable[[str], int]:
    """Return a converter for whole seconds from `minimum` up."""

    def read(text: str) -> int:
        match = _SECONDS.fullmatch(text)
        if match is None:
            raise InvalidValueError(
                "invalid-time", f"invalid time {shown(text)}; write a whole number of seconds, like 15"
            )
        number = int(match[1])
        if not minimum <= number <= MAX_SECONDS:
            raise InvalidValueError(
                "time-range", f"{number} seconds is out of range; write a number from {minimum} to {MAX_SECONDS}"
            )
        return number

    return read


def milliseconds(text: str) -> int:
    """Parse the deadline of a sequence, in milliseconds."""
    return 1000 * seconds(1)(text)


def flags(text: str) -> FlagFilter:
    """Parse `syn,!ack`: only the named bits are tested."""
    words = tuple(dict.fromkeys(text.lower().split(",")))
    for word in words:
        if word.removeprefix("!") not in FLAGS:
            remedy = f"write some of {', '.join(FLAGS)}, ! before one that must not be set, commas and no spaces"
            raise InvalidValueError("unknown-flag", f"unknown TCP flag {shown(word)}; {remedy}")
    return FlagFilter.parse(words)


def target(text: str) -> IPv4Address | IPv6Address:
    """Parse an address; knockd accepts a host name but then never matches it."""
    try:
        return parse_address(text)
    except ValueError:
        remedy = "write the address of the host itself, like 192.0.2.7"
        raise InvalidValueError("invalid-address", f"invalid address {shown(text)}; {remedy}") from None


def interface(text: str) -> str | None:
    """Parse an interface name or `any`; None if empty."""
    is_invalid = any(letter.isspace() or letter in '/"' or letter < " " for letter in text)
    if is_invalid or len(text.encode(errors="surrogatepass")) > MAX_INTERFACE_BYTES:
        raise InvalidValueError(
            "invalid-interface",
            f"invalid interface name {shown(text)}; write its name alone as `ip link` shows it, like eth0",
        )
    return text or None


def path(text: str) -> str:
    """Parse a file name."""
    if not text:
        raise InvalidValueError("no-file-named", "no file is named; write its full path, like /etc/knockd/sequences")
    return text


def path_or_none(text: str) -> str | None:
    """Parse a file name; None if empty."""
    return text or None


DEFAULT_WITHIN_MS = 25_000
DEFAULT_CMD_TIMEOUT_S = 10
DEFAULT_INTERFACE = "eth0"
DEFAULT_PID_FILE = "/var/run/knockd.pid"
MAX_NAME = 127  # characters; knockd truncates longer names
ANY_FLAGS = FlagFilter(0, 0)  # without TCPFlags knockd matches every TCP packet


class KnockdOptions(NamedTuple):
    """The section [options]. None: not in the file; the command line or the default applies."""

    use_syslog: bool = False
    log_file: str | None = None
    pid_file: str | None = None
    interface: str | None = None


class KnockdDoor(NamedTuple):
    """One section: its sequence and its commands. Command None: not in the file; empty: nothing runs.

    For IPv6 sources `start_command_6` and `stop_command_6` apply, or if one is not in the file, its IPv4 counterpart.
    `knock` is empty if `one_time_file` holds the sequences.
    """

    name: str
    line: int
    knock: tuple[Port, ...] = ()
    one_time_file: str | None = None
    within_ms: int = DEFAULT_WITHIN_MS
    flags: FlagFilter = ANY_FLAGS
    target: IPv4Address | IPv6Address | None = None
    start_command: str | None = None
    start_command_6: str | None = None
    cmd_timeout_s: float = DEFAULT_CMD_TIMEOUT_S
    stop_command: str | None = None
    stop_command_6: str | None = None


class KnockdConfiguration(NamedTuple):
    """A parsed file; doors in the order of the file."""

    options: KnockdOptions
    doors: tuple[KnockdDoor, ...]


class KnockdSetting(NamedTuple):
    """The field that a directive sets, and the converter of its value."""

    field: str
    read: Callable[[str], object]


OPTIONS = {
    "LogFile": KnockdSetting("log_file", path_or_none),
    "PidFile": KnockdSetting("pid_file", path_or_none),
    "Interface": KnockdSetting("interface", interface),
}
DOOR = {
    "Sequence": KnockdSetting("knock", sequence),
    "One_Time_Sequences": KnockdSetting("one_time_file", path),
    "Seq_Timeout": KnockdSetting("within_ms", milliseconds),
    "Timeout": KnockdSetting("within_ms", milliseconds),
    "TCPFlags": KnockdSetting("flags", flags),
    "Target": KnockdSetting("target", target),
    "Start_Command": KnockdSetting("start_command", str),
    "Command": KnockdSetting("start_command", str),
    "Start_Command_6": KnockdSetting("start_command_6", str),
    "Command_6": KnockdSetting("start_command_6", str),
    "Cmd_Timeout": KnockdSetting("cmd_timeout_s", seconds(0)),
    "Stop_Command": KnockdSetting("stop_command", str),
    "Stop_Command_6": KnockdSetting("stop_command_6", str),
}
SYSLOG = "UseSyslog"


def parse(text: str, file: str) -> KnockdConfiguration:
    """Parse a whole file. Raises ConfigError with all its faults."""
    reader = _Reader(file)
    for number, line in enumerate(text.split("\n"), 1):
        reader.read_line(number, line.strip(WHITESPACE))
    for section in reader.doors:
        reader.complete(section)
    if not reader.doors:
        reader.fault("no-door", 1, "no door is defined", "write a section [NAME] with Sequence and Start_Command")
    if reader.faults:
        raise ConfigError(reader.faults)
    doors = tuple(KnockdDoor(door.name, door.line, **door.fields) for door in reader.doors)
    return KnockdConfiguration(KnockdOptions(**reader.options.fields), doors)


@dataclass
class _Section:
    name: str
    line: int
    settings: Mapping[str, KnockdSetting]  # keys in upper case
    fields: dict[str, Any] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)  # the fields set in the file, even if faulty


_UPPER_OPTIONS = {key.upper(): setting for key, setting in OPTIONS.items()}
_UPPER_DOOR = {key.upper(): setting for key, setting in DOOR.items()}


@dataclass
class _Reader:
    file: str
    faults: list[ConfigFault] = field(default_factory=list)
    options: _Section = field(default_factory=lambda: _Section("options", 0, _UPPER_OPTIONS))
    doors: list[_Section] = field(default_factory=list)
    current: _Section | None = None

    def fault(self, code: str, line: int, fault: str, remedy: str) -> None:
        self.faults.append(ConfigFault(code, self.file, line, fault, remedy))

    def read_line(self, number: int, line: str) -> None:
        if "\0" in line:
            self.fault("nul-byte", number, "a NUL byte is in the line", "save the file as text")
        elif not line or line.startswith("#"):
            return
        elif line.startswith("[") and line.endswith("]"):
            self.enter(number, line[1:-1])
        elif self.current is None:
            self.fault(
                "outside-section",
                number,
                f"{shown(line)} is outside of any section",
                "write [options] or a door's [NAME] above it",
            )
        else:
            self.directive(number, line, self.current)

    def enter(self, number: int, name: str) -> None:
        if name == "options":
            self.current = self.options
            return
        if not name or len(name) > MAX_NAME or any(letter < " " or letter == "\x7f" for letter in name):
            self.fault(
                "invalid-door-name", number, f"invalid door name {shown(name)}", f"write 1 to {MAX_NAME} letters in [ ]"
            )
        self.current = _Section(name, number, _UPPER_DOOR)
        self.doors.append(self.current)

    def directive(self, number: int, line: str, section: _Section) -> None:
        key, equals, value = line.partition("=")
        word = key.strip(WHITESPACE)
        upper = word.upper() if word.isascii() else word
        if not equals and upper == SYSLOG.upper():
            self.options.fields["use_syslog"] = True
        elif not equals:
            self.fault(
                "invalid-directive",
                number,
                f"invalid directive {shown(line)}",
                _remedy(re.split(f"[{WHITESPACE}]", line)[0], section, "write NAME = VALUE"),
            )
        elif upper not in section.settings:
            where = "[options]" if section is self.options else f"door {shown(section.name)}"
            otherwise = f"remove it, or write one of {', '.join(_known(section))}"
            self.fault(
                "unknown-directive",
                number,
                f"unknown directive {shown(word)} in {where}",
                _remedy(word, section, otherwise),
            )
        else:
            self.assign(number, word, section, section.settings[upper], value.strip(WHITESPACE))

    def assign(self, number: int, word: str, section: _Section, setting: KnockdSetting, text: str) -> None:
        if setting.field == "knock" and "one_time_file" in section.named:
            self.fault(
                "sequence-and-one-time",
                number,
                "a Sequence below One_Time_Sequences would open the door once more",
                "remove one of the two",
            )
        section.named.add(setting.field)
        for code, fault, remedy in self.store(section, setting, text):
            self.fault(code, number, f"{word}: {fault}", remedy)

    def store(self, section: _Section, setting: KnockdSetting, text: str) -> Iterator[tuple[str, str, str]]:
        """Store a value as knockd would; yield its faults as (code, fault, remedy)."""
        try:
            value = setting.read(text)
        except (InvalidValueError, ExceptionGroup) as error:
            yield from split_messages(error)
            return
        fields = section.fields
        if isinstance(value, FlagFilter):
            fields["flags"] = _merge_flags(fields.get("flags", ANY_FLAGS), value)
        elif setting.field != "interface" or fields.get("interface") is None:
            fields[setting.field] = value
        if setting.field == "one_time_file":
            fields.pop("knock", None)

    def complete(self, door: _Section) -> None:
        if door.name and not door.named & {"knock", "one_time_file"}:
            remedy = f"write Sequence = {EXAMPLE} below [{door.name[:MAX_NAME]}]"
            self.fault("no-sequence", door.line, f"door {shown(door.name)} has no sequence", remedy)


def _merge_flags(earlier: FlagFilter, later: FlagFilter) -> FlagFilter:
    """Merge the flags of two lines; on a bit that both name, the later one counts."""
    return FlagFilter(earlier.mask | later.mask, earlier.value & ~later.mask | later.value)


def split_messages(error: Exception) -> Iterator[tuple[str, str, str]]:
    """Yield the faults of a value, an InvalidValueError or a group of them, as (code, fault, remedy)."""
    for single in error.exceptions if isinstance(error, ExceptionGroup) else (error,):
        if isinstance(single, InvalidValueError):
            fault, _, remedy = str(single).rpartition("; ")
            yield single.code, fault, remedy


def _known(section: _Section) -> list[str]:
    return list(DOOR if section.settings is _UPPER_DOOR else (*OPTIONS, SYSLOG))


def _remedy(word: str, section: _Section, otherwise: str) -> str:
    """Return the remedy for a word that is not a valid directive in this section."""
    upper = word.upper()
    if upper == SYSLOG.upper():
        return f"write {SYSLOG} alone on its line"
    if section.name.strip().lower() == "options" and upper in _UPPER_OPTIONS:
        return "write the section's name as [options], in small letters"
    if upper in _UPPER_OPTIONS:
        return "write it below [options]"
    if upper in _UPPER_DOOR:
        return "write it below a door's [NAME]" if section.settings is _UPPER_OPTIONS else otherwise
    spellings = {known.upper(): known for known in _known(section)}
    near = nearest(upper, spellings)
    return f"did you mean {spellings[near]}?" if near else otherwise
