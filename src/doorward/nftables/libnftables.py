"""The nftables backend, through libnftables(3): in-process, one transaction per call.

Requests that libnftables is too slow for use netlink directly (nfnetlink.py).
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Collection, Iterable
from functools import cache

from doorward.config.duration import UNITS_MS
from doorward.core.diff import Remaining, SetChanges
from doorward.errors import HostError
from doorward.kernel.forwarding import is_tracking
from doorward.kernel.sock_diag import Connection
from doorward.model import Element, HostPort, Port, SetPort, Source, parse_address, parse_source, source_text
from doorward.nftables import ban_sets, behind, nfnetlink
from doorward.nftables.maps import proto_port, timeout_commands
from doorward.nftables.nfnetlink import GateUsage, SetWriter
from doorward.nftables.nft_error import NftError, element_error
from doorward.nftables.ruleset import COUNTERS, FROM_FILE, OPEN_BEHIND_SETS, OPEN_SETS, TABLE, Existing, Ruleset

_LIBRARY = "libnftables.so.1"
_ELEMENT = re.compile(
    r"([0-9a-f.:]+(?:/[0-9]+)?) \. (?:([0-9a-f]*[.:][0-9a-f.:]*) \. )?(tcp|udp|6|17) \. ([0-9]{1,5})\b"
    r"(?: timeout \w+)?(?: expires (\w+))?"
)
_NAMES = {"6": "tcp", "17": "udp"}  # nft reads protocol names from /etc/protocols, which may be missing
_SPAN = re.compile(r"([0-9]{1,15})(ms|[smhd])")


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        raise HostError(
            "no-libnftables", f"{_LIBRARY} is missing; install nftables 1.0.6 or newer (apt install nftables)"
        ) from None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    for name in (
        "nft_ctx_buffer_output",
        "nft_ctx_buffer_error",
        "nft_ctx_get_output_buffer",
        "nft_ctx_get_error_buffer",
        "nft_ctx_free",
    ):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_ctx_set_dry_run.argtypes = [ctypes.c_void_p, ctypes.c_bool]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library


class NftFirewall:
    """The table `inet doorward` in the network namespace in which this object was created."""

    _writer: SetWriter | None = None

    def load(self, ruleset: Ruleset, restore: Remaining, preexisting: Iterable[Connection] = ()) -> str:
        """Replace rules and maps in one transaction, during which no packet slips through.

        Keeps the elements of the open sets, adds `restore`, and lets the connections in `preexisting` continue.
        Returns the reason why `restore` was left out, or "".
        """
        existing, connections = self.existing(), [*_preexisting(preexisting)]
        names = {thing.name for thing in existing}
        sets = {*names, *(spec.name for spec in ruleset.sets)}
        if behind.PICKED_UP in sets - names and not is_tracking():
            connections.append(f"add element {TABLE} {behind.PICKED_UP} {{ {behind.PICK_UP} }}")

        def replace(entries: Remaining) -> None:
            more = [*connections, *_put(entries, sets)]
            try:
                self.run("\n".join([ruleset.replacing(existing), *more]))
            except NftError:
                if not ruleset.has_loaded(existing):
                    raise
                self.run("\n".join([ruleset.replacing(existing, afresh=True), *more]))

        return _with_or_without(replace, restore)

    def restore(self, text: str, restore: Remaining, preexisting: Iterable[Connection]) -> str:
        """Replace the whole table by the text of Ruleset.for_boot, in one transaction.

        Keeps the remaining open elements, but for those for one connection, which may come meanwhile; adds `restore`,
        and lets the connections in `preexisting` continue. Returns the reason why all of these elements were left
        out, or "".
        """
        try:
            left = {element: left_s for element, left_s in self.elements().items() if not element.once}
        except NftError:  # lost with the table
            left = {}
        try:
            banned = self.banned()
        except NftError:
            banned = {}
        entries = {**restore, **{e: max(left_s, restore.get(e, 0.0)) for e, left_s in left.items()}}
        sets = {name for name in OPEN_SETS if f"set {name} {{" in text}
        put = (*_preexisting(preexisting), *ban_sets.ban_commands(TABLE, banned))

        def replace(some: Remaining) -> None:
            self.run("\n".join([text, f"delete chain {TABLE} {FROM_FILE}", *put, *_put(some, sets)]))

        return _with_or_without(replace, entries)

    def is_from_file(self) -> bool:
        """Return whether the table was loaded at boot and no daemon has taken over yet."""
        return any(thing.name == FROM_FILE for thing in self.existing())

    def existing(self) -> list[Existing]:
        """Return the objects of the loaded table; [] without a table."""
        return nfnetlink.existing()

    def elements(self) -> dict[Element, float]:
        """Return the elements of the open sets, with the remaining seconds of each."""
        sets = [thing.name for thing in self.existing() if thing.name in OPEN_SETS]
        found: dict[Element, float] = {}
        for name in sets or OPEN_SETS[:2]:
            found |= read_elements(self.run(f"list set {TABLE} {name}"), once=name.startswith("once"))
        return found

    def present(self, elements: Iterable[Element]) -> frozenset[Element]:
        """Return those of these elements that are in their sets; none without a table."""
        return nfnetlink.present(elements)

    def apply(self, changes: SetChanges) -> None:
        """Add and remove open elements in one transaction; NftError if one to remove does not exist."""
        if not changes:
            return
        if self._writer is None or self._writer.pid != os.getpid():
            self._writer = SetWriter()
        try:
            self._writer.apply(changes)
        except OSError as error:
            raise element_error(error) from None

    def ban(self, new: ban_sets.Bans) -> None:
        """Add bans, each with its remaining seconds."""
        self.run("\n".join(ban_sets.ban_commands(TABLE, new)))

    def unban(self, ban: Source) -> None:
        """Remove a ban, if there is one."""
        self.run(ban_sets.unban_commands(TABLE, ban))

    def banned(self) -> dict[Source, float]:
        """Return the bans, with the remaining seconds of each."""
        text = "".join(self.run(f"list set {TABLE} {name}") for name in ban_sets.NAMES)
        return {ban: _seconds(left) for ban, left in ban_sets.parse_bans(text)}

    def counters(self) -> dict[str, int]:
        """Return the named counters: packets since the table was first loaded."""
        counted = nfnetlink.read_counters()
        return {name: counted.get(name, 0) for name in COUNTERS}

    def gauges(self, most: int) -> GateUsage:
        """Return how full the sets are, and the sources in the middle of a knock: at most `most` per map."""
        return nfnetlink.read_usage(most)

    def unload(self) -> None:
        """Delete the table, with all openings."""
        self.run(f"add table {TABLE}\ndelete table {TABLE}")

    def check(self, commands: str) -> None:
        """Validate commands without applying them; NftError if libnftables or the kernel would reject them."""
        self.run(commands, dry=True)

    def run(self, commands: str, flags: int = 0, *, dry: bool = False) -> str:
        """Run nft commands as one transaction and return their output; NftError with nft's message on failure."""
        library = _library()
        context = library.nft_ctx_new(0)
        if not context:
            raise HostError("no-context", "libnftables cannot create a context; is there memory left?")
        try:
            library.nft_ctx_buffer_output(context)
            library.nft_ctx_buffer_error(context)
            library.nft_ctx_output_set_flags(context, flags)
            library.nft_ctx_set_dry_run(context, dry)
            if library.nft_run_cmd_from_buffer(context, commands.encode()):
                raise NftError((library.nft_ctx_get_error_buffer(context) or b"").decode(errors="replace"))
            return (library.nft_ctx_get_output_buffer(context) or b"").decode(errors="replace")
        finally:
            library.nft_ctx_free(context)


def _with_or_without(replace: Callable[[Remaining], None], entries: Remaining) -> str:
    """Replace the gate with these elements, or without any if nftables rejects one; return its message, or "".

    Hiding the ports comes first: clients can knock again.
    """
    try:
        replace(entries)
    except NftError as error:
        if not entries:
            raise
        replace({})
        return str(error)
    return ""


def read_elements(text: str, *, once: bool = False) -> dict[Element, float]:
    """Parse the elements of an open set as nft lists them, with the remaining seconds of each; `once`: see Element.

    HostError on an unknown format, as of an unsupported version of nft.
    """
    found: dict[Element, float] = {}
    for address, host, protocol, number, expires in _ELEMENT.findall(text):
        try:
            port: SetPort = Port.parse(f"{number}/{_NAMES.get(protocol, protocol)}")
            if host:
                port = HostPort(port.protocol, port.number, parse_address(host))
            element = Element(parse_source(address), port, once)
        except ValueError:
            entry = f"{address} . {host and f'{host} . '}{protocol} . {number}"
            raise HostError(
                "unknown-element", f"nft lists the unknown element {entry!r}; install nftables 1.0.6 or newer"
            ) from None
        found[element] = _seconds(expires)
    return found


def _seconds(text: str) -> float:
    """Parse a remaining time as nft prints it, `1d2h3m4s500ms`."""
    return sum(int(number) * UNITS_MS[unit] for number, unit in _SPAN.findall(text)) / 1000


def _put(entries: Remaining, sets: Collection[str]) -> Iterable[str]:
    """Return commands that set elements with a new remaining time.

    A configuration without hosts behind this one has no set (of `sets`) for the openings of such doors that it removed.
    """
    for element, left_s in entries.items():
        name = nfnetlink.set_name(element)
        if name in sets or name not in OPEN_BEHIND_SETS:
            key = f"{source_text(element.address)} . {proto_port(element.port)}"
            yield from timeout_commands(f"{TABLE} {name}", key, left_s)


def _preexisting(connections: Iterable[Connection]) -> Iterable[str]:
    """Return commands that replace the recorded preexisting connections by these."""
    by_family: dict[int, list[str]] = {4: [], 6: []}
    for c in connections:
        source, destination = source_text(c.source), source_text(c.destination)
        by_family[c.source.version].append(f"{source} . {c.source_port} . {destination} . {c.destination_port}")
    for family, keys in by_family.items():
        yield f"flush set {TABLE} preexisting{family}"
        if keys:
            yield f"add element {TABLE} preexisting{family} {{ {', '.join(keys)} }}"
