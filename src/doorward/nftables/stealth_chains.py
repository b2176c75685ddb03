"""The chains that mode stealth adds: before conntrack and at output. Each function returns the text of one or more."""

from __future__ import annotations

from doorward.config.schema import Mode
from doorward.nftables import once_chains
from doorward.nftables.automaton_chains import SOURCES, chain
from doorward.nftables.chains import LIMITED, ChainContext, unwatched


def early(context: ChainContext) -> str:
    """Return the chains that, in mode stealth, drop SYNs of sources over the rate limit before conntrack sees them.

    That mode would drop them anyway.
    """
    if context.gate.mode is not Mode.STEALTH or not context.groups:
        return ""
    dropping = [
        *unwatched(context.gate, "return"),
        "meta l4proto . th dport @exempt return",
        *(["meta l4proto . th dport @exempt_ranges return"] if context.look_up_range else []),
        "fib daddr type local counter name throttled drop",
    ]
    rules = [
        "type filter hook prerouting priority raw; policy accept;",
        *(f"{once_chains.SYN} {LIMITED[family]} @throttled{family} goto still_throttled" for family in SOURCES),
    ]
    return chain("still_throttled", dropping) + chain("early", rules)


def output(context: ChainContext) -> str:
    """Return the output chain that drops ICMP errors that the kernel sends before a rule, or where no rule drops.

    They answer fragments, options, and IPv6 addresses to which this host has no route.
    """
    if context.gate.mode is not Mode.STEALTH:
        return ""
    count_and_drop = "counter name dropped_stealth drop"
    rules = [
        "type filter hook output priority mangle; policy accept;",
        "meta l4proto != { icmp, ipv6-icmp } accept",
        *unwatched(context.gate, "accept", "oifname"),
        f"icmp type time-exceeded icmp code 1 {count_and_drop}",  # code 1: fragments that were not completed in time
        f"icmp type parameter-problem {count_and_drop}",
        f"icmpv6 type time-exceeded icmpv6 code 1 {count_and_drop}",
        f"icmpv6 type parameter-problem {count_and_drop}",
        # Not only a router sends it: any host does. What is for another address passes, since it may be forwarded.
        f"icmpv6 type destination-unreachable icmpv6 code no-route {count_and_drop}",
    ]
    return chain("output", rules)
