"""Parsing the text of other firewalls' rulesets."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from doorward.doctor.rules import MAX_TEXT, ForeignRuleset, Helper, first_difference, parse_chains, rejected_line

LISTED = """table inet t { # handle 3
	flowtable f { # handle 9
		hook ingress priority filter
	}

	set s { # handle 8
		type ipv4_addr
		timeout 1h
		elements = { 192.0.2.1 expires 59m58s,
			192.0.2.2 expires 1s }
	}

	chain input { # handle 1
		type filter hook input priority filter; policy drop;
		ct state established accept # handle 4
		tcp dport 22 log prefix "socket # handle 7 " accept # handle 5
	}

	chain output { # handle 2
		type filter hook output priority filter; policy accept;
		meta skuid 0 accept # handle 6
	}
}
"""
SAVED = "*filter\n:INPUT DROP [12:34]\n:OUTPUT ACCEPT [0:0]\n:MINE - [0:0]\n-A INPUT -j MINE\n-A MINE -j DROP\nCOMMIT\n"


def nft(rule: str, hook: str = "input") -> ForeignRuleset:
    chain = f"\tchain c {{ # handle 1\n\t\ttype filter hook {hook} priority filter; policy accept;\n"
    return ForeignRuleset("nft", "ip", "t", f"table ip t {{ # handle 1\n{chain}\t\t{rule} # handle 2\n\t}}\n}}\n")


def iptables(rule: str) -> ForeignRuleset:
    return ForeignRuleset(
        "iptables-nft", "ip", "filter", f"*filter\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{rule}\nCOMMIT\n"
    )


@pytest.mark.parametrize(
    ("ruleset", "may"),
    [
        (nft("tcp dport 2222 dnat ip to 192.0.2.7:22"), True),
        (nft("dnat ip to tcp dport map { 2222 : 192.0.2.7, 2223 : 192.0.2.8 }"), True),
        (iptables("-A PREROUTING -p tcp --dport 80 -j DNAT --to-destination 192.0.2.7:80"), True),
        (nft("dnat ip to 192.0.2.77"), False),
        (nft("ip daddr 192.0.2.7 accept"), False),
    ],
)
def test_tables_that_may_forward_to_a_host(ruleset: ForeignRuleset, may: bool) -> None:
    assert ruleset.may_forward_to(ip_address("192.0.2.7")) is may


def test_parse_chains() -> None:
    assert parse_chains("nft", LISTED) == {
        "input": [(4, "ct state established accept"), (5, 'tcp dport 22 log prefix "socket # handle 7 " accept')],
        "output": [(6, "meta skuid 0 accept")],
    }
    assert parse_chains("iptables-nft", SAVED) == {
        "INPUT": [(0, "-A INPUT -j MINE")],
        "OUTPUT": [],
        "MINE": [(0, "-A MINE -j DROP")],
    }


@pytest.mark.parametrize(
    ("ruleset", "found"),
    [
        (nft("meta skuid 0 accept"), [False]),
        (nft("meta skuid 0 accept", "output"), [True]),
        (nft("socket transparent 1 accept"), [False]),
        (nft("ip protocol tcp flow add @f"), [False]),
        (nft('xt match "owner" counter packets 0 bytes 0 drop'), [False]),
        (nft("queue num 0"), [False]),
        (nft("ether saddr 02:00:00:00:00:01 accept"), [False]),
        (nft("meta iifkind wireguard accept"), [False]),
        (nft('iifname "socket" tcp dport { 22, 80 } accept comment "queue"'), []),
        (nft("ct state new tcp flags syn limit rate 3/minute reject with tcp reset"), []),
        (iptables("-A INPUT -m owner --uid-owner 0 -j ACCEPT"), [False]),
        (iptables("-A OUTPUT -m owner --uid-owner 0 -j ACCEPT"), [True]),
        (iptables("-A INPUT -p tcp -j NFQUEUE --queue-num 0"), [False]),
        (iptables('-A INPUT -m comment --comment "-m owner" -m recent --set -j ACCEPT'), []),
    ],
    ids=lambda value: value.text.splitlines()[3] if isinstance(value, ForeignRuleset) else "",
)
def test_rules_that_depend_on_host_state(ruleset: ForeignRuleset, found: list[bool]) -> None:
    assert [is_outward for _, is_outward in ruleset.uncheckable_rules()] == found


@pytest.mark.parametrize(
    ("ruleset", "has_rates"),
    [
        (nft("limit rate 3/minute accept"), True),
        (nft("tcp dport 22 accept"), False),
        (iptables("-A INPUT -m recent --update --seconds 60 --hitcount 4 -j DROP"), True),
        (iptables("-A INPUT -j DROP"), False),
    ],
)
def test_rules_with_rate_limits(ruleset: ForeignRuleset, *, has_rates: bool) -> None:
    assert ruleset.has_rates == has_rates


def test_comparison_ignores_handles_and_timeouts() -> None:
    ruleset = ForeignRuleset("nft", "inet", "t", LISTED)
    there = (
        LISTED.replace("59m58s", "59m57s").replace(",\n\t\t\t192.0.2.2 expires 1s", "").replace("handle", "handle 1")
    )
    assert first_difference(ruleset, LISTED.replace("# handle 4", "# handle 14")) is None
    assert first_difference(ruleset, there.replace("# handle 1 ", "# handle ")) is None
    assert first_difference(ruleset, LISTED.replace("dport 22", "dport 23")) is not None
    assert (
        first_difference(ruleset, LISTED.replace("\t\tct state established accept # handle 4\n", ""))
        == "ct state established accept"
    )


def test_comparison_ignores_counters() -> None:
    ruleset = ForeignRuleset("iptables-nft", "ip", "filter", SAVED)
    assert first_difference(ruleset, SAVED.replace("12:34", "0:0")) is None
    assert first_difference(ruleset, SAVED.replace("INPUT DROP", "INPUT ACCEPT")) == ":INPUT DROP"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("internal:0:0-0: Error: syntax error", "internal:0:0-0: Error: syntax error"),
        ("/dev/stdin:15:3-9: Error: unknown\n\t\tct state", "ct state established accept"),
        ("iptables-nft-restore: line 15 failed", "ct state established accept"),
        ("Error occurred at line: 15\nTry -h", "ct state established accept"),
        ("line 999 failed", "line 999 failed"),
        ("", "rejected"),
        ("x" * 10_000, "x" * MAX_TEXT),
    ],
)
def test_rejected_line(message: str, line: str) -> None:
    assert rejected_line(LISTED, message) == line


def test_rules_that_assign_conntrack_helpers() -> None:
    text = """table inet t { # handle 3
\tct helper standard { # handle 9
\t\ttype "ftp" protocol tcp
\t\tl3proto inet
\t}

\tchain c { # handle 1
\t\ttcp dport 21 ct helper set "standard" # handle 5
\t\tct helper "ftp" accept # handle 6
\t}
}
"""
    (found,) = ForeignRuleset("nft", "inet", "t", text).helpers()
    rule = 'inet t, chain c: tcp dport 21 ct helper set "standard"'
    assert found == Helper(rule, "ftp", "nft delete rule inet t c handle 5")
    assigns = "-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp"
    saved = f"*raw\n{assigns}\n-A PREROUTING -m helper --helper ftp -j ACCEPT\nCOMMIT\n"
    (found,) = ForeignRuleset("iptables-nft", "ip", "raw", saved).helpers()
    assert found == Helper(
        f"iptables-nft -t raw: {assigns}", "ftp", f"iptables-nft -t raw -D {assigns.removeprefix('-A ')}"
    )
