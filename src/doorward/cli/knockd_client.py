"""`knock`: knockd's client, with the options and messages of its version 0.8.

Unlike the original, it exits with 1 and a message if nothing could be sent, after trying the host's other addresses;
it never sends half a sequence; and it waits 10 ms between packets unless -d is given.
"""

from __future__ import annotations

import _socket as socket  # without its enumerations, which take half as long as a knock to build
import sys
import time

from doorward import __version__
from doorward.client.sequence import DEFAULT_DELAY_S, Target, knock, resolve
from doorward.errors import DoorwardError
from doorward.named_tuple import NamedTuple
from doorward.port import Port, Protocol

USAGE = """\
usage: knock [options] <host> <port[:proto]> [port[:proto]] ...
options:
  -u, --udp            make all ports hits use UDP (default is TCP)
  -d, --delay <t>      wait <t> milliseconds between port hits
  -4, --ipv4           Force usage of IPv4
  -6, --ipv6           Force usage of IPv6
  -v, --verbose        be verbose
  -V, --version        display version
  -h, --help           this help

example:  knock myserver.example.com 123:tcp 456:udp 789:tcp

"""
VERSION = f"knock 0.8 (doorward {__version__})\nThe options of Judd Vinet's knock 0.8, in a program of doorward's own\n"
# In the order in which getopt names them where an abbreviation is ambiguous.
LONG = {"verbose": "v", "udp": "u", "delay": "d", "help": "h", "version": "V", "ipv4": "4", "ipv6": "6"}
NO_NAME = "Name or service not known"
NO_SERVICE = "Servname not supported for ai_socktype"
LONGEST_DELAY_MS = (1 << 31) - 1


class ClientArguments(NamedTuple):
    """The parsed command line; `delay_ms` is None without -d."""

    host: str
    words: list[str]
    family: int
    delay_ms: int | None
    udp: bool
    verbose: bool


class ExitRequest(Exception):
    """Ends the program with this output and exit status."""

    def __init__(self, status: int, out: str = "", err: str = "") -> None:
        self.status, self.out, self.err = status, out, err


def main(argv: list[str] | None = None) -> int:
    """Knock; return 0 when everything was sent."""
    words = sys.argv if argv is None else argv
    try:
        _run(parse_arguments(words[0], words[1:]))
    except ExitRequest as request:
        sys.stderr.write(request.err)
        sys.stdout.write(request.out)
        return request.status
    except DoorwardError as error:
        sys.stderr.write(f"knock: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run(call: ClientArguments) -> None:
    sequence = tuple(parse_port(call, word) for word in call.words)
    numbers = [word.partition(":")[0] for word in call.words]  # printed as given: `ssh` stays `ssh`

    def report(target: Target, index: int, port: Port) -> None:
        sys.stdout.write(f"hitting {port.protocol.name.lower()} {_address_text(target)}:{numbers[index - 1]}\n")
        sys.stdout.flush()

    delay_s = DEFAULT_DELAY_S if call.delay_ms is None else call.delay_ms / 1000
    knock(_targets(call, numbers[0]), sequence, delay_s, report=report if call.verbose else None)
    if call.delay_ms:
        time.sleep(delay_s)  # after the last one too: scripts rely on it


def _address_text(target: Target) -> str:
    """Return the address, with its interface if it is link-local."""
    scope = target.sockaddr[3] if len(target.sockaddr) > 3 else 0
    return f"{target}%{socket.if_indextoname(scope)}" if isinstance(scope, int) and scope else str(target)


def _targets(call: ClientArguments, number: str) -> list[Target]:
    try:
        return resolve(call.host, call.family)
    except DoorwardError as error:
        reason = error.__context__.strerror if isinstance(error.__context__, socket.gaierror) else NO_NAME
        raise _unresolved(call.host, number, reason) from None


def parse_port(call: ClientArguments, word: str) -> Port:
    """Parse `7000`, `7000:udp` or a service name. ExitRequest if it is invalid."""
    number, _, name = word.partition(":")
    protocol = name.lower() or "tcp"
    if protocol not in ("tcp", "udp"):
        raise ExitRequest(1, err=f"knock: unknown protocol in {word!r}; write {number}:tcp or {number}:udp\n")
    port = _port_number(number)
    if port is None:
        raise _unresolved(call.host, number, NO_SERVICE)
    return Port(Protocol.UDP if call.udp or protocol == "udp" else Protocol.TCP, port)


def _port_number(word: str) -> int | None:
    """Return the port of a number or service name; None if it is invalid."""
    digits = word.strip()
    if digits.isascii() and digits.isdigit():
        number = int(digits[:9])
    else:
        try:
            number = socket.getservbyname(word)
        except (OSError, ValueError):
            return None
    return number if 1 <= number <= 65535 else None


def _unresolved(host: str, number: str, reason: str | None) -> ExitRequest:
    return ExitRequest(1, err=f"Failed to resolve hostname '{host}' on port {number}\ngetaddrinfo: {reason}\n")


def parse_arguments(program: str, argv: list[str]) -> ClientArguments:
    """Parse the command line as getopt_long does: options anywhere, abbreviated, and joined."""
    values: dict[str, str] = {}
    family = socket.AF_UNSPEC
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            words += rest
            break
        if not word.startswith("-") or word == "-":
            words.append(word)
            continue
        for letter, value in _long(program, word, rest) if word.startswith("--") else _short(program, word, rest):
            if letter in "hV":
                raise ExitRequest(1, USAGE) if letter == "h" else ExitRequest(0, VERSION)
            values[letter] = value
            family = {"4": socket.AF_INET, "6": socket.AF_INET6}.get(letter, family)
    if len(words) < 2:
        raise ExitRequest(1, USAGE)
    delay_ms = _atoi(values["d"]) if "d" in values else None
    if delay_ms is not None and delay_ms < 0:
        raise ExitRequest(1, err="error: delay cannot be negative\n")
    return ClientArguments(words[0], words[1:], family, delay_ms, "u" in values, "v" in values)


def _short(program: str, word: str, rest: list[str]) -> list[tuple[str, str]]:
    options: list[tuple[str, str]] = []
    for index, letter in enumerate(word[1:], 2):
        if letter == "d":
            if not word[index:] and not rest:
                raise ExitRequest(1, USAGE, f"{program}: option requires an argument -- 'd'\n")
            return [*options, ("d", word[index:] or rest.pop(0))]
        if letter not in LONG.values():
            raise ExitRequest(1, USAGE, f"{program}: invalid option -- '{letter}'\n")
        options.append((letter, ""))
        if letter in "hV":
            break
    return options


def _long(program: str, word: str, rest: list[str]) -> list[tuple[str, str]]:
    name, equals, value = word[2:].partition("=")
    names = [name] if name in LONG else [known for known in LONG if known.startswith(name)]
    if len(names) > 1:
        possible = "".join(f" '--{known}'" for known in names)
        raise ExitRequest(1, USAGE, f"{program}: option '{word}' is ambiguous; possibilities:{possible}\n")
    if not names:
        raise ExitRequest(1, USAGE, f"{program}: unrecognized option '{word}'\n")
    if names[0] != "delay":
        if equals:
            raise ExitRequest(1, USAGE, f"{program}: option '--{names[0]}' doesn't allow an argument\n")
        return [(LONG[names[0]], "")]
    if not equals and not rest:
        raise ExitRequest(1, USAGE, f"{program}: option '--delay' requires an argument\n")
    return [("d", value if equals else rest.pop(0))]


def _atoi(text: str) -> int:
    """Parse a number as C's atoi does: the leading digits, or 0."""
    text = text.lstrip()
    sign = -1 if text.startswith("-") else 1
    digits = text.removeprefix("-" if sign < 0 else "+")
    length = next((index for index, letter in enumerate(digits) if letter not in "0123456789"), len(digits))
    return sign * min(int(digits[: min(length, 12)] or "0"), LONGEST_DELAY_MS)


if __name__ == "__main__":
    sys.exit(main())
