"""Report the confirmations of signed knocks, or what to check where none arrived; imported after the knock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from doorward.cli.knock_options import KnockPlan, print_sent, warn
from doorward.client.confirmation import PATIENCE_S, ArrivedReply, AwaitedReply, ReplyListener
from doorward.config.duration import rough_duration
from doorward.errors import NegativeResult
from doorward.kernel.clock import is_synchronized

_WINDOW_S: Final = 60.0  # of a gate, unless its configuration has another
_ROUGH_S = 120  # from here on a duration is printed in minutes


def report(plan: KnockPlan, replies: ReplyListener, knock_again: Callable[[], object]) -> None:
    """Print the confirmations of the packets that were sent. NegativeResult: a door was not confirmed in time.

    Where none arrives, the network may block the port: then knock at each of the others in turn.
    """
    arrived = replies.wait()
    for _ in plan.host.signed_ports[1:]:
        if not arrived:
            knock_again()
            arrived = replies.wait()
    replies.close()
    for line in describe(plan, arrived):
        print_sent(line)
    require_all(plan, replies, arrived)


def require_all(plan: KnockPlan, replies: ReplyListener, arrived: Iterable[ArrivedReply]) -> None:
    """Check that each door was confirmed. NegativeResult: one was not, with what to check."""
    confirmed = {reply.awaited.door for reply in arrived}
    missing = [awaited for awaited in replies.awaited if awaited.door not in confirmed]
    if missing:
        ports = len({awaited.port for awaited in replies.awaited})
        where = f" at any of {ports} ports" if ports > 1 else ""
        checks = "".join(f"\n  {number}. {check}" for number, check in enumerate(what_to_check(plan, missing), 1))
        raise NegativeResult(
            "no-confirmation",
            f"{plan.host.name}: no confirmation within {PATIENCE_S:.0f} s{where}; check, the likeliest first:{checks}",
        )


def describe(plan: KnockPlan, arrived: Iterable[ArrivedReply]) -> Iterator[str]:
    """Yield a line for each confirmation, and warn of a clock that is wrong."""
    for reply in arrived:
        door = f"{reply.awaited.door}: " if len(plan.doors) > 1 else ""
        port = f", {reply.awaited.port}" if len(plan.host.signed_ports) > 1 else ""
        yield f"{door}{_state(reply)} ({reply.took_s * 1000:.1f} ms{port})"
    ahead_s = max((reply.ahead_s for reply in arrived), key=abs, default=0.0)
    if abs(ahead_s) > _WINDOW_S / 3:
        way = "behind" if ahead_s > 0 else "ahead of"
        warn(
            f"this machine's clock is {rough_duration(abs(ahead_s))} {way} the gate's, which rejects knocks that are"
            f" more than {rough_duration(_WINDOW_S)} off; correct it"
        )


def _state(reply: ArrivedReply) -> str:
    source, left_s = reply.confirmation.source, reply.confirmation.left_s
    if left_s is None:
        return f"closed what this key opened for {source}"  # others may hold it
    if left_s == 0:  # a door that only runs a command
        return f"accepted for {source}"
    return f"open for {source} for {f'{left_s} s' if left_s < _ROUGH_S else rough_duration(left_s)}"


def what_to_check(plan: KnockPlan, missing: Iterable[AwaitedReply]) -> Iterator[str]:
    """Yield what may have gone wrong, the likeliest first, with what is known on this machine."""
    missing = list(missing)
    is_clock_right = is_synchronized()
    if is_clock_right is False:
        yield "the clock: this machine's is not synchronized, and a gate rejects knocks that are a minute off"
    ways = ", ".join(dict.fromkeys(f"{each.own} to {each.target} {each.port}" for each in missing))
    yield f"the network: whether UDP gets through and comes back; the packet went from {ways}"
    signers = ", ".join(dict.fromkeys(each.signer for each in missing))
    yield f"the key: whether the gate's authorized_keys allows {signers}"
    doors = ", ".join(dict.fromkeys(repr(each.door) for each in missing))
    known = f"; known here: {', '.join(plan.host.doors)}" if plan.host.doors else ""
    gate = f"is named {plan.host.gate!r}" if plan.host.gate else "has no name"
    yield f"the names: whether the gate has the door {doors} and {gate}{known}"
    if plan.closes:
        yield "the opening: whether this key opened the door for this address; a close that ends nothing is silent"
    if is_clock_right is not False:
        state = "synchronized" if is_clock_right else "perhaps not synchronized"
        yield f"the clocks: this machine's is {state}; the gate's may be off"
    yield "the gate: whether it has confirm = true; `doorward log` there shows why it rejected a knock"
