"""Does another firewall need to be shown what the gate lets in, and by which bit of the mark. Pure."""

from __future__ import annotations

from doorward.config.schema import Configuration, Mark
from doorward.doctor import firewalls
from doorward.doctor.host import Facts
from doorward.doctor.remedies import DEFAULT_MARK

_OTHERS = tuple(Mark(1 << bit, 1 << bit) for bit in (13, 20, 21, 22, 23))  # where a routing rule looks at the usual one


def mark_for(configuration: Configuration, facts: Facts) -> Mark | None:
    """Give a mark for `accept_mark`, where a rule stands in a door's way that can be told to accept it."""
    findings = firewalls.judge("", configuration, facts)
    if not any("mark" in command for finding in findings for command in finding.commands):
        return None
    taken = [rule.mask for rule in facts.network.mark_rules]
    free = (mark for mark in (DEFAULT_MARK, *_OTHERS) if not any(mark.mask & mask for mask in taken))
    return next(free, None)


def names(facts: Facts) -> list[str]:
    """Name the tables of other firewalls."""
    return list(facts.trace.tables)
