# ruff: noqa: E501  (a table has one row a line)
import pytest

from doorward.importer.firewall_commands import parse_command, reverts
from doorward.model import Port, Protocol

TCP, UDP = Protocol.TCP, Protocol.UDP
SSH = (Port(TCP, 22),)
SERVICES = {("ssh", TCP): 22, ("http", TCP): 80, ("domain", TCP): 53, ("domain", UDP): 53}


def service(name: str, protocol: Protocol) -> int | None:
    return SERVICES.get((name, protocol))


RICH = 'rule family="ipv4" source address="%IP%" port port="22" protocol="tcp" accept'

OPENING = [
    ("/sbin/iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT", SSH),
    ("iptables -I INPUT -s %IP% -p tcp --dport 22 -j ACCEPT", SSH),
    ("iptables -I INPUT 1 -s %IP% -p tcp --dport 22 -j ACCEPT", SSH),
    ("sudo /usr/sbin/iptables-nft -w 5 -t filter -j ACCEPT --dport ssh -p tcp -s %IP%/32 -I INPUT", SSH),
    ("iptables --append INPUT --source %IP% --protocol tcp --match tcp --destination-port 22 --jump ACCEPT", SSH),
    ("iptables --append=INPUT --source=%IP% --protocol=tcp --dport=22 --jump=ACCEPT", SSH),
    ("iptables -w -A INPUT -p tcp --syn --dport 22 -s %IP% -m comment --comment 'by knock; of # 7' -j ACCEPT", SSH),
    ("iptables -A INPUT -m state --state NEW,ESTABLISHED -p 6 --dport 22 -s %IP% -j ACCEPT", SSH),
    ("iptables -A INPUT -m conntrack --ctstate NEW -p tcp --dport 22 -s %IP% -j ACCEPT", SSH),
    ("iptables -A INPUT -p tcp -m multiport --dports 80,22 -s %IP% -j ACCEPT", (Port(TCP, 80), Port(TCP, 22))),
    ("iptables -A INPUT -p udp --dport 60000:60002 -s %IP% -j ACCEPT", tuple(Port(UDP, n) for n in (60000, 60001, 60002))),
    ("ip6tables -A INPUT -s %IP%/128 -p tcp --dport 22 -j ACCEPT", SSH),
    ("iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT; iptables -A INPUT -s %IP% -p udp --dport domain -j ACCEPT", (*SSH, Port(UDP, 53))),
    ("iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT && ip6tables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT", SSH),
    ("ufw allow from %IP% to any port 22 proto tcp", SSH),
    ("/usr/sbin/ufw insert 1 allow from %IP% to any port ssh", SSH),
    ("ufw prepend allow proto tcp from %IP% to any port 80,22 comment 'x'", (Port(TCP, 80), Port(TCP, 22))),
    ("ufw allow from %IP% to any port 22", (Port(TCP, 22), Port(UDP, 22))),
    ("ufw allow in on eth0 from %IP% to any port 22 proto tcp && ufw reload", SSH),
    (f"firewall-cmd --add-rich-rule='{RICH}'", SSH),
    (f"/bin/firewall-cmd -q --zone=public --add-rich-rule '{RICH}'", SSH),
    (f'firewall-cmd --zone public --add-rich-rule="{RICH}"', SSH),  # the quotes inside end and begin: one word to a shell
    (f"firewall-cmd --permanent --add-rich-rule='{RICH}' && firewall-cmd --reload", SSH),
    ('firewall-cmd --add-rich-rule="rule family="ipv4" source address="%IP%" service name="ssh" accept"', SSH),
    ("nft add rule inet filter input ip saddr %IP% tcp dport 22 accept", SSH),
    ("/usr/sbin/nft insert rule ip filter INPUT position 0 tcp dport { 22, http } ip saddr %IP% ct state new counter accept", (Port(TCP, 22), Port(TCP, 80))),
    ("nft add rule filter input ip saddr %IP% udp dport 60000-60001 accept comment 'knock'", (Port(UDP, 60000), Port(UDP, 60001))),
    ("nft 'add rule inet filter input ip6 saddr %IP% ct state new,established tcp dport ssh accept comment \"a b\"'", SSH),
]  # fmt: skip


@pytest.mark.parametrize(("command", "ports"), OPENING, ids=[command for command, _ in OPENING])
def test_opening_commands(command: str, ports: tuple[Port, ...]) -> None:
    rule = parse_command(command, service).rule
    assert rule is not None
    assert (rule.opens, rule.ports) == (True, ports)


CLOSING = [
    "iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT",
    "ufw delete allow from %IP% to any port 22 proto tcp",
    f"firewall-cmd --zone=public --remove-rich-rule='{RICH}'",
]


@pytest.mark.parametrize("command", CLOSING)
def test_closing_commands(command: str) -> None:
    rule = parse_command(command, service).rule
    assert rule is not None
    assert (rule.opens, rule.ports) == (False, SSH)


STAYS = [
    ("", "it is empty"),
    ("/usr/local/sbin/knock_add -i -c INPUT -p tcp -d 443 -f %IP%", "unknown firewall command 'knock_add'"),
    ("iptables -A INPUT -s %IP% -j ACCEPT", "it opens every port"),
    ("iptables -A INPUT -s %IP% -p tcp --syn -j ACCEPT", "it opens every port"),
    ("iptables -A FORWARD -s %IP% -p tcp --dport 22 -j ACCEPT", "the chain 'FORWARD' is not INPUT"),
    ("iptables -t nat -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT", "-t 'nat' is not understood"),
    ("iptables -A INPUT -p tcp --dport 22 -j ACCEPT", "it is not limited to %IP%"),
    ("iptables -A INPUT -s %IP%/24 -p tcp --dport 22 -j ACCEPT", "-s '%IP%/24' is not understood"),
    ("iptables -A INPUT ! -s %IP% -p tcp --dport 22 -j ACCEPT", "'!' is not understood"),
    ("iptables -A INPUT -s %IP% -p tcp ! --dport 22 -j ACCEPT", "'!' is not understood"),
    ("iptables -A INPUT -s %IP% -p tcp --dport 22 -j DROP", "-j 'DROP' is not understood"),
    ("iptables -A INPUT -s %IP% -p tcp --dport 22", "it does not accept packets"),
    ("iptables -A INPUT -s %IP% -p tcp --dport 22 --dport 23 -j ACCEPT", "--dport occurs twice"),
    ("iptables -A INPUT -s %IP% -p tcp --dport 22 -d 192.0.2.1 -j ACCEPT", "'-d' is not understood"),
    ("iptables -A INPUT -s %IP% -p tcp --dport 22 -m state --state ESTABLISHED -j ACCEPT", "it is not for new connections"),
    ("iptables -A INPUT -s %IP% -p tcp --dport 22 -m limit -j ACCEPT", "-m 'limit' is not understood"),
    ("iptables -A INPUT -s %IP% -p sctp --dport 22 -j ACCEPT", "-p 'sctp' is not understood"),
    ("iptables -A INPUT -s %IP% -p tcp --dport 1:65535 -j ACCEPT", "it opens 65535 ports, and a door opens at most 32"),
    ("iptables -A INPUT -s %IP% -p tcp --dport nosuch -j ACCEPT", "unknown port or service 'nosuch'"),
    ("iptables -A INPUT -s %IP% -p tcp --dport 0 -j ACCEPT", "invalid port '0'"),
    ("iptables -D INPUT 3", "'3' is not understood"),
    ("iptables -D", "'-D' is not understood"),
    ("iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT | tee /log", "it uses the shell ('|')"),
    ("iptables -A INPUT -s %IP% -p tcp --dport $PORT -j ACCEPT", "it uses the shell ('$PORT')"),
    ("iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT; mail root", "unknown firewall command 'mail'"),
    ("iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT; iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT", "it opens and closes at once"),
    ("iptables -A 'INPUT", "it has an unclosed quote"),
    ("sudo", "unknown firewall command 'sudo'"),
    ("ufw allow 22/tcp", "its words are not understood"),
    ("ufw allow from %IP%", "it opens every port"),
    ("ufw route allow from %IP% to any port 22", "it is not `ufw allow` or `ufw delete allow`"),
    ("ufw allow from %IP% to 192.0.2.1 port 22", "from or to is not understood"),
    ("ufw allow from %IP% to any app OpenSSH", "app is not understood"),
    ("firewall-cmd --add-service=ssh", "it is not limited to %IP%"),
    ("firewall-cmd --add-rich-rule='rule source address=\"%IP%\" accept'", "the rich rule 'rule source address=\"%IP%\" accept' is not understood"),
    ("firewall-cmd --add-rich-rule='rule source NOT address=\"%IP%\" service name=\"ssh\" accept'", "the rich rule 'rule source NOT address=\"%IP%\" service n' is not understood"),
    ("firewall-cmd --add-source=%IP%", "'--add-source=%IP%' is not understood"),
    ("nft add element inet t s { %IP% }", "`nft add element` is not `nft add rule`"),
    ("nft add rule inet filter forward ip saddr %IP% tcp dport 22 accept", "the chain is not input"),
    ("nft add rule inet filter input ip saddr %IP% accept", "it opens every port"),
    ("nft add rule inet filter input tcp dport 22 accept", "it is not limited to %IP%"),
    ("nft add rule inet filter input ip saddr != %IP% tcp dport 22 accept", "'%IP%' is not understood"),
    ("nft add rule inet filter input iifname eth0 ip saddr %IP% tcp dport 22 accept", "'iifname' is not understood"),
    ("nft flush chain inet filter input", "`nft flush chain` is not `nft add rule`"),
    ("nft", "`nft ` is not `nft add rule`"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "why"), STAYS, ids=[command[:70] for command, _ in STAYS])
def test_commands_not_understood(command: str, why: str) -> None:
    assert parse_command(command, service) == (None, why)


def test_remarks_and_times() -> None:
    for command, remark in [
        ("iptables -A INPUT -s %IP% --dport 22 -j ACCEPT", "iptables rejects --dport without -p; read as -p tcp"),
        ("iptables -A INPUT -i eth1 -s %IP% -p tcp --dport 22 -j ACCEPT", "it was limited to the interface eth1; doorward opens on all watched interfaces"),
        ("ufw allow from %IP% to any port 22", "without proto, ufw opens tcp and udp; remove the one that is not needed"),
    ]:  # fmt: skip
        rule = parse_command(command, service).rule
        assert rule is not None
        assert rule.remarks == (remark,)
    for time, seconds in [("--timeout=60", 60), ("--timeout 5m", 300)]:
        rule = parse_command(f"firewall-cmd {time} --add-rich-rule='{RICH}'", service).rule
        assert rule is not None
        assert rule.for_s == seconds


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        ("iptables -I INPUT 1 -s %IP% -p tcp --dport 22 -j ACCEPT", CLOSING[0], True),
        ("ufw insert 1 allow from %IP% to any port 22 proto tcp", CLOSING[1], True),
        (f"firewall-cmd --add-rich-rule='{RICH}'", CLOSING[2], True),
        ("iptables -I INPUT -s %IP% -p tcp --dport 22 -j ACCEPT", CLOSING[1], False),
        ("iptables -I INPUT -s %IP% -p tcp --dport 23 -j ACCEPT", CLOSING[0], False),
        ("iptables -I INPUT -s %IP% -p tcp --dport 22 -j ACCEPT", "iptables -F", False),
        ("nft add rule inet filter input ip saddr %IP% tcp dport 22 accept", "nft delete rule inet filter input handle $(x)", True),
        ("nft add rule inet filter input ip saddr %IP% tcp dport 22 accept", "nft flush chain inet filter input", False),
    ],
)  # fmt: skip
def test_reverts(start: str, stop: str, expected: bool) -> None:
    rule = parse_command(start, service).rule
    assert rule is not None
    assert reverts(stop, rule, service) is expected
