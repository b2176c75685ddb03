"""Knock by a plan, and explain a port that stays closed; only signed knocks load the cryptography."""

from __future__ import annotations

from doorward.cli.knock_options import Knock, KnockPlan, print_sent
from doorward.client.sequence import Target, knock
from doorward.errors import NegativeResult
from doorward.port import Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from doorward.client.confirmation import ReplyListener
    from doorward.client.connector import Reply


def knocker(plan: KnockPlan, delay_s: float, verbose: bool, replies: ReplyListener | None = None) -> Knock:
    """Return the function that knocks; libraries are loaded and the key is found now, not when it is called."""
    if not plan.sequence:
        from doorward.cli.signed_options import signed_knocker

        return signed_knocker(plan, verbose, replies)
    total = len(plan.sequence)

    def report(target: Target, index: int, port: Port) -> None:
        print_sent(f"{index}/{total}  {port} to {target}")

    return lambda targets: [knock(targets, plan.sequence, delay_s, report=report if verbose else None)]


def reply_listener(plan: KnockPlan) -> ReplyListener | None:
    """Return what waits for confirmations; None if the plan does not ask for any."""
    if plan.sequence or not plan.host.confirm:
        return None
    from doorward.client.confirmation import ReplyListener

    return ReplyListener()


def closed_error(plan: KnockPlan, port: Port, reply: Reply, rounds: int) -> NegativeResult:
    """Return the error of a port that never answered: what it did instead, and where to look."""
    times = "once" if rounds == 1 else f"{rounds} times"
    return NegativeResult("port-not-open", f"{plan.host.name}: knocked {times}, but {port} {_reason(reply, plan)}")


def _reason(reply: Reply, plan: KnockPlan) -> str:
    from doorward.client.connector import Reply

    if reply is Reply.REFUSED:
        return "refuses connections; check whether its service runs there, and whether a firewall rejects it"
    if plan.sequence:
        return (
            "stays silent; check the sequence and its order, whether that door opens this port, "
            "and on the server `doorward status` and `doorward log`; packets that spoof your address can block "
            "a sequence, but not a signed knock (`doorward knock HOST DOOR --server-key KEY`)"
        )
    return (
        f"stays silent; check whether {plan} opens this port and lets this key in, whether the gate's name and "
        "the clocks agree, and on the server `doorward log`, which says why a knock was refused"
    )
