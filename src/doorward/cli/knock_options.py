"""Options shared by `doorward knock`, `proxy` and `hold`, and how they combine with hosts.toml."""

from __future__ import annotations

import sys
from _socket import AF_INET, AF_INET6, AF_UNSPEC, inet_pton  # see client/sequence.py
from collections.abc import Callable, Iterable

from doorward.client.hosts import (
    KnownHost,
    find_door,
    find_host,
    hosts_path,
    is_door,
    read_hosts,
    suggestion,
)
from doorward.client.sequence import Target, resolve, targets_of_version
from doorward.errors import InvalidValueError, UsageError
from doorward.escape import visible
from doorward.named_tuple import NamedTuple
from doorward.port import DEFAULT_SIGNED_PORT, Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

# The options of signed knocks, by their argparse names.
_SIGNED = {
    "server_key": "--server-key",
    "signed_ports": "--signed-port",
    "identity": "--identity",
    "certificate": "--certificate",
    "asked": "--from",
    "gate": "--gate",
    "for_s": "--for",
    "confirm": "--confirm",
    "once": "--once",
}
LONGEST_S = 365 * 86_400  # of a duration option; some system calls fail above 24.8 days, others above 292 years
Knock = Callable[[list[Target]], list[Target]]  # knocks at the addresses of a host; returns those reached


class KnockPlan(NamedTuple):
    """The host to knock at, with the doors to open (or, if it `closes`, to close) by a signed knock, or a sequence."""

    host: KnownHost
    doors: tuple[str, ...]
    sequence: tuple[Port, ...]
    closes: bool = False

    def __str__(self) -> str:
        return "the sequence" if self.sequence else "door " + ", ".join(map(repr, self.doors))


def add_arguments(
    parser: argparse.ArgumentParser,
    *,
    with_sequences: bool = True,
    once_help: str = "open for one TCP connection alone",
) -> None:
    """Declare the shared options."""
    families = parser.add_mutually_exclusive_group()
    families.add_argument("-4", dest="family", action="store_const", const=AF_INET, default=AF_UNSPEC, help="IPv4 only")
    families.add_argument("-6", dest="family", action="store_const", const=AF_INET6, help="IPv6 only")
    if not with_sequences:
        parser.set_defaults(sequence=False)
    else:
        parser.add_argument("--delay", metavar="TIME", help="pause between packets of a sequence (default: 10ms)")
        parser.add_argument(
            "--sequence", action="store_true", help="use the door's sequence, even if a server key is known"
        )
    signed = parser.add_argument_group("signed knocks (can also be set in hosts.toml)")
    add_signed_options(signed)
    signed.add_argument("--once", action="store_const", const=True, help=once_help)


def add_signed_options(signed: argparse._ArgumentGroup) -> None:
    """Declare the options of signed knocks that `doorward add` writes to hosts.toml."""
    signed.add_argument("--server-key", metavar="KEY", help="the line that `doorward key server` prints on the server")
    signed.add_argument(
        "--signed-port",
        dest="signed_ports",
        metavar="PORT",
        help=f"port, or ports in turn: 443,53 (default: {DEFAULT_SIGNED_PORT})",
    )
    signed.add_argument("--identity", metavar="FILE", help="the SSH key that signs (default: the agent's first)")
    signed.add_argument("--certificate", metavar="FILE", help="a certificate of that key: FILE-cert.pub")
    signed.add_argument(
        "--from", dest="asked", metavar="ADDRESS", help="open for this address; `auto`: this host's own"
    )
    signed.add_argument("--gate", metavar="NAME", help="the gate's name, if it has one")
    signed.add_argument("--for", dest="for_s", metavar="T", help="how long to keep the door open")
    signed.add_argument(
        "--confirm", action="store_const", const=True, help="ask for a confirmation; `knock`: exit status 1 without"
    )


def seconds(option: str, text: str | None, default_s: float) -> float:
    """Return the duration of an option in seconds, or the default. UsageError if it is invalid or too long."""
    if text is None:
        return default_s
    from doorward.config.duration import parse_duration_ms

    value_s: float = read_option(option, parse_duration_ms, text) / 1000
    if value_s > LONGEST_S:
        raise UsageError("duration-too-long", f"{option}: {text} is too long; write at most {LONGEST_S // 86_400}d")
    return value_s


def plan_knock(args: argparse.Namespace, words: list[str], choose_door: Callable[[KnownHost], str]) -> KnockPlan:
    """Return the plan for a host and its DOOR or PORT arguments; `choose_door` picks a door if there are none.

    hosts.toml is read only if needed. UsageError if something is missing or options exclude each other.
    """
    values = _signed_values(args)
    has_ports = not all(map(is_door, words))
    _reject_joined(args.host, words)
    if words and not any(map(is_door, words)) and _is_address(args.host):
        _reject_signed_options(values, args.host, "ports are")
        return KnockPlan(KnownHost(args.host, args.host, {}), (), tuple(map(parse_port, words)))
    path = hosts_path()
    hosts = read_hosts(path)
    host = hosts.get(args.host, KnownHost(args.host, args.host, {}))._replace(**values)
    if has_ports or args.sequence or host.server_key is None:
        why = "ports are" if has_ports else "--sequence asks for" if args.sequence else ""
        _reject_signed_options(values, args.host, why)
        return _plan_sequence(path, hosts, args.host, words, choose_door)
    doors = tuple(words) or (choose_door(host),)
    for door in doors:
        _warn_of_typo(path, host, door)
    return KnockPlan(host, doors, ())


def _reject_joined(host: str, words: list[str]) -> None:
    """Raise UsageError for ports joined by commas, or to the host by a colon."""
    for word in words:
        if "," in word:
            spaced = " ".join(word.replace(",", " ").split())
            raise UsageError("ports-with-comma", f"{word}: separate ports and doors by spaces: {spaced}")
    name, colon, port = host.partition(":")
    if colon and port.isdigit():
        raise UsageError("port-in-host", f"{host}: write the port after a space: {name} {port}")


def plan_targets(plan: KnockPlan, family: int) -> list[Target]:
    """Resolve the host's addresses; with --from, only those of that address family."""
    targets = resolve(plan.host.address, family)
    requested = plan.host.asked
    return (
        targets
        if requested is None or requested.version is None or plan.sequence
        else targets_of_version(targets, requested.version)
    )


def only_door(host: KnownHost) -> str:
    """Return the host's only door. UsageError if it has none or several."""
    names = sorted(host.doors)
    if len(names) == 1:
        return names[0]
    if names:
        raise UsageError(
            "ambiguous-door", f"which door? {hosts_path()}: host {host.name!r} has {', '.join(names)}; name one"
        )
    if host.server_key is not None:
        raise UsageError("no-door-named", f"which door? no door of {host.name!r} is known here; name the one to open")
    raise UsageError(
        "host-without-door", f"{hosts_path()}: host {host.name!r} has no door; give ports (7000 8000/udp 9000)"
    )


def parse_port(word: str) -> Port:
    """Return a port of a sequence; `7000` is TCP. UsageError if it is invalid."""
    try:
        return Port.parse(f"{word}/tcp" if word.isdigit() else word)
    except InvalidValueError as error:
        raise UsageError(error.code, str(error)) from None


def print_sent(text: str) -> None:
    """Print a line and flush, so that later errors on standard error come after it even in a pipe."""
    sys.stdout.write(visible(text) + "\n")
    sys.stdout.flush()


def _signed_values(args: argparse.Namespace) -> dict[str, Any]:
    """Return the given options of signed knocks, parsed."""
    values = {name: text for name in _SIGNED if (text := getattr(args, name)) is not None}
    if values:
        from doorward.client.request_options import PARSERS

        values |= {
            name: read_option(_SIGNED[name], PARSERS[name], values[name]) for name in values.keys() & PARSERS.keys()
        }
    return values


def read_option(option: str, parse: Callable[[str], Any], text: str) -> Any:
    """Return the parsed value of an option; UsageError names the option."""
    try:
        return parse(text)
    except InvalidValueError as error:
        raise UsageError(error.code, f"{option}: {error}") from None


def _reject_signed_options(options: Iterable[str], host: str, why: str) -> None:
    for name in options:
        option = _SIGNED[name]
        if why:
            raise UsageError(
                "option-needs-signed", f"{option} is for signed knocks, and {why} a sequence; leave one of the two out"
            )
        raise UsageError(
            "no-server-key",
            f"{option} is for signed knocks, and no server key is known for {host!r}; "
            "add --server-key KEY, the line that `doorward key server` prints on the server",
        )


def _plan_sequence(
    path: str, hosts: dict[str, KnownHost], name: str, words: list[str], choose_door: Callable[[KnownHost], str]
) -> KnockPlan:
    if hosts:
        _warn_if_exposed(path)
    words = words or [choose_door(find_host(path, hosts, name))]
    sequence: list[Port] = []
    for word in words:
        sequence += find_door(path, hosts, name, word) if is_door(word) else (parse_port(word),)
    return KnockPlan(hosts.get(name, KnownHost(name, name, {})), (), tuple(sequence))


def _warn_if_exposed(path: str) -> None:
    from doorward.client.user_files import is_exposed

    if is_exposed(path):
        warn(f"{path}: every user can read the sequences; run `chmod o-r {path}`")


def _warn_of_typo(path: str, host: KnownHost, door: str) -> None:
    """Warn of a door that the file does not list: the server never answers a knock for an unknown door."""
    if host.doors and door not in host.doors:
        hint = suggestion(door, host.doors) or f"its doors here: {', '.join(host.doors)}"
        warn(f"{path}: {host.name!r} lists no door {door!r}; {hint}")


def warn(text: str) -> None:
    """Print a warning."""
    sys.stderr.write(f"doorward: warning: {visible(text)}\n")


def _is_address(host: str) -> bool:
    address, _, scope = host.partition("%")
    for family in (AF_INET6,) if scope else (AF_INET, AF_INET6):
        try:
            inet_pton(family, address)
        except (OSError, ValueError):
            continue
        return True
    return False
