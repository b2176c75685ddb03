"""What an established packet costs that only passes a router, beside a table that accepts it and does no more."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address
from socket import AF_INET, SOCK_DGRAM, socket

from bench.flood import BATCH, Window
from bench.frames import SLOT_BYTES
from bench.table import Bound, Row, alternate, medians
from doorward.config.toml import parse
from doorward.daemon.ruleset_loader import compile_configuration
from doorward.lab.topology import Lab
from doorward.model import Packet, Port
from doorward.nftables.libnftables import NftFirewall
from tests.support.frames import ip_packet

SECONDS = 0.5  # of a run; short, so that the runs of a pair see the same machine
RUNS_EACH = 8  # for each run asked for
FRAME_BYTES = 42  # Ethernet, IPv4, UDP
PORT = Port.parse("9999/udp")
ACCEPT = """
table inet plain {
    chain prerouting {
        type filter hook prerouting priority mangle; policy accept
        ct state established accept
    }
}"""
DROP = f"""
table netdev over {{
    chain in {{
        type filter hook ingress device eth0 priority 0
        udp dport {PORT.number} drop
    }}
}}"""
DOOR = '[doors.{0}]\nknock = ["7001/tcp", "7002/tcp", "70{1}/tcp"]\nopens = ["{2}"]\n'
OWN, BEHIND = DOOR.format("own", 11, "22/tcp"), DOOR.format("behind", 12, "198.51.100.2:22/tcp")
REDIRECT = DOOR.format("redirect", 13, "2222/tcp -> 198.51.100.2:22")


@contextmanager
def passing(config: str) -> Iterator[Callable[[], float]]:
    """A lab whose router has a gate (or, without a configuration, the plain table); measures nanoseconds a packet."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab())
        if config:
            ruleset = compile_configuration(parse(config, "doorward.toml"), 1 << 32)
            lab.router.call(NftFirewall().load, ruleset, {})
        else:
            lab.router.run(["nft", "-f", "-"], stdin=ACCEPT)
        window = established(lab)

        def cost() -> float:
            sent, began_s, spent_s = 0, time.perf_counter(), time.process_time()
            while time.perf_counter() < began_s + SECONDS:
                sent += window.send(BATCH)
            return (time.process_time() - spent_s) / sent * 1e9

        yield cost


def established(lab: Lab) -> Window:
    """Return frames of UDP connections that the server has answered; it drops what comes after that."""
    with lab.server.call(socket, AF_INET, SOCK_DGRAM) as server:
        server.bind((str(lab.server.ipv4), PORT.number))
        for number in range(BATCH):
            with lab.client.call(socket, AF_INET, SOCK_DGRAM) as client:
                client.bind((str(lab.client.ipv4), 20_000 + number))
                client.settimeout(5)
                client.sendto(b"", (str(lab.server.ipv4), PORT.number))
                server.sendto(b"", server.recvfrom(1)[1])
                client.recv(1)
    lab.server.run(["nft", "-f", "-"], stdin=DROP)
    (link,) = json.loads(lab.router.ip("-j", "link", "show", "dev", "client"))
    macs = bytes.fromhex((link["address"] + lab.client.mac).replace(":", ""))
    window = lab.client.call(Window, lab.client.interface, FRAME_BYTES)
    for number in range(BATCH):
        packet = ip_packet(Packet(lab.client.ipv4.packed, PORT), IPv4Address(str(lab.server.ipv4)), 20_000 + number)
        window.slots[number * SLOT_BYTES : number * SLOT_BYTES + FRAME_BYTES] = macs + b"\x08\0" + packet
    return window


def rows(runs: int) -> list[Row]:
    """Measure routers with doors of their own, behind them, and forwarded, beside the plain table."""
    configs = {"plain": "", "own": OWN, "behind": OWN + BEHIND, "redirect": OWN + REDIRECT}
    with ExitStack() as stack:
        costs = {name: stack.enter_context(passing(config)) for name, config in configs.items()}
        found = medians(alternate(costs, runs * RUNS_EACH))
    bound = Bound("ratio", ">=", 1 / 1.05)
    what = {"own": "doors of its own", "behind": "doors to a host behind it", "redirect": "doors that forward"}
    return [
        Row(f"established packet past a router with {words} (peer: one accept rule)", "ns", "lower",
            found[name], found["plain"], bound)
        for name, words in what.items()
    ]  # fmt: skip
