"""Packets in few words, and captures made of them.

A script is a list of packets: `TIME PORT [FLAGS] [key=value …]`, separated by semicolons. `from`, `to` and `by` are
addresses, `sport` and `seq` numbers; `<` before the port turns it into an answer from there; `icmp=TYPE/CODE` answers
the packet before with an error. What a packet does not say is as in the one before; each gets a source port of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from doorward.config.toml import parse
from doorward.explain.align import Diagnosis
from doorward.explain.collect import PacketCollector
from doorward.explain.compiled_config import CompiledConfig, build_config
from doorward.explain.sources import SourceTraces, server_addresses
from doorward.explain.summary import Summary, summarize
from doorward.model import Address, Port, Protocol
from doorward.packets.datalink import NetworkPacket

CLIENT, SERVER = ip_address("192.0.2.7"), ip_address("198.51.100.2")
BEGAN_NS = 1_777_636_809_000_000_000  # 2026-05-01 12:00:09 UTC
_LETTERS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16, "E": 64, "W": 128}


class Sent(NamedTuple):
    """An IP packet and when it was sent."""

    at_s: float
    raw: bytes


def segment(port: int, source_port: int, flags: int, sequence: int) -> bytes:
    """Return a TCP header."""
    return struct.pack("!HHIIBBHHH", source_port, port, sequence, 0, 5 << 4, flags, 1024, 0, 0)


def datagram(port: int, source_port: int, data: bytes = b"\0") -> bytes:
    """Return a UDP datagram."""
    return struct.pack("!HHHH", source_port, port, 8 + len(data), 0) + data


def ip(source: Address, destination: Address, protocol: int, body: bytes, fragment: int = 0, number: int = 0) -> bytes:
    """Return an IPv4 or IPv6 packet, without a checksum."""
    if source.version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), number & 0xFFFF, fragment, 64, protocol, 0)
        return head + source.packed + destination.packed + body
    return struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + source.packed + destination.packed + body


def icmp_error(by: Address, kind: int, code: int, about: bytes) -> bytes:
    """Return an ICMP error about a packet, to its sender."""
    six = about[0] >> 4 == 6
    source = ip_address(about[8:24] if six else about[12:16])
    return ip(by, source, 58 if six else 1, struct.pack("!BBHI", kind, code, 0, 0) + about[:48])


def script(text: str) -> list[Sent]:
    """Return the packets of a script."""
    sent: list[Sent] = []
    said = {"from": CLIENT, "to": SERVER}
    for number, line in enumerate(filter(None, (part.strip() for part in text.split(";")))):
        words = line.split()
        own = dict(word.split("=", 1) for word in words if "=" in word)
        plain = [word for word in words if "=" not in word]
        said |= {key: ip_address(own[key]) for key in ("from", "to") if key in own}
        at_s = float(plain[0])
        if "icmp" in own:
            kind, code = map(int, own["icmp"].split("/"))
            by = ip_address(own.get("by", str(said["to"])))
            sent.append(Sent(at_s, icmp_error(by, kind, code, sent[-1].raw)))
            continue
        raw = _packet(plain[1], plain[2] if len(plain) > 2 else "S", said["from"], said["to"], own, number)
        sent.append(Sent(at_s, raw))
    return sent


def _packet(port: str, letters: str, client: Address, server: Address, own: dict[str, str], number: int) -> bytes:
    answers, port = port.startswith("<"), port.removeprefix("<")
    source_port = int(own.get("sport", 40_000 + number))
    if port == "piece":  # a later fragment
        return ip(client, server, 17, b"later", fragment=3, number=number)
    there = Port.parse(port)
    a, b = (there.number, source_port) if answers else (source_port, there.number)
    ends = (server, client) if answers else (client, server)
    if there.protocol is Protocol.UDP:
        body = datagram(b, a)
    else:
        flags = sum(_LETTERS[letter] for letter in letters if letter != ".")
        body = segment(b, a, flags, int(own.get("seq", 1000 + number)))
    raw = ip(*ends, there.protocol, body, number=number)
    return raw[: int(own["cut"])] if "cut" in own else raw


def compiled(text: str) -> CompiledConfig:
    """Return a compiled configuration."""
    return build_config(parse(text, "doorward.toml"))


def recorded(config: CompiledConfig, sent: Iterable[Sent], source: Address | None = None) -> PacketCollector:
    """Return a collector fed with the packets as raw frames."""
    recording = PacketCollector(config, source)
    for at_s, raw in sorted(sent, key=lambda packet: packet.at_s):
        length = int.from_bytes(raw[2:4]) if raw[0] >> 4 == 4 else 40 + int.from_bytes(raw[4:6])
        recording.feed_packet(NetworkPacket(memoryview(raw)), BEGAN_NS + round(at_s * 1e9), is_cut=length > len(raw))
    return recording


def explained(
    config: CompiledConfig,
    sent: Iterable[Sent],
    hosts: Sequence[Address] = (),
    source: Address | None = None,
    door: str = "",
) -> Summary:
    """Return the summary of packets, as `doorward explain` does."""
    recording = recorded(config, sent, source)
    here = frozenset(host.packed for host in hosts) or server_addresses(recording.packets, config)
    traces = SourceTraces(config, here.__contains__)
    traces.feed_all(recording.packets)
    index = config.door_index(door) if door else None
    return summarize(config, traces, here, here.__contains__, source=source, door=index)


def concluded(config: CompiledConfig, sent: Iterable[Sent], source: Address = CLIENT, door: str = "") -> Diagnosis:
    """Return the diagnosis for one source of a capture whose host is `SERVER`."""
    hosts = (SERVER, ip_address("2001:db8:2::2"))
    return explained(config, sent, hosts, source, door).sources[0].diagnosis
