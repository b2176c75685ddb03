"""Find the rules of other firewalls that drop what doors open, by tracing real packets in a copy of this host.

The copy is two unnamed network namespaces of a child process; they end with it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from doorward.config.schema import Configuration, Mark
from doorward.doctor.frames import TRACE, PacketFlow, Step, TraceEvent, build_packet, parse_event
from doorward.doctor.host import Block, Network, OwnDrop, PacketPath, Probe, Trace, Unchecked
from doorward.doctor.probes import plan_bypass_probes, plan_probes
from doorward.doctor.remedies import GATE_PRIORITY, own_drops, precedes_gate
from doorward.doctor.replica import Replica, UncheckedError, snapshot
from doorward.doctor.rules import Helper
from doorward.doctor.rulesets import LoadedRulesets, read_handles, read_rulesets
from doorward.errors import DoorwardError
from doorward.kernel import netlink
from doorward.kernel.child_process import run_in_child
from doorward.kernel.sock_diag import Connection
from doorward.model import Address, Port, Protocol, Redirect
from doorward.nftables.libnftables import NftFirewall

TIMEOUT_S = 9.0  # with its other checks, doctor then answers within 10 s
_GROUP = 9  # NFNLGRP_NFTRACE
_SOL_NETLINK, _ADD_MEMBERSHIP, _SO_RCVBUFFORCE = 270, 1, 33
_RECEIVE_BUFFER_BYTES = 64 << 20  # a packet is reported once per rule that it matches
_RECEIVE_BYTES = 1 << 17
MAX_BLOCKS = 16  # base chains that drop one packet
_FIRST_PORT, _LAST_PORT = 50001, 60000  # source ports, so that no other packet is traced
_FIRST_BEHIND = 54001  # from here on it is to a host behind this one, so it gets its mark at `forward`
_FIRST_UNMARKED = 57001  # from here on the packet gets no mark: its source has no opening
_MARKER_PORT = 50000
_OWN_TABLE = "doorward_trace"
_BEFORE_ALL, _AFTER_ALL = -(1 << 31), (1 << 31) - 1
# The first chains trace the test packets; the last ones show that they got through. The kernel's own answers
# (nothing listens in the copy) are dropped.
_TRACED = """
        udp sport {marker} meta nftrace set 1 drop
        meta l4proto {{ tcp, udp }} th sport {low}-{high} meta nftrace set 1
        meta l4proto {{ tcp, udp }} th dport {low}-{high} meta nftrace set 1
    }}"""
_INGRESS = (
    "table netdev {own} {{ chain ingress {{ type filter hook ingress devices = {{ {devices} }} priority {first};"
    + _TRACED
    + "\n}}"
)
_TABLE = (
    "table inet {own} {{ chain first {{ type filter hook prerouting priority {first};"
    + _TRACED
    + """
    chain gate {{ type filter hook prerouting priority {gate};
        {clearing}
        {marking}
    }}
    chain behind {{ type filter hook forward priority {gate};
        {marking_behind}
    }}
    {redirects}
    chain answers {{ type filter hook output priority {first};
        tcp flags & rst == rst drop
        icmp type destination-unreachable drop
        icmpv6 type destination-unreachable drop
        meta l4proto {{ tcp, udp }} th dport {low}-{high} meta nftrace set 1
    }}
    chain arrived {{ type filter hook input priority {last}; }}
    chain left {{ type filter hook postrouting priority {last}; }}
}}
"""
)


class _Outcome(NamedTuple):
    """The end of a packet's path: dropped under this base chain, or arrived; lost if there is no event."""

    event: TraceEvent | None = None
    base: tuple[str, str, str] = ("", "", "")

    @property
    def is_drop(self) -> bool:
        return self.event is not None and self.event.is_drop


def trace(configuration: Configuration, network: Network, session: Connection | None) -> Trace:
    """Send the packets of doors' users and return which rules drop them, within TIMEOUT_S."""
    probes = tuple(plan_probes(configuration, network, session))
    try:
        return run_in_child(lambda: _trace_in_child(configuration, network, probes), TIMEOUT_S)
    except TimeoutError:
        why = f"took more than {TIMEOUT_S:.0f} s"
    except DoorwardError as error:
        why = str(error)
    return Trace(unchecked=(Unchecked(why),))


def _trace_in_child(configuration: Configuration, network: Network, probes: Sequence[Probe]) -> Trace:
    names: tuple[str, ...] = ()
    unchecked: list[Unchecked] = []
    helpers: tuple[Helper, ...] = ()
    own: tuple[OwnDrop, ...] = ()
    try:
        rulesets, host_handles = read_rulesets(), read_handles()
        names = tuple(ruleset.name for ruleset in rulesets)
        if not rulesets:  # nothing filters packets
            return Trace((), tuple(PacketPath(probe, "new", (), probe.port) for probe in probes if not probe.is_knock))
        # A client of a host that another table forwards to uses another address, and may pass other rules.
        probes = [p for p in probes if not (p.is_behind and any(r.may_forward_to(p.destination) for r in rulesets))]
        helpers = tuple(helper for ruleset in rulesets for helper in ruleset.helpers())
        own = tuple(drop for ruleset in rulesets for drop in own_drops(ruleset))
        unchecked += [Unchecked(*rule) for ruleset in rulesets for rule in ruleset.uncheckable_rules()]
        led_to = {port.host.version for door in configuration.doors for port in door.leads_to}
        replica = Replica(snapshot().forwarding(led_to))  # where the host does not forward yet, another check says so
        has_ingress = any("hook ingress" in ruleset.text for ruleset in rulesets)
        tracer = _Tracer(replica, configuration, has_ingress=has_ingress)
        tracer.watch(loaded := LoadedRulesets(rulesets, host_handles))
        ways = [way for probe in probes for way in tracer.follow(probe)]
        ways += [way for probe in plan_bypass_probes(configuration, network, ways) for way in tracer.follow(probe)]
    except (DoorwardError, OSError) as error:
        return Trace(names, (), (Unchecked(str(error)), *unchecked), helpers, own)
    unchecked += [Unchecked(text) for text in loaded.unchecked]
    return Trace(names, tuple(ways), tuple(dict.fromkeys(unchecked or map(Unchecked, tracer.lost))), helpers, own)


class _Tracer:
    """Send packets into the copy, one at a time, and read the trace of each."""

    def __init__(self, replica: Replica, configuration: Configuration, *, has_ingress: bool) -> None:
        self._replica = replica
        self._marked_ports = iter(range(_FIRST_PORT, _FIRST_BEHIND))
        self._behind_ports = iter(range(_FIRST_BEHIND, _FIRST_UNMARKED))
        self._unmarked_ports = iter(range(_FIRST_UNMARKED, _LAST_PORT + 1))
        self._passes: list[str] = []  # nft commands that let the connection pass the chains that drop it
        self._is_fresh = True
        self.lost: list[str] = []
        # On a single processor, `send` returns after the packet has passed the whole stack.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        self._events = netlink.open_socket(netlink.NETFILTER, "nf_tables")
        self._events.bind((0, 0))
        with suppress(OSError):
            self._events.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        self._events.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)
        values = {
            "own": _OWN_TABLE, "first": _BEFORE_ALL, "last": _AFTER_ALL, "gate": GATE_PRIORITY, "marker": _MARKER_PORT,
            "low": _FIRST_PORT, "high": _LAST_PORT,
        }  # fmt: skip
        devices = ", ".join(f'"{name}"' for name in replica.index)
        ingress = _INGRESS.format(**values, devices=devices) if has_ingress else ""
        mark = configuration.gate.accept_mark
        rules = {
            "clearing": f"meta mark set {_others(mark)}" if mark else "",
            "marking": _marking(mark, _FIRST_PORT, _FIRST_BEHIND - 1),
            "marking_behind": _marking(mark, _FIRST_BEHIND, _FIRST_UNMARKED - 1),
            "redirects": _redirecting({each for door in configuration.doors for each in door.redirects}),
        }
        NftFirewall().run(_TABLE.format(**values, **rules) + ingress)

    def watch(self, loaded: LoadedRulesets) -> None:
        """Trace packets through these rulesets."""
        self._loaded = loaded

    def follow(self, probe: Probe) -> Iterator[PacketPath]:
        """Yield the paths of a connection's packets, from the first source that gets in, or else from the first."""
        source = probe.sources[0]
        for other in probe.sources if len(probe.sources) > 1 else ():
            outcome = self._send_once(self._flow(probe, other), Step.NEW, probe)
            if outcome.event is not None and not outcome.is_drop:
                source = other
                break
        yield from self._connection(probe, self._flow(probe, source))

    def _flow(self, probe: Probe, source: Address) -> PacketFlow:
        marked = self._behind_ports if probe.is_behind else self._marked_ports
        number = next(self._unmarked_ports if probe.is_knock or probe.published else marked, None)
        if number is None:
            raise UncheckedError("too-many-ports", "there are too many ports to test")
        return PacketFlow(source, number, probe.destination, probe.port)

    def _connection(self, probe: Probe, flow: PacketFlow) -> Iterator[PacketPath]:
        """Send a connection's first packet, the answer to it if it arrived, and the packet after that."""
        self._passes.clear()
        blocks, end, output = self._send_through(flow, Step.NEW, probe)
        arrival = end.port if end else None, end.destination if end and output else None
        yield PacketPath(probe, "new", blocks, *arrival)
        if end is None or probe.is_knock or probe.published:
            return
        back = PacketFlow(end.destination, end.port.number, end.source, Port(end.port.protocol, end.source_port))
        blocks, answered, _ = self._send_through(back, Step.REPLY, probe, output)
        if answered is not None:
            blocks += self._send_through(flow, Step.ESTABLISHED, probe)[0]
        yield PacketPath(probe, "established", blocks, *arrival)

    def _send_through(
        self, flow: PacketFlow, step: Step, probe: Probe, interface: int | None = None
    ) -> tuple[tuple[Block, ...], PacketFlow | None, int]:
        """Send a packet; if a base chain drops it, let it pass there and send it again.

        Return what dropped it, the addresses and ports with which it arrived, and its output interface.
        """
        blocks: tuple[Block, ...] = ()
        while len(blocks) < MAX_BLOCKS:
            last, base = outcome = self._send(flow, step, probe, interface)
            if last is None:
                if not (probe.is_knock or probe.published):  # the gate sees a knock before routing
                    self.lost.append(
                        f"a packet from {flow.source} to {flow.port} of {flow.destination}: no rule drops it, but it"
                        f" does not arrive (check the routes, rp_filter of {probe.interface}, and forwarding)"
                    )
                return blocks, None, 0
            if not outcome.is_drop:
                return blocks, last.flow, last.output
            rule = self._loaded.describe_rule(last.family, last.table, last.chain, last.handle)
            blocks += (Block(self._loaded.ruleset(last.family, last.table), self._loaded.bases[base], rule),)
            self._passes.append(f"insert rule {' '.join(base)} {flow.match(step)} accept")
            self._loaded.run(self._passes[-1])
        raise UncheckedError("rules-untested", f"the rules after {blocks[-1].rule}")

    def _send(self, flow: PacketFlow, step: Step, probe: Probe, interface: int | None) -> _Outcome:
        """Send a packet; confirm a drop with reset limits, since on the host it may be the only packet."""
        was_fresh = self._is_fresh
        outcome = self._send_once(flow, step, probe, interface)
        if not outcome.is_drop or was_fresh or (probe.is_knock and not precedes_gate(self._loaded.bases[outcome.base])):
            return outcome
        self._loaded.reset_limits()
        self._loaded.run("\n".join(self._passes))
        return self._send_once(flow, step, probe, interface)

    def _send_once(self, flow: PacketFlow, step: Step, probe: Probe, interface: int | None = None) -> _Outcome:
        self._is_fresh = not self._loaded.has_rates  # a ruleset without limits does not change
        entrance = self._replica.index.get(probe.interface)
        if entrance is None:
            raise UncheckedError(
                "interface-down",
                f"no packet can arrive through {probe.interface}: it is down, or the loopback interface",
            )
        if interface == 0:
            with suppress(OSError):  # no route
                self._replica.send_out(build_packet(flow, step), str(flow.destination))
        else:
            self._replica.send_in(build_packet(flow, step), interface or entrance)
        marker = PacketFlow(probe.sources[0], _MARKER_PORT, probe.destination, Port(Protocol.UDP, 9))
        self._replica.send_in(build_packet(marker, Step.NEW), entrance)
        return _outcome(self._events_until_marker(), self._loaded.bases)

    def _events_until_marker(self) -> Iterator[TraceEvent]:
        while True:
            try:
                raw = memoryview(self._events.recv(_RECEIVE_BYTES))
            except OSError as error:
                raise UncheckedError("trace-too-long", f"the trace of a packet is too long: {error.strerror}") from None
            for message in netlink.messages(raw):
                if message.kind == TRACE:
                    event = parse_event(message.body)
                    if event.table == _OWN_TABLE and event.is_drop:
                        return
                    yield event


def _outcome(events: Iterable[TraceEvent], bases: Container[tuple[str, str, str]]) -> _Outcome:
    """Return the outcome of a packet from its trace events."""
    base, outcome = ("", "", ""), _Outcome()
    for event in events:
        chain = (event.family, event.table, event.chain)
        base = chain if chain in bases else base
        if event.is_drop or (
            event.table == _OWN_TABLE and event.chain in ("arrived", "left") and event.flow is not None
        ):
            outcome = _Outcome(event, base)
    return outcome


def _redirecting(redirects: Collection[Redirect]) -> str:
    """Return the chain that forwards packets as doorward's gate does; "" where no door does that."""
    rules = [
        f"meta nfproto ipv{to.host.version} fib daddr type local {port.protocol.name.lower()} dport {port.number}"
        f" dnat {'ip' if to.host.version == 4 else 'ip6'} to {str(to).partition('/')[0]}"
        for port, to in redirects
    ]
    chain = "\n        ".join(("type nat hook prerouting priority dstnat;", *rules))
    return f"chain redirects {{\n        {chain}\n    }}" if rules else ""


def _marking(mark: Mark | None, first: int, last: int) -> str:
    """Return the rule that marks packets as doorward's gate does: new connections through an open door."""
    if mark is None:
        return "ct state new counter"  # the gate uses conntrack in any case
    opened = f"meta l4proto {{ tcp, udp }} th sport {first}-{last} ct state new"
    return f"{opened} meta mark set {_others(mark)} | {mark.value:#x}"


def _others(mark: Mark) -> str:
    """Return the bits of a packet's mark that belong to others."""
    return f"meta mark & {0xFFFF_FFFF & ~mark.mask:#x}"
