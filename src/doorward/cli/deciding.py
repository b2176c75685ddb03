"""What `doorward init` is to write: by the options, by answers, or by what the host suggests."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from doorward.cli import asking
from doorward.cli.asking import ask
from doorward.config.schema import Mode
from doorward.errors import UsageError
from doorward.model import DEFAULT_SIGNED_PORT, Port
from doorward.setup import host, keys, planning, sharing
from doorward.setup.host import Host
from doorward.setup.keys import Found
from doorward.setup.planning import Plan, Wanted

Answer = TypeVar("Answer")
_NONE = "none"
_YES, _NO = "yes", "no"


class Decision(NamedTuple):
    """The plan, yet without sequences, whose keys may knock, whether to choose sequences, and the host's address."""

    plan: Plan
    who: Found | None
    has_sequences: bool
    address: str


def decide(args: argparse.Namespace, here: Host) -> Decision:
    """Take each answer from its option, or ask for it; with --yes take what the host suggests."""
    if not (args.yes or asking.is_terminal()):
        raise UsageError("there is no terminal to ask on; add --yes, and answers as options (`doorward init --help`)")
    doors = _doors(args, here)
    question = "Mode: guard hides these ports, stealth all that is not public"
    mode = _answer(args, args.mode, question, Mode.GUARD, _mode)
    if args.public is not None and mode is not Mode.STEALTH:
        raise UsageError(
            f"--public is for mode stealth, and mode {mode} leaves ports as they are; leave one of the two out"
        )
    public = _public(args, here, doors) if mode is Mode.STEALTH else ()
    who = None if args.no_signed else _who(args)
    has_sequences = who is None or _has_sequences(args)
    address = address_of(args, here, is_asked=True)
    name = planning.gate_name(*filter(None, (args.name, host.host_name())))
    plan = Plan(mode, doors, public, signed=not args.no_signed, name=name)
    return Decision(plan, who, has_sequences, address)


def unused(args: argparse.Namespace) -> list[str]:
    """Name the options of the call that say something of a new file."""
    options = {
        "--mode": args.mode,
        "--door": args.doors,
        "--public": args.public,
        "--sequence": args.sequence,
        "--no-signed": args.no_signed,
    }
    return [name for name, value in options.items() if value]


def address_of(args: argparse.Namespace, here: Host, *, is_asked: bool = False) -> str:
    """Give the name or address that clients use: as told, or the one that the host has."""
    default = str(here.address() or host.host_name())
    if args.address is None and not is_asked:
        return default
    return _answer(args, args.address, "Name or address that clients use", default, sharing.checked_address)


def _answer(
    args: argparse.Namespace, option: str | None, question: str, default: str, parse: Callable[[str], Answer]
) -> Answer:
    if option is not None or args.yes:
        return parse(default if option is None else option)
    return ask(question, default, parse)


def _doors(args: argparse.Namespace, here: Host) -> tuple[Wanted, ...]:
    ssh = here.ssh()
    default = str(Wanted("ssh", ssh)) if ssh else ""
    if args.yes and not args.doors and not ssh:
        raise UsageError("no SSH server was found here; name what is to be hidden: --door NAME=PORTS")
    option = " ".join(args.doors) if args.doors else None
    question = "Doors, each NAME=PORTS, with blanks between" if ssh else "Doors, each NAME=PORTS, like db=5432/tcp"
    return _answer(args, option, question, default, lambda text: planning.parse_doors(text.split()))


def _mode(text: str) -> Mode:
    try:
        return Mode(text)
    except ValueError:
        raise UsageError(f"{text[:40]!r} is no mode; write one of {', '.join(Mode)}") from None


def _public(args: argparse.Namespace, here: Host, doors: tuple[Wanted, ...]) -> tuple[Port, ...]:
    def parse(text: str) -> tuple[Port, ...]:
        public = () if text == _NONE else planning.parse_public(text)
        for port in public:
            if port == DEFAULT_SIGNED_PORT or any(port in door.opens for door in doors):
                raise UsageError(f"{port} cannot be public: a door opens it, or signed knocks go there; leave it out")
        return public

    default = ",".join(map(str, planning.public_of(here, doors))) or _NONE
    return _answer(args, args.public, "Ports that everybody reaches", default, parse)


def own_keys(args: argparse.Namespace) -> Found | None:
    """Give the keys of the file that the call names, or the operator's own; None: there are none."""
    if args.authorized_keys is not None:
        return _found(args.authorized_keys)
    return keys.first_keys(host.key_files())


def _who(args: argparse.Namespace) -> Found | None:
    """Give the keys of those who may send signed knocks; None: nobody yet."""
    first = own_keys(args)
    if args.yes or args.authorized_keys is not None:
        return first
    question = "Who may knock by SSH key: a file of public keys, or none"
    return ask(question, str(first.path) if first else _NONE, _found)


def _has_sequences(args: argparse.Namespace) -> bool:
    """Return whether a port sequence, too, opens doors that SSH keys open."""
    question = "A port sequence too, for clients without a key (anyone who sees it can repeat it): yes or no"
    return _answer(args, _YES if args.sequence else None, question, _NO, _yes_or_no)


def _yes_or_no(text: str) -> bool:
    if text not in (_YES, _NO):
        raise UsageError(f"{text[:40]!r} is not an answer; write {_YES} or {_NO}")
    return text == _YES


def _found(text: str) -> Found | None:
    if text == _NONE:
        return None
    found = keys.read_keys(Path(text).expanduser().absolute())
    if not found.lines:
        raise UsageError(f"{found.path}: no line holds a key that signed knocks take; name another file")
    return found
