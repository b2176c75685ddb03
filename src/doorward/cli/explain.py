"""`doorward explain`."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from doorward.cli import explain_output, output
from doorward.cli.knock_options import seconds
from doorward.cli.options import add_config, configuration_path
from doorward.cli.output import LevelPrinter
from doorward.client.hosts import suggestion
from doorward.config.files import read
from doorward.daemon import bans
from doorward.daemon.bans import read_bans
from doorward.daemon.ledger import ledger_path, read_records
from doorward.errors import HostError, MalformedError, UsageError
from doorward.explain.align import Diagnosis
from doorward.explain.collect import MOST_KEPT, PacketCollector
from doorward.explain.compiled_config import CompiledConfig, build_config
from doorward.explain.history import diagnose_records, with_ban
from doorward.explain.sources import SourceTraces, server_addresses
from doorward.explain.summary import MOST_IN_JSON, MOST_SHOWN, Summary, summarize
from doorward.kernel.interfaces import InterfaceMonitor
from doorward.kernel.live_capture import LiveCapture
from doorward.model import Address, parse_address, sources_with
from doorward.nftables.ban_sets import ban_network
from doorward.packets.pcap import CaptureFile

EXAMPLE = """\
  # doorward explain knock.pcap    # made by `tcpdump -i any -w knock.pcap`
  …
  => the third knock came 6.2 s after the first; `within` is 5s
     hint: knock faster, or increase `within`
exit status: 0 a door opened, 1 none did, 2 usage or configuration error"""
MOST_RECORDS = 1000
_FOREVER_S = float(10**9)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    parser.usage = "doorward explain [FILE or ADDRESS] [--live ADDRESS] [options]"
    parser.add_argument(
        "what",
        metavar="FILE or ADDRESS",
        nargs="?",
        help="capture file (- for stdin), or an address to look up in the ledger",
    )
    add_config(parser)
    parser.add_argument("--live", metavar="ADDRESS", help="capture packets from this address, from now on")
    parser.add_argument("--for", dest="for_", metavar="T", help="how long --live captures (default: until Ctrl-C)")
    parser.add_argument("--source", metavar="ADDRESS", help="only packets from this address")
    parser.add_argument("--host", metavar="ADDRESS", action="append", help="an address of the server (may be repeated)")
    parser.add_argument("--door", metavar="NAME", help="only this door")
    parser.add_argument("--json", action="store_true", help="one JSON object per source")
    output.add_color(parser)


def run(args: argparse.Namespace) -> int:
    """Print why a knock opened a door or did not; return 1 if none opened."""
    if (args.what is None) == (args.live is None):
        raise UsageError(
            "nothing-to-explain", "name one thing to explain: a capture file, an address, or --live ADDRESS"
        )
    if args.for_ is not None and args.live is None:
        raise UsageError("for-needs-live", "--for is for --live; add --live ADDRESS, or leave --for out")
    if args.live is not None:
        return _explain_live(args, _address("--live", args.live))
    with suppress(ValueError):
        return _explain_ledger(args, parse_address(args.what))
    return _explain_file(args)


def _address(option: str, text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError:
        raise UsageError(
            "invalid-address", f"{option}: invalid address {text!r}; write it as 192.0.2.7 or 2001:db8::7"
        ) from None


def _explain_ledger(args: argparse.Namespace, address: Address) -> int:
    records = list(read_records(ledger_path(), 0.0, MOST_RECORDS, args.door, sources_with(address)))
    diagnosis = _unless_banned(address, diagnose_records(str(address), records, time.time(), output.format_time))
    explain_output.print_history(address, records, diagnosis, LevelPrinter(args.color), as_json=args.json)
    return 0 if diagnosis.opened else 1


def _unless_banned(address: Address, diagnosis: Diagnosis) -> Diagnosis:
    """Return the diagnosis, or that the address is banned: then its knocks are ignored."""
    until_s = read_bans(ledger_path().with_name(bans.NAME)).get(ban_network(address), 0.0)
    return with_ban(diagnosis, str(address), until_s, output.format_time) if until_s > time.time() else diagnosis


def _compiled_config(args: argparse.Namespace) -> tuple[CompiledConfig, int | None]:
    """Return the compiled configuration and the index of the door in --door. UsageError if it is unknown."""
    compiled = build_config(read(configuration_path(args)))
    if args.door is None:
        return compiled, None
    index = compiled.door_index(args.door)
    if index is None:
        names = [door.name for door in compiled.doors]
        hint = suggestion(args.door, names) or "see the configuration for its name"
        raise UsageError("unknown-door", f"--door: unknown door {args.door!r}; {hint}")
    return compiled, index


def _explain_file(args: argparse.Namespace) -> int:
    compiled, door = _compiled_config(args)
    source = None if args.source is None else _address("--source", args.source)
    collector = PacketCollector(compiled, source)
    notes = []
    with _open_capture(args.what) as file:
        capture = CaptureFile(file)
        try:
            collector.feed_all(capture)
        except MalformedError as error:
            if not collector.frames:
                raise UsageError(error.code, f"{args.what}: {error}") from None
            notes.append(f"{error}; the packets before it are explained")
    if collector.is_unreadable:
        raise UsageError("unreadable-packets", f"{args.what}: {collector.unreadable.most_common(1)[0][0]}")
    if capture.truncated:
        notes.append(f"{capture.truncated}; the packets before it are explained")
    notes += _notes(collector)
    servers = _server_addresses(args, collector, compiled)
    traces = SourceTraces(compiled, servers.__contains__)
    traces.feed_all(collector.packets)
    for note in notes:
        output.error_line(f"doorward: {args.what}: {note}")
    limit = MOST_IN_JSON if args.json else MOST_SHOWN
    summary = summarize(compiled, traces, servers, servers.__contains__, source=source, door=door, most=limit)
    return _print(args, compiled, summary, collector, servers)


def _notes(collector: PacketCollector) -> Iterator[str]:
    if collector.is_full:
        yield f"only the first {MOST_KEPT:,} relevant packets are explained; select some with --source"
    if collector.is_timeless:
        yield "all packets have the same time, so deadlines cannot be checked; capture with tcpdump"
    if collector.unreadable and not collector.packets:
        reason, count = collector.unreadable.most_common(1)[0]
        yield f"none of {collector.frames:,} frames contains a packet that can be explained; {count:,}: {reason}"


def _server_addresses(
    args: argparse.Namespace, collector: PacketCollector, compiled: CompiledConfig
) -> frozenset[bytes]:
    """Return the server's addresses: from --host, else this host's if knocks went there, else the most knocked at."""
    if args.host:
        return frozenset(_address("--host", text).packed for text in args.host)
    own: frozenset[bytes] = frozenset()
    with suppress(HostError):
        links = InterfaceMonitor()
        try:
            own = links.local_addresses().addresses
        finally:
            links.close()
    return server_addresses(collector.packets, compiled, own)


def _print(
    args: argparse.Namespace,
    compiled: CompiledConfig,
    summary: Summary,
    collector: PacketCollector,
    servers: frozenset[bytes],
) -> int:
    began_s = (collector.began_ns or 0) / 1e9
    printer, is_whole = LevelPrinter(args.color), args.source is not None
    explain_output.print_report(compiled, summary, began_s, servers, printer, whole=is_whole, as_json=args.json)
    return 0 if any(source.diagnosis.opened for source in summary.sources) else 1


def _explain_live(args: argparse.Namespace, address: Address) -> int:
    compiled, door = _compiled_config(args)
    collector = PacketCollector(compiled)
    for_s = seconds("--for", args.for_, _FOREVER_S)
    with LiveCapture(address) as capture:
        traces = SourceTraces(compiled, capture.is_local)
        how_long = "press Ctrl-C to stop" if args.for_ is None else f"for {args.for_}"
        with _on_interrupt(capture.stop):
            output.error_line(f"doorward: watching {address}; {how_long}")
            for packet in capture.packets(time.monotonic() + for_s):
                packet_seen = collector.feed_packet(packet.network, packet.at_ns)
                step = traces.feed(packet_seen) if packet_seen else None
                if step is not None and not args.json:
                    explain_output.print_step(compiled, step, address)
                if collector.is_full:
                    break
        for note in _notes(collector):
            output.error_line(f"doorward: {note}")
        summary = summarize(compiled, traces, frozenset(), capture.is_local, source=address, door=door)
    sources = tuple(source._replace(diagnosis=_unless_banned(address, source.diagnosis)) for source in summary.sources)
    summary = summary._replace(sources=sources)
    began_s = (collector.began_ns or 0) / 1e9
    explain_output.print_live(compiled, summary, began_s, LevelPrinter(args.color), as_json=args.json)
    return 0 if any(source.diagnosis.opened for source in summary.sources) else 1


@contextmanager
def _open_capture(path: str) -> Iterator[BinaryIO]:
    """Open a capture. A pipe is read to its end even after Ctrl-C, since that also stops its writer."""
    if path == "-":
        if sys.stdin.isatty():
            raise UsageError(
                "stdin-is-terminal",
                "standard input is a terminal; pipe a capture into it: tcpdump -w - | doorward explain -",
            )
        with _on_interrupt(lambda: None):
            yield sys.stdin.buffer
        return
    try:
        with Path(path).open("rb") as file:
            yield file
    except FileNotFoundError:
        raise UsageError(
            "not-file-or-address", f"{path}: neither a file nor an address; name a capture file or an address"
        ) from None
    except OSError as error:
        raise UsageError("unreadable-file", f"{path}: cannot be read ({error.strerror}); name a capture file") from None


@contextmanager
def _on_interrupt(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` at the first Ctrl-C and continue; the second one ends the program."""

    def once(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        act()

    previous = signal.signal(signal.SIGINT, once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
