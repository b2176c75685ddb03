"""The examples of knockd's manual page, and the form for openSUSE's firewall, from the knock to the rule."""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import pytest

from doorward.lab.topology import Lab
from tests.support.daemon import SILENCE_S, until
from tests.support.knockd import DEBIAN, OURS, SYN, Program, RunningKnockd, Site, running_knockd, site
from tests.support.manual import MANUAL_1, MANUAL_2, MANUAL_3, MANUAL_4, doors_of

pytestmark = pytest.mark.netns("/usr/sbin/knockd", "iptables", "ip6tables")

ONE, SIX = "10.7.7.1", "2001:db8:7::1"
FIN, SYN_ACK = 1, 18

programs = pytest.mark.parametrize("program", [DEBIAN, *OURS], ids=lambda program: program.name)
engines = pytest.mark.parametrize("program", OURS, ids=lambda program: program.name)

ONCE = "/etc/knockd/smtp_sequences"  # of examples 3 and 4; each test has a file of its own
EXAMPLE_2, EXAMPLE_3, EXAMPLE_4 = map(doors_of, (MANUAL_2, MANUAL_3, MANUAL_4))
# Without `-p tcp` iptables refuses `--dport`.
EXAMPLE_1 = doors_of(MANUAL_1).replace(" --dport", " -p tcp --dport")


def rules(place: Site, source: str, chain: str = "INPUT") -> list[str]:
    """Return the firewall's rules for a source."""
    tool = "iptables" if ip_address(source).version == 4 else "ip6tables"
    listed = place.lab.server.run([tool, "-S", chain]).stdout.splitlines()
    return [rule for rule in listed if f" {source}/" in rule]


def accepts(source: str, what: str, chain: str = "INPUT") -> list[str]:
    """Return the one rule that lets a source in, as iptables lists it."""
    return [f"-A {chain} -s {source}/{ip_address(source).max_prefixlen} -p tcp -m tcp {what} -j ACCEPT"]


@programs
def test_example_1_opens_by_one_knock_and_closes_by_another(tmp_path: Path, program: Program) -> None:
    with site(program, tmp_path, EXAMPLE_1) as place:
        place.send(ONE, "7000", "8000", "9000")
        until(lambda: rules(place, ONE) == accepts(ONE, "--dport 22"))
        place.send(ONE, "9000", "8000", "7000")
        until(lambda: rules(place, ONE) == [])
        until(lambda: place.knockd.opened() == {(ONE, "openSSH"), (ONE, "closeSSH")})  # the log is read by a thread


def test_example_1_to_the_letter_runs_and_is_logged(tmp_path: Path) -> None:
    """iptables takes no `--dport` without `-p tcp`: the page's own command fails, and the log says how."""
    with site(OURS[0], tmp_path, doors_of(MANUAL_1)) as place:
        place.send(ONE, "7000", "8000", "9000")
        place.knockd.await_line(f"openSSH: running command: /sbin/iptables -A INPUT -s {ONE} --dport 22 -j ACCEPT")
        place.knockd.await_line("openSSH: command returned non-zero status code (2)")
        assert place.knockd.await_part('unknown option "--dport"')


@programs
def test_example_2_closes_by_itself(tmp_path: Path, program: Program) -> None:
    with site(program, tmp_path, EXAMPLE_2.replace("cmd_timeout   = 5", "cmd_timeout   = 1")) as place:
        place.send(ONE, "2222/udp")
        place.send(ONE, "3333", flags=SYN)  # ignored: syn and ack are both wanted
        place.send(ONE, "3333", flags=SYN_ACK)
        place.send(ONE, "4444/udp")
        until(lambda: rules(place, ONE))
        assert rules(place, ONE) == accepts(ONE, "--tcp-flags FIN,SYN,RST,ACK SYN")
        place.knockd.await_line(f"{ONE}: opencloseSSH: command timeout")
        until(lambda: rules(place, ONE) == [])


@engines
@pytest.mark.parametrize("example", [EXAMPLE_3, EXAMPLE_4], ids=["example 3", "example 4"])
@pytest.mark.parametrize("source", [ONE, SIX], ids=["IPv4", "IPv6"])
def test_examples_3_and_4_take_each_sequence_once(tmp_path: Path, program: Program, example: str, source: str) -> None:
    sequences = tmp_path / "smtp_sequences"
    sequences.write_text("# SMTP\n 5001,5002,5003\n 6001:udp,6002,6003\n")
    text = example.replace(ONCE, str(sequences)).replace("cmd_timeout        = 5", "cmd_timeout        = 1")
    with site(program, tmp_path, text) as place:
        for number, ports in enumerate((("5001", "5002", "5003"), ("6001/udp", "6002", "6003")), 1):
            for port in ports:
                place.send(source, port, flags=FIN)
            place.knockd.await_line(f"{source}: opencloseSMTP: OPEN SESAME", number)
            if example is EXAMPLE_3 and source is SIX:  # its one command is IPv4's: run, refused, and logged
                place.knockd.await_line("opencloseSMTP: command returned non-zero status code (2)", 2 * number)
                continue
            until(lambda: rules(place, source) == accepts(source, "--dport 25"))
            until(lambda: rules(place, source) == [])
        assert sequences.read_text() == "# SMTP\n#5001,5002,5003\n#6001:udp,6002,6003\n"


SUSE = """
[SSH]
sequence = {sequence}
seq_timeout = 15
tcpflags = syn
start_command = /usr/sbin/iptables -s %IP% -I input_ext 1 -p tcp --dport ssh -j ACCEPT
cmd_timeout = {timeout}
stop_command = /usr/sbin/iptables -s %IP% -D input_ext -p tcp --dport ssh -j ACCEPT
"""


@programs
@pytest.mark.parametrize("is_once", [False, True], ids=["sequence", "one-time sequences"])
def test_a_chain_of_the_distributions_firewall(
    direct_lab: Lab, tmp_path: Path, program: Program, is_once: bool
) -> None:
    """The client's own connection is let in as long as the rule exists, and goes on after."""
    server, client = direct_lab.server, direct_lab.client
    for rule in ("-N input_ext", "-A INPUT -m state --state ESTABLISHED,RELATED -j ACCEPT", "-A INPUT -j input_ext",
                 "-A input_ext -j DROP"):  # fmt: skip
        server.run(["iptables", *rule.split()])
    server.start_greeter(22)
    text = SUSE.format(sequence="7000,8000:udp,9000", timeout=2)
    if is_once:
        sequences = tmp_path / "sequences"
        sequences.write_text(" 7000,8000:udp,9000\n 7001,8001:udp,9001\n")
        text = text.replace("sequence = 7000,8000:udp,9000", f"one_time_sequences = {sequences}")
    with running_knockd(program, server, tmp_path / "knockd", text) as knockd:
        place = Site(direct_lab, knockd)
        assert not connects(direct_lab)
        client.run(["/usr/bin/knock", server.ipv4, "7000:tcp", "8000:udp", "9000:tcp"])
        until(lambda: rules(place, str(client.ipv4), "input_ext"))
        assert rules(place, str(client.ipv4), "input_ext") == accepts(str(client.ipv4), "--dport 22", "input_ext")
        assert connects(direct_lab)
        until(lambda: not rules(place, str(client.ipv4), "input_ext"))
        assert not connects(direct_lab)
        if is_once:
            assert sequences.read_text() == "#7000,8000:udp,9000\n 7001,8001:udp,9001\n"
        place.close()


def connects(lab: Lab) -> bool:
    """Tell whether the client's first SYN to the service is answered."""

    def attempt() -> bool:
        with suppress(TimeoutError), socket.create_connection((str(lab.server.ipv4), 22), SILENCE_S):
            return True
        return False

    return lab.client.call(attempt)


# After a reboot: what was owed is on the disk, and the rules that it is owed for are gone.


@engines
def test_stop_commands_whose_rules_are_gone_fail_in_the_log_and_nowhere_else(
    direct_lab: Lab, tmp_path: Path, program: Program
) -> None:
    server = direct_lab.server
    text = EXAMPLE_2.replace("tcpflags      = syn,ack", "tcpflags      = syn").replace(
        "cmd_timeout   = 5", "cmd_timeout = 1"
    )
    sources = [f"10.7.7.{number}" for number in range(1, 6)]
    before = RunningKnockd(program, server, tmp_path / "knockd", text)
    place = Site(direct_lab, before)
    for source in sources:
        place.send(source, "2222/udp", "3333", "4444/udp")
        before.await_part(f"running command: /usr/sbin/iptables -A INPUT -s {source} ")
    before.kill()
    until(lambda: server.pids() == set())
    place.close()
    server.run(["iptables", "-F"])  # as the machine's restart does
    with running_knockd(program, server, tmp_path / "knockd", text) as knockd:
        for source in sources:
            knockd.await_line(f"{source}: opencloseSSH: command timeout")
            knockd.await_part(f"running command: /usr/sbin/iptables -D INPUT -s {source} ")
        knockd.await_line("opencloseSSH: command returned non-zero status code (1)", len(sources))
        after = Site(direct_lab, knockd)
        after.send("10.7.8.1", "2222/udp", "3333", "4444/udp")
        knockd.await_part("running command: /usr/sbin/iptables -D INPUT -s 10.7.8.1 ")
        after.close()
    with running_knockd(program, server, tmp_path / "knockd", text) as last:
        last.end()
        assert [line for line in last.lines() if "running command" in line] == [], "nothing is owed any more"
