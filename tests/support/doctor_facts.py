"""Facts of a healthy host with an operator who is logged in, for the checks of doctor."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

from doorward.doctor.host import Boot, Facts, LocalAddress, Network, PacketPath, Probe, Route, Trace
from doorward.doctor.rules import ForeignRuleset
from doorward.doctor.running import DAEMON, GATE
from doorward.kernel.sock_diag import Connection
from doorward.model import Port

SSH = Port.parse("22/tcp")
SESSION = Connection(ip_address("192.0.2.7"), 50000, ip_address("198.51.100.2"), 22)
NETWORK = Network(
    (LocalAddress("lo", ip_interface("127.0.0.1/8")), LocalAddress("eth0", ip_interface("198.51.100.2/24"))),
    (Route(ip_network("0.0.0.0/0"), "eth0"),),
)
TO_SSH = Probe(SSH, "eth0", (ip_address("81.2.69.142"),), SESSION.destination, is_operator=False)
FILTER = ForeignRuleset("iptables-nft", "ip", "filter", "")
STATUS = {"pid": 7, "summary": "1 door, mode guard", "config": "/f", "trial": None}
WELL = Facts(
    session=SESSION,
    network=NETWORK,
    listening=frozenset({SSH}),
    trace=Trace((), (PacketPath(TO_SSH, "new", (), SSH),)),
    boot=Boot(True, frozenset({DAEMON, GATE})),
    daemon=STATUS,
    is_table_loaded=True,
    is_as_loaded=True,
    rejection="",
    memory_bytes=64 << 30,
    conntrack=(10, 1000),
)
