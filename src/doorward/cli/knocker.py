"""From a plan to the act of knocking; a signed knock loads the cryptography only here."""

from __future__ import annotations

from doorward.cli.knock_options import Knock, KnockPlan, print_sent
from doorward.client.sequence import Target, knock
from doorward.model import Port


def knocker(aim: KnockPlan, delay_s: float, verbose: bool) -> Knock:
    """Give the act itself. What it needs is loaded now, and the key is found."""
    if not aim.sequence:
        from doorward.cli.signed_options import signed_knocker

        return signed_knocker(aim, verbose)
    total = len(aim.sequence)

    def report(target: Target, place: int, port: Port) -> None:
        print_sent(f"{place}/{total}  {port} to {target}")

    return lambda targets: [knock(targets, aim.sequence, delay_s, report=report if verbose else None)]
