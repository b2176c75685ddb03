"""Build the function that knocks from a plan; only signed knocks load the cryptography."""

from __future__ import annotations

from doorward.cli.knock_options import Knock, KnockPlan, print_sent
from doorward.client.sequence import Target, knock
from doorward.model import Port


def knocker(plan: KnockPlan, delay_s: float, verbose: bool) -> Knock:
    """Return the function that knocks; libraries are loaded and the key is found now, not when it is called."""
    if not plan.sequence:
        from doorward.cli.signed_options import signed_knocker

        return signed_knocker(plan, verbose)
    total = len(plan.sequence)

    def report(target: Target, place: int, port: Port) -> None:
        print_sent(f"{place}/{total}  {port} to {target}")

    return lambda targets: [knock(targets, plan.sequence, delay_s, report=report if verbose else None)]
