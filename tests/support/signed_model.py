"""A model of signed knocks under attack, for tests/property/test_signed_model.py; docs/dev/design.md has "The model".

Users send opens and closes. An attacker has a copy of each and delivers any of them to any gate, at any time, as often
as they like, from two addresses, or never. Gates with one key are killed, lose power, boot. Time passes.

The replay cache and the rules for closes are the real code (daemon/replay_cache.py, core/signed_rules.py). The rest is
written here: see `Rules`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from doorward.core.signed_rules import Holders, may_open
from doorward.daemon.replay_cache import AHEAD_MS, Clock, PacketId
from doorward.model import Share
from tests.support import model_cache
from tests.support.explorer import Step
from tests.support.signed_world import (
    BASE_MS,
    Announced,
    Delivery,
    Duty,
    Gate,
    Offer,
    Saved,
    SentPacket,
    Setup,
    World,
    finished,
    last_close,
    noted,
)

WINDOW_MS = 60_000
TICK_MS = 40_000  # a packet is fresh for one tick, and not for two
FOR_MS = 100_000  # an opening outlives the window of its packet
FLEET = "edge"
HOME, ELSEWHERE = "192.0.2.7", "198.51.100.9"  # the users' address, and the attacker's


class Rules(NamedTuple):
    """What the gates do, and the module that each rule models. A test switches off one at a time."""

    listed: bool = True  # signed/authorize.py: a knock counts if it is by a listed key,
    target: bool = True  # signed/authorize.py: for this gate or its fleet,
    fresh: bool = True  # signed/authorize.py: and dated within the window of the gate's clock
    new: bool = True  # daemon/replay_cache.py, the real one: its number was never claimed,
    after_boot: bool = True  # and after a loss of power it is not from before the boot
    committed: bool = True  # daemon/ledger.py: a kill loses nothing that was claimed
    claimed_first: bool = True  # daemon/signed_knocks.py: claimed, then opened
    in_fleet: bool = True  # fleet/writer.py: a knock for the fleet is claimed there first
    closes_remembered: bool = True  # core/signed_rules.py, the real one, and the rules below for those who use it:
    closes_kept: bool = True  # the dates of closes are in the ledger, in the transaction of the claim,
    closes_synced: bool = True  # which is synced to the disk before the close is applied and confirmed;
    closes_finished: bool = True  # a start applies them to the openings in the ledger;
    closes_shared: bool = True  # those for a fleet are in the claim's transaction in etcd, and every gate has them
    asks_fleet: bool = True  # daemon/fleet_sync.py: without etcd, opens for the fleet are rejected (policy = "closed"),
    closes_owed: bool = True  # closes end what is open at the gate, and are announced once etcd answers,
    alone_unanswered: bool = True  # and are not confirmed
    closes_own: bool = True  # a close is for its signer's share,
    closes_earlier: bool = True  # if that is dated at or before it
    only_effects_answered: bool = True  # the confirmation: only a knock that opened or closed is answered,
    source_answered: bool = True  # to where it came from


class SignedModel:
    """All steps from a state, each with the property that it violates."""

    def __init__(self, setup: Setup, rules: Rules) -> None:
        self.setup, self.rules = setup, rules
        self._limits = setup.limits._replace(boot_rule=rules.after_boot)

    def start(self) -> World:
        """Return the first state: the gates run; the attacker has a packet by a key that is not listed."""
        gates = tuple(self._started(Gate(name), Saved(), BASE_MS) for name in self.setup.names)
        return World(BASE_MS, gates, (SentPacket(0, "mallory", False, "", BASE_MS),))

    def steps(self, world: World) -> Iterator[Step[World]]:
        """Yield every step that is possible."""
        if world.may_send and len(world.sent) <= self.setup.messages:
            for offer in self.setup.offers:
                yield self._send(world, offer)
        world = world._replace(may_send=False)
        for what, after, violates in self._unchecked(world):
            if violates or after is not world:
                yield Step(what, after, violates or self._violated(after))

    def _unchecked(self, world: World) -> Iterator[Step[World]]:
        if world.now_ms < BASE_MS + self.setup.ticks * TICK_MS:
            later = self._at(world, world.now_ms + TICK_MS)._replace(may_send=True)
            yield Step(f"{TICK_MS // 1000} seconds pass", later)
        for number, gate in enumerate(world.gates):
            if gate.claimed is not None:
                yield self._apply(world, number, gate, gate.claimed)
            else:
                for packet in world.sent:
                    for source in (HOME, ELSEWHERE):
                        yield self._deliver(world, number, gate, Delivery(packet, source, world.now_ms))
                if gate.asking is not None:
                    yield self._claim(world, number, gate._replace(asking=None), gate.asking)
                yield from self._with_etcd(world, number, gate)
            is_mirrored = self.setup.is_fleet and not world.faults and number > 0  # gates of a fleet are alike
            if world.faults < self.setup.faults and not is_mirrored:
                if gate.disk != gate.ledger:  # the kernel writes back when it likes
                    yield Step(
                        f"{gate.name} has all on its disk", world.with_gate(number, gate._replace(disk=gate.ledger))
                    )
                yield from self._faults(world._replace(faults=world.faults + 1), number, gate)

    def _send(self, world: World, offer: Offer) -> Step[World]:
        number = len(world.sent)
        packet = SentPacket(number, offer.by, offer.is_close, offer.asked, world.now_ms + offer.ahead_ms + number)
        verb, place = "closes" if offer.is_close else "opens", offer.asked or "the packet's source"
        dated = (packet.time_ms - BASE_MS) / 1000
        what = f"{offer.by} sends {packet}: {verb} for {place}, to {self.setup.target}, dated {dated:.3f} s"
        return Step(what, world._replace(sent=(*world.sent, packet)))

    def _at(self, world: World, now_ms: int) -> World:
        gates = tuple(gate._replace(ledger=gate.ledger.expire(now_ms)) for gate in world.gates)
        owed = frozenset(duty for duty in world.owed if duty.until_s > now_ms / 1000)
        return world._replace(now_ms=now_ms, gates=gates, owed=owed)

    # A packet arrives, is claimed, and opens or closes.

    def _deliver(self, world: World, number: int, gate: Gate, delivery: Delivery) -> Step[World]:
        packet, source = delivery.packet, delivery.source
        what = f"{packet} arrives at {gate.name} from {source}"
        is_for = self.setup.target == (FLEET if self.setup.is_fleet else gate.name) or not self.rules.target
        is_listed = packet.by != "mallory" or not self.rules.listed
        is_fresh = abs(world.now_ms - packet.time_ms) <= WINDOW_MS or not self.rules.fresh
        if not (is_for and is_listed and is_fresh):
            return self._rejected(world, what, delivery)
        if not (self.setup.is_fleet and self.rules.in_fleet):
            step = self._claim(world, number, gate, delivery)
            return step._replace(what=f"{what}; {step.what}")
        if gate.is_cut:
            return self._without_etcd(world, number, gate, delivery, what)
        last_ms = last_close(world.closes, packet.by, packet.address(source))
        if gate.asking is not None or packet.number in world.claims:
            return self._rejected(world, what, delivery)
        if not packet.is_close and self.rules.closes_shared and may_open(packet.knock(source), last_ms):
            return self._rejected(world, what, delivery)
        violates = self._accepted(world, FLEET, delivery)
        after = world._replace(claims=world.claims | {packet.number})
        if packet.is_close:
            after = self._note_closed(after, FLEET, delivery)
            after = after._replace(closes=noted(world.closes, packet.knock(source), -1))
            after = after._replace(log=(*world.log, Announced(packet, packet.address(source))))
        after = after.with_gate(number, gate._replace(asking=delivery))
        return Step(f"{what}; claimed in the fleet", after, violates)

    def _without_etcd(self, world: World, number: int, gate: Gate, delivery: Delivery, what: str) -> Step[World]:
        if gate.asking is not None or (not delivery.packet.is_close and self.rules.asks_fleet):
            return self._rejected(world, what, delivery)
        step = self._claim(world, number, gate, delivery)
        after = step.state.gates[number]
        if delivery.packet.is_close and after.claimed is not None:
            owed = Announced(delivery.packet, delivery.packet.address(delivery.source))
            step = step._replace(state=step.state.with_gate(number, after._replace(owed=(*after.owed, owed))))
        return step._replace(what=f"{what}, without etcd; {step.what}")

    def _with_etcd(self, world: World, number: int, gate: Gate) -> Iterator[Step[World]]:
        if gate.is_cut:
            after = world.with_gate(number, gate._replace(is_cut=False, owed=()))
            for packet, address, _ in gate.owed:
                after = self._note_closed(after, FLEET, Delivery(packet, address, world.now_ms))
                if self.rules.closes_owed:
                    closes = noted(after.closes, packet.knock(address), -1)
                    after = after._replace(closes=closes, log=(*after.log, Announced(packet, address)))
            yield Step(f"etcd answers {gate.name} again", after)
            return
        if gate.heard < len(world.log):
            yield Step(f"{gate.name} hears of {world.log[gate.heard].packet}", self._hear(world, number, gate))
        if world.cuts < self.setup.cuts and gate.asking is None:
            after = world._replace(cuts=world.cuts + 1)
            yield Step(f"etcd does not answer {gate.name}", after.with_gate(number, gate._replace(is_cut=True)))

    def _claim(self, world: World, number: int, gate: Gate, delivery: Delivery) -> Step[World]:
        packet, ledger = delivery.packet, gate.ledger
        knock, clock = packet.knock(delivery.source), Clock(world.now_ms, gate.booted_ms)
        what = f"{gate.name} claims {packet}"
        address = packet.address(delivery.source)
        last_ms = last_close(ledger.closes, packet.by, address) if self.rules.closes_remembered else -1
        if not packet.is_close and may_open(knock, last_ms):
            return self._rejected(world.with_gate(number, gate), what, delivery)
        number_of = PacketId(packet.number.to_bytes(16, "big"), packet.time_ms)
        outcome = model_cache.claim(ledger.cache, gate.boot, clock, number_of, self._limits)
        after = outcome.after
        if outcome.rejection and self.rules.new:
            if after != ledger.cache:  # something was pruned
                gate = gate._replace(ledger=ledger._replace(cache=after))
            return self._rejected(world.with_gate(number, gate), what, delivery)
        violates = ""
        is_alone = gate.is_cut or not (self.setup.is_fleet and self.rules.in_fleet)
        if is_alone:
            violates = self._accepted(world, gate.name, delivery)
        ledger = ledger._replace(cache=after)
        if packet.is_close:
            world = self._note_closed(world, gate.name, delivery)
            ledger = ledger._replace(closes=noted(ledger.closes, knock, after.forgotten_ms))
        is_synced = outcome.is_synced or (packet.is_close and self.rules.closes_synced)
        disk = ledger if is_synced else gate.disk
        if not self.rules.claimed_first:
            ledger, delivery = ledger._replace(cache=gate.ledger.cache), delivery._replace(unclaimed=after)
            step = self._apply(world, number, gate._replace(ledger=ledger), delivery)
            gate = step.state.gates[number]._replace(claimed=delivery)
            return step._replace(state=step.state.with_gate(number, gate), violates=violates or step.violates)
        return Step(what, world.with_gate(number, gate._replace(ledger=ledger, disk=disk, claimed=delivery)), violates)

    def _apply(self, world: World, number: int, gate: Gate, delivery: Delivery) -> Step[World]:
        packet, source, _, unclaimed = delivery
        address, ledger = packet.address(source), gate.ledger
        if unclaimed is not None and gate.claimed is not None:
            claimed = gate._replace(ledger=ledger._replace(cache=unclaimed), claimed=None)
            return Step(f"{gate.name} claims {packet}", world.with_gate(number, claimed))
        before, violates = ledger.holders(address), ""
        if packet.is_close:
            after, verb = self._closed(before, packet), "closes"
            if any(
                share.by != packet.by or share.dated_ms > packet.time_ms
                for share in set(before.shares) - set(after.shares)
            ):
                violates = "P3: a close touched what is not its signer's, or dated later"
        else:
            share = Share(packet.by, (world.now_ms + FOR_MS) / 1000, packet.time_ms)
            after, verb = before.hold(share) or before, "opens"
            if packet.number in world.opened:
                violates = "P1: a packet opened twice"
            world = world._replace(opened=world.opened | {packet.number})
            if not self._is_closed(world, (FLEET, gate.name), delivery):  # at another gate, in the meantime
                duty = Duty(gate.name, packet.by, address, share.until_s, packet.time_ms)
                world = world._replace(owed=world.owed | {duty})
            if self.setup.is_fleet:
                world = world._replace(log=(*world.log, Announced(packet, address, share.until_s)))
        gate = gate._replace(ledger=ledger.with_holders(address, after), claimed=None)
        step = Step(f"{gate.name} {verb} for {packet}", world.with_gate(number, gate), violates)
        if gate.is_cut and packet.is_close and self.rules.alone_unanswered:
            return step
        if not packet.is_close or after != before:
            return self._answered(step, delivery, has_effect=True)
        return step if self.rules.only_effects_answered else self._answered(step, delivery, has_effect=False)

    def _closed(self, holders: Holders, packet: SentPacket) -> Holders:
        dated_ms = packet.time_ms if self.rules.closes_earlier else 2 * BASE_MS
        for by in [packet.by] if self.rules.closes_own else [share.by for share in holders.shares]:
            holders = holders.close(by, dated_ms)
        return holders

    def _rejected(self, world: World, what: str, delivery: Delivery) -> Step[World]:
        step = Step(f"{what}; rejected", world)
        return step if self.rules.only_effects_answered else self._answered(step, delivery, has_effect=False)

    def _answered(self, step: Step[World], delivery: Delivery, *, has_effect: bool) -> Step[World]:
        packet, source = delivery.packet, delivery.source
        world, to = step.state, source if self.rules.source_answered else packet.address(HOME)
        is_valid = packet.by != "mallory" and abs(delivery.at_ms - packet.time_ms) <= WINDOW_MS
        violates = step.violates
        if to != source:
            violates = violates or "P2: the answer went elsewhere than the packet came from"
        elif packet.number in world.answered:
            violates = violates or "P2: a packet was answered twice"
        elif not (has_effect and is_valid):
            violates = violates or "P2: something else than a fresh, first, valid knock was answered"
        answered = world._replace(answered=world.answered | {packet.number})
        return Step(f"{step.what}, and answers to {to}", answered, violates)

    # What the fleet's other gates did.

    def _hear(self, world: World, number: int, gate: Gate) -> World:
        packet, address, until_s = world.log[gate.heard]
        ledger, knock = gate.ledger, packet.knock(address)
        holders = ledger.holders(address)
        if packet.is_close:
            if self.rules.closes_shared:
                ledger = ledger._replace(closes=noted(ledger.closes, knock, -1))
            holders = self._closed(holders, packet)
        elif until_s > world.now_ms / 1000 and not may_open(knock, last_close(ledger.closes, packet.by, address)):
            holders = holders.hold(Share(packet.by, until_s, packet.time_ms)) or holders
        gate = gate._replace(ledger=ledger.with_holders(address, holders), heard=gate.heard + 1)
        return world.with_gate(number, gate)

    # Faults.

    def _faults(self, world: World, number: int, gate: Gate) -> Iterator[Step[World]]:
        kept = gate.ledger if self.rules.committed else gate.ledger._replace(cache=gate.disk.cache)
        yield self._restart(world, number, gate, kept, f"{gate.name} is killed and starts")
        booted = self._at(world, world.now_ms + AHEAD_MS)
        next_boot = gate._replace(boot=gate.boot + 1, booted_ms=booted.now_ms)
        yield self._restart(booted, number, next_boot, gate.disk, f"{gate.name} loses power and what was not synced")
        if gate.claimed is None and gate.asking is None:
            closed = model_cache.close(gate.ledger.cache, gate.boot, Clock(world.now_ms, gate.booted_ms)).after
            in_order = gate.ledger._replace(cache=closed)
            yield self._restart(booted, number, next_boot, in_order, f"{gate.name} is shut down in order, and boots")

    def _restart(self, world: World, number: int, gate: Gate, ledger: Saved, what: str) -> Step[World]:
        gate = self._started(
            gate._replace(claimed=None, asking=None, owed=()), ledger.expire(world.now_ms), world.now_ms
        )
        kept = {
            Duty(gate.name, s.by, a, s.until_s, s.dated_ms) for a, holders in ledger.openings for s in holders.shares
        }
        owed = frozenset(duty for duty in world.owed if duty.gate != gate.name or any(map(duty.is_met_by, kept)))
        return Step(what, world._replace(owed=owed).with_gate(number, gate))

    def _started(self, gate: Gate, ledger: Saved, now_ms: int) -> Gate:
        outcome = model_cache.begin(ledger.cache, gate.boot, Clock(now_ms, gate.booted_ms), self._limits)
        ledger = ledger._replace(cache=outcome.after)
        if not self.rules.closes_kept:
            ledger = ledger._replace(closes=frozenset())
        for address, holders in ledger.openings if self.rules.closes_finished else ():
            holders = finished(ledger.closes, address, holders)
            ledger = ledger.with_holders(address, holders)
        return gate._replace(ledger=ledger, disk=ledger if outcome.is_synced else gate.disk, heard=0)

    # The properties.

    def _accepted(self, world: World, scope: str, delivery: Delivery) -> str:
        is_late = not delivery.packet.is_close and self._is_closed(world, (scope,), delivery)
        return "P3: an open took effect after a close dated later" if is_late else ""

    def _is_closed(self, world: World, scopes: tuple[str, ...], delivery: Delivery) -> bool:
        packet, address = delivery.packet, delivery.packet.address(delivery.source)
        return any(
            where in scopes and (by, closed) == (packet.by, address) and packet.time_ms <= time_ms
            for where, by, closed, time_ms in world.closed
        )

    def _note_closed(self, world: World, scope: str, delivery: Delivery) -> World:
        packet, address = delivery.packet, delivery.packet.address(delivery.source)
        own = [duty for duty in world.owed if (duty.by, duty.address) == (packet.by, address)]
        over = {duty for duty in own if duty.dated_ms <= packet.time_ms and scope in (FLEET, duty.gate)}
        return world._replace(
            closed=world.closed | {(scope, packet.by, address, packet.time_ms)}, owed=world.owed - over
        )

    def _violated(self, world: World) -> str:
        is_quiet = all(gate.asking is None and gate.heard == len(world.log) for gate in world.gates)
        for gate in world.gates:
            if gate.claimed is not None:
                continue
            shares = {(a, s.by): s for a, holders in gate.ledger.openings for s in holders.shares}
            for duty in world.owed:
                own = shares.get((duty.address, duty.by))
                if duty.gate == gate.name and (own is None or own.until_s < duty.until_s):
                    return "P4: an opening is gone that its user did not close later"
            for scope, by, address, time_ms in world.closed:
                own = shares.get((address, by))
                if own and own.dated_ms <= time_ms and (scope == gate.name or (scope == FLEET and is_quiet)):
                    return "P3: an opening outlived a close dated later"
        return ""
