"""Parse access.conf as fwknopd 2.6 does, and report every fault in it at once.

A line is a keyword, a blank and a value up to a `;`; each SOURCE begins a stanza; a later line of a stanza replaces an
earlier one. What fwknopd silently ignores (an unknown keyword, a line above the first SOURCE, the rest of a line beyond
its buffer) is a fault. No message shows a key, or an unknown word: it may be part of a key.
"""

from __future__ import annotations

import base64
import re
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from ipaddress import IPv4Network
from typing import Any, NamedTuple

from doorward.config.diagnostics import nearest, shown
from doorward.config.values import MAX_OPENS
from doorward.errors import ConfigError, ConfigFault, InvalidValueError
from doorward.model import Port, Protocol, SecretBytes

MAX_SECONDS = (1 << 31) - 1
ANYWHERE = "ANY"

_REMARK = r"\s*(?:#.*)?"  # fwknopd ends a number or an address at the blank before it
_NETWORK = re.compile(r"([0-9.]{7,15})(?:/([0-9.]{1,15}))?" + _REMARK, re.ASCII | re.DOTALL)
_PORT = re.compile(r"(tcp|udp)/\s*([0-9]{1,9})" + _REMARK, re.ASCII | re.DOTALL | re.IGNORECASE)
_SECONDS = re.compile(r"([0-9]{1,12})\s*(?:s|secs?|seconds?)?" + _REMARK, re.ASCII | re.DOTALL | re.IGNORECASE)
_DATE = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{2}|[0-9]{4})" + _REMARK, re.ASCII | re.DOTALL)
_NAT = re.compile(r"([0-9.]{7,15})\s+([0-9]{1,5})" + _REMARK, re.ASCII | re.DOTALL)
_YES_OR_NO = {"y": True, "yes": True, "n": False, "no": False}


class SourceAddress(NamedTuple):
    """The address and port of a service behind this host."""

    address: str
    port: int


def networks(text: str) -> tuple[IPv4Network, ...]:
    """Parse `192.0.2.7,203.0.113.0/24`; an empty tuple means any source."""
    words = [word.strip() for word in text.split(",")]
    parsed = [_network(word) for word in words if word.upper() != ANYWHERE]
    return tuple(dict.fromkeys(parsed)) if len(parsed) == len(words) else ()


def _network(word: str) -> IPv4Network:
    match = _NETWORK.fullmatch(word)
    try:
        if match is None:
            raise ValueError
        return IPv4Network((match[1], _prefix(match[2] or "32")), strict=False)
    except ValueError:
        remedy = "write addresses like 192.0.2.7 or 203.0.113.0/24 with commas between them, or ANY"
        raise InvalidValueError("invalid-address", f"invalid IPv4 address {shown(word)}; {remedy}") from None


def _prefix(text: str) -> int:
    """Parse 24 or 255.255.255.0. Raises ValueError for a netmask with gaps."""
    if "." not in text:
        return int(text)
    mask = int(IPv4Network(text).network_address)
    length = mask.bit_count()
    if mask != (0xFFFF_FFFF << (32 - length)) & 0xFFFF_FFFF:
        raise ValueError
    return length


def ports(text: str) -> tuple[Port, ...]:
    """Parse `tcp/22, udp/53`."""
    parsed = tuple(dict.fromkeys(port(word.strip()) for word in text.split(",")))
    if len(parsed) > MAX_OPENS:
        fault = f"{len(parsed)} ports are too many for one door"
        raise InvalidValueError("too-many-ports", f"{fault}; write two stanzas, each with at most {MAX_OPENS} of them")
    return parsed


def port(word: str) -> Port:
    """Parse one port in fwknop's syntax, the protocol first."""
    match = _PORT.fullmatch(word)
    if match is None:
        remedy = "write ports like tcp/22 with commas between them, each by itself"
        raise InvalidValueError("invalid-port", f"invalid port {shown(word)}, which fwknopd misreads; {remedy}")
    if not 1 <= int(match[2]) <= 65535:
        raise InvalidValueError("port-range", f"port {int(match[2])} does not exist; write a number from 1 to 65535")
    return Port(Protocol[match[1].upper()], int(match[2]))


def seconds(text: str) -> int | None:
    """Parse a time in seconds; None (0 in the file) means the default."""
    match = _SECONDS.fullmatch(text)
    if match is None:
        raise InvalidValueError("invalid-time", f"invalid time {shown(text)}; write a whole number of seconds, like 30")
    if int(match[1]) > MAX_SECONDS:
        raise InvalidValueError("time-range", f"{int(match[1])} seconds is out of range; write at most {MAX_SECONDS}")
    return int(match[1]) or None


def boolean(text: str) -> bool:
    """Parse Y or N."""
    word = text.partition("#")[0].strip().lower()
    if word not in _YES_OR_NO:
        means = "yes" if word.startswith("y") else "no"
        raise InvalidValueError(
            "not-y-or-n", f"{shown(text)} is neither Y nor N, and fwknopd reads it as {means}; write Y or N"
        )
    return _YES_OR_NO[word]


def expiry(text: str) -> str:
    """Convert MM/DD/YYYY, in local time, to authorized_keys' format YYYYMMDD."""
    match = _DATE.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        month, day, year = map(int, match.groups())
        return date(year + 2000 if year < 100 else year, month, day).isoformat().replace("-", "")
    except ValueError:
        raise InvalidValueError(
            "invalid-date", f"invalid date {shown(text)}; write it as MM/DD/YYYY, like 12/31/2030"
        ) from None


def expiry_epoch(text: str) -> str | None:
    """Convert seconds since 1970 to authorized_keys' time format; None (0 in the file) means never."""
    match = _SECONDS.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        return f"{datetime.fromtimestamp(int(match[1]), UTC):%Y%m%d%H%M%SZ}" if int(match[1]) else None
    except (ValueError, OverflowError, OSError):
        raise InvalidValueError(
            "invalid-time", f"invalid time {shown(text)}; write seconds since 1970, like 1900000000"
        ) from None


def translation(text: str) -> SourceAddress:
    """Parse the address and port that connections are forwarded to."""
    match = _NAT.fullmatch(text)
    try:
        if match is None or not 1 <= int(match[2]) <= 65535:
            raise ValueError
        return SourceAddress(str(IPv4Network(match[1]).network_address), int(match[2]))
    except ValueError:
        raise InvalidValueError(
            "invalid-address-and-port", f"invalid address and port {shown(text)}; write both, like 192.0.2.7 22"
        ) from None


def words(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list."""
    return tuple(word.strip() for word in text.split(","))


def passphrase(raw: bytes) -> SecretBytes | None:
    """Return a key that is written as it is; None: the placeholder, which fwknopd rejects."""
    return None if raw == b"__CHANGEME__" else SecretBytes(raw)


def base64_key(raw: bytes) -> SecretBytes | None:
    """Decode a key; None: it is not base64."""
    letters = raw.rstrip(b"=")
    try:
        return SecretBytes(base64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True))
    except ValueError:
        return None


MAX_LINE_BYTES = 1022  # fwknopd reads the rest as another line, even in a comment
MAX_STANZAS = 10_000
MAX_FAULTS = 1000  # reported at most, for a file of another format
DEFAULT_FOR_S, DEFAULT_MAX_S = 30, 300
NO_COMMAND = "NONE"  # as CMD_CYCLE_CLOSE


class Stanza(NamedTuple):
    """What one SOURCE allows. `named`: the keywords in it; `repeated`: those that occur more than once."""

    line: int
    sources: tuple[IPv4Network, ...] = ()  # empty: any source
    open_ports: tuple[Port, ...] = ()  # empty: any port that a packet requests
    restrict_ports: tuple[Port, ...] = ()
    destinations: tuple[IPv4Network, ...] = ()  # empty: every address
    for_s: int | None = None
    max_s: int | None = None
    cycle_open: str | None = None
    cycle_close: str | None = None
    cycle_s: int | None = None
    username: str | None = None
    source_required: bool = False
    runs_commands: bool = False
    translation: SourceAddress | None = None
    expires: str | None = None  # in authorized_keys' time format
    signers: tuple[str, ...] = ()
    key: SecretBytes | None = None
    hmac_key: SecretBytes | None = None
    hmac_digest: str = "sha256"
    mode: str = "cbc"
    flags: frozenset[str] = frozenset()  # the keywords of FLAGS set to yes
    named: frozenset[str] = frozenset()
    repeated: tuple[str, ...] = ()

    @property
    def allowed_ports(self) -> tuple[Port, ...]:
        """The ports of OPEN_PORTS that may be requested."""
        return tuple(port for port in self.open_ports if port not in self.restrict_ports)


class Include(NamedTuple):
    """Another file, or a directory of files, with its own stanzas."""

    line: int
    path: str


class AccessConfiguration(NamedTuple):
    """A parsed file; stanzas in the order of the file."""

    stanzas: tuple[Stanza, ...]
    includes: tuple[Include, ...]


class AccessSetting(NamedTuple):
    """The field that a keyword sets, and the converter of its value: a text, or bytes for one of SECRETS."""

    field: str
    read: Callable[[Any], object]


SOURCE = "SOURCE"
SETTINGS = {
    SOURCE: AccessSetting("sources", networks),
    "OPEN_PORTS": AccessSetting("open_ports", ports),
    "RESTRICT_PORTS": AccessSetting("restrict_ports", ports),
    "DESTINATION": AccessSetting("destinations", networks),
    "FW_ACCESS_TIMEOUT": AccessSetting("for_s", seconds),
    "MAX_FW_TIMEOUT": AccessSetting("max_s", seconds),
    "CMD_CYCLE_OPEN": AccessSetting("cycle_open", str),
    "CMD_CYCLE_CLOSE": AccessSetting("cycle_close", str),
    "CMD_CYCLE_TIMER": AccessSetting("cycle_s", seconds),
    "REQUIRE_USERNAME": AccessSetting("username", str),
    "REQUIRE_SOURCE_ADDRESS": AccessSetting("source_required", boolean),
    "REQUIRE_SOURCE": AccessSetting("source_required", boolean),
    "ENABLE_CMD_EXEC": AccessSetting("runs_commands", boolean),
    "FORCE_NAT": AccessSetting("translation", translation),
    "ACCESS_EXPIRE": AccessSetting("expires", expiry),
    "ACCESS_EXPIRE_EPOCH": AccessSetting("expires", expiry_epoch),
    "KEY": AccessSetting("key", passphrase),
    "KEY_BASE64": AccessSetting("key", base64_key),
    "HMAC_KEY": AccessSetting("hmac_key", passphrase),
    "HMAC_KEY_BASE64": AccessSetting("hmac_key", base64_key),
    "HMAC_DIGEST_TYPE": AccessSetting("hmac_digest", str.lower),
    "ENCRYPTION_MODE": AccessSetting("mode", str.lower),
    "GPG_REMOTE_ID": AccessSetting("signers", words),
    "GPG_FINGERPRINT_ID": AccessSetting("signers", words),
}
FLAGS = ("FORCE_MASQUERADE", "FORWARD_ALL", "DISABLE_DNAT", "ENABLE_CMD_SUDO_EXEC", "GPG_DISABLE_SIG",
         "GPG_IGNORE_SIG_VERIFY_ERROR", "GPG_ALLOW_NO_PW", "GPG_REQUIRE_SIG")  # fmt: skip
SECRETS = ("KEY", "KEY_BASE64", "HMAC_KEY", "HMAC_KEY_BASE64", "GPG_DECRYPT_PW")
PASSED_OVER = ("CMD_EXEC_USER", "CMD_EXEC_GROUP", "CMD_SUDO_EXEC_USER",
               "CMD_SUDO_EXEC_GROUP", "SUDO_EXE", "FORCE_SNAT", "GPG_HOME_DIR", "GPG_EXE", "GPG_DECRYPT_ID",
               "%include_keys")  # fmt: skip
INCLUDES = ("%include", "%include_folder")
WORDS = (*SETTINGS, *FLAGS, *SECRETS, *PASSED_OVER, *INCLUDES)

_FIRST = re.compile(r"\s*(\S*).*", re.ASCII | re.DOTALL)
_LINE = re.compile(r"\s*(\S+)\s+([^;\r]+)", re.ASCII)


def parse(text: str, file: str, encoding: str = "utf-8") -> AccessConfiguration:
    """Parse a whole file, whose bytes were decoded so. Raises ConfigError with its first MAX_FAULTS faults."""
    reader = _Reader(file, encoding)
    for number, line in enumerate(text.split("\n"), 1):
        reader.read_line(number, line)
        if len(reader.faults) >= MAX_FAULTS:
            break
    for stanza in reader.stanzas:
        reader.complete(stanza)
    if not reader.stanzas and not reader.faults:
        reader.nothing()
    if reader.faults:
        raise ConfigError(reader.faults)
    return AccessConfiguration(tuple(map(_build_stanza, reader.stanzas)), tuple(reader.includes))


def first_word(line: str) -> str:
    """Return the first word of a line as fwknopd reads it: up to its last colon."""
    word = _FIRST.sub(r"\1", line)
    return word.rpartition(":")[0] if ":" in word else word


@dataclass
class _Stanza:
    line: int
    fields: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, bool] = field(default_factory=dict)
    named: Counter[str] = field(default_factory=Counter)


def _build_stanza(stanza: _Stanza) -> Stanza:
    twice = tuple(word for word, times in stanza.named.items() if times > 1)
    flags = frozenset(word for word, is_set in stanza.flags.items() if is_set)
    return Stanza(stanza.line, **stanza.fields, flags=flags, named=frozenset(stanza.named), repeated=twice)


@dataclass
class _Reader:
    file: str
    encoding: str
    faults: list[ConfigFault] = field(default_factory=list)
    stanzas: list[_Stanza] = field(default_factory=list)
    includes: list[Include] = field(default_factory=list)

    def fault(self, code: str, line: int, fault: str, remedy: str) -> None:
        self.faults.append(ConfigFault(code, self.file, line, fault, remedy))

    def encode(self, text: str) -> bytes:
        """Return the bytes that the file has: fwknopd reads no text."""
        return text.encode(self.encoding, "surrogatepass")

    def read_line(self, number: int, line: str) -> None:
        if "\0" in line:
            self.fault("nul-byte", number, "a NUL byte is in the line", "save the file as text")
        elif len(self.encode(line)) > MAX_LINE_BYTES:
            fault = f"the line is longer than {MAX_LINE_BYTES} bytes, and fwknopd reads the rest as another line"
            self.fault("line-too-long", number, fault, "write shorter lines")
        elif line.strip() and not line.lstrip().startswith(("#", ";")):
            self.read_setting(number, line)

    def read_setting(self, number: int, line: str) -> None:
        match, word = _LINE.match(line), first_word(line)
        value = match[2].rstrip(string.whitespace) if match else ""
        if word not in WORDS:
            self.fault("unknown-keyword", number, "the line begins with an unknown keyword", _remedy(word))
        elif not value:
            self.fault("no-value", number, f"{word} has no value", f"write {word}, a blank and its value")
        elif word in INCLUDES:
            self.includes.append(Include(number, value))
        elif word == SOURCE and len(self.stanzas) == MAX_STANZAS:
            self.fault(
                "too-many-stanzas", number, f"there are more than {MAX_STANZAS} stanzas", "import the file in parts"
            )
        elif word != SOURCE and not self.stanzas:
            self.fault(
                "outside-stanza", number, f"{word} is above the first SOURCE, and fwknopd ignores it", "write it below"
            )
        else:
            self.assign(number, word, value)

    def assign(self, number: int, word: str, text: str) -> None:
        if word == SOURCE:
            self.stanzas.append(_Stanza(number))
        stanza = self.stanzas[-1]
        stanza.named[word] += 1
        try:
            if word in SETTINGS:
                value = self.encode(text) if word in SECRETS else text
                stanza.fields[SETTINGS[word].field] = SETTINGS[word].read(value)
            elif word in FLAGS:
                stanza.flags[word] = boolean(text)
        except InvalidValueError as error:
            fault, _, remedy = str(error).rpartition("; ")
            self.fault(error.code, number, f"{word}: {fault}", remedy)

    def complete(self, stanza: _Stanza) -> None:
        named = set(stanza.named)
        for word, other in (("CMD_CYCLE_OPEN", "CMD_CYCLE_CLOSE"), ("CMD_CYCLE_CLOSE", "CMD_CYCLE_OPEN")):
            if word in named and other not in named:
                self.fault(
                    "missing-setting", stanza.line, f"the stanza has {word} and no {other}", f"write {other} too"
                )
        closes = stanza.fields.get("cycle_close", NO_COMMAND) != NO_COMMAND
        if closes and "CMD_CYCLE_OPEN" in named and "CMD_CYCLE_TIMER" not in named:
            self.fault(
                "no-cycle-timer",
                stanza.line,
                "the stanza has no CMD_CYCLE_TIMER",
                "write after how many seconds it closes",
            )

    def nothing(self) -> None:
        remedy = "write SOURCE ANY and OPEN_PORTS tcp/22"
        if self.includes:
            remedy = f"import the file that line {self.includes[0].line} includes"
        self.fault("no-stanza", 1, "there is no stanza", remedy)


def _remedy(word: str) -> str:
    near = nearest(word, WORDS) or nearest(word.upper(), WORDS)
    return f"did you mean {near}?" if near else "remove it, or write # before it"
