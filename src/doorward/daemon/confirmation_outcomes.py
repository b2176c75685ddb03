"""What became of a confirmation: sent, or why not. The daemon logs and records it; `log` and `explain` show it."""

from __future__ import annotations

from typing import Literal

# Of at most 80 bytes: no flood, wherever a compromised verifier may send them.
CONFIRMATIONS_PER_S, CONFIRMATIONS_AT_ONCE = 200, 400
Outcome = Literal["sent", "off", "port-not-open", "rate", "not-a-host", "not-sent", "integrity", "again"]
REASONS: dict[str, str] = {
    "off": "[signed] has no confirm = true",
    "port-not-open": "the port is not open for replies",
    "rate": f"more than {CONFIRMATIONS_PER_S} confirmations per second",
    "not-a-host": "the packet is not from another host to this one",
    "not-sent": "the kernel did not send it",
    "integrity": "the browser's frame has a wrong MESSAGE-INTEGRITY",
}


def outcome_text(outcome: str) -> str:
    """Return a recorded outcome in words; `outcome` may be any text, if doorward did not write the ledger."""
    return "confirmed to the client" if outcome == "sent" else f"not confirmed: {REASONS.get(outcome, outcome)}"
