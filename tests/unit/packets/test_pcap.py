"""Capture files in both formats: byte orders, time units, corruption, and truncated files."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest

from doorward.errors import MalformedError
from doorward.packets.pcap import MAX_BLOCK_BYTES, MAX_FRAME_BYTES, MAX_INTERFACES, CapturedFrame, CaptureFile
from tests.support.tcpdump import (
    pcapng_block,
    pcapng_interface,
    pcapng_option,
    pcapng_packet,
    pcapng_section,
    write_pcap,
    write_pcapng,
)

AT_NS = 1_777_636_809_123_456_789
FRAMES = [
    CapturedFrame(AT_NS, 1, b"first", 5),
    CapturedFrame(AT_NS + 1_500_000_000, 1, b"the second", 1500),
    CapturedFrame(AT_NS + 7, 1, b"", 0),
]

orders = pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])


def read(data: bytes) -> tuple[list[CapturedFrame], str]:
    capture = CaptureFile(io.BytesIO(data))
    return list(capture), capture.truncated


def fault(data: bytes) -> str:
    with pytest.raises(MalformedError) as found:
        read(data)
    return str(found.value)


def in_microseconds(frames: list[CapturedFrame]) -> list[CapturedFrame]:
    return [frame._replace(at_ns=frame.at_ns // 1000 * 1000) for frame in frames]


@orders
@pytest.mark.parametrize("nanoseconds", [False, True])
def test_pcap(tmp_path: Path, order: str, nanoseconds: bool) -> None:
    path = write_pcap(tmp_path / "x", FRAMES, order=order, nanoseconds=nanoseconds)
    assert read(path.read_bytes()) == (FRAMES if nanoseconds else in_microseconds(FRAMES), "")


def test_the_link_type_of_frames_that_end_with_a_checksum() -> None:
    head = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 0x14000071)
    ((frame,), _) = read(head + struct.pack("<IIII", 1, 0, 1, 1) + b"x")
    assert frame.link == 113


@orders
def test_pcapng(tmp_path: Path, order: str) -> None:
    path = write_pcapng(tmp_path / "x", FRAMES, "eth0", order=order)
    assert read(path.read_bytes()) == ([f._replace(interface="eth0") for f in in_microseconds(FRAMES)], "")


@orders
@pytest.mark.parametrize("format_", ["pcap", "pcapng"])
def test_truncated_file_yields_the_frames_before_its_end(tmp_path: Path, order: str, format_: str) -> None:
    if format_ == "pcap":
        path = write_pcap(tmp_path / "x", FRAMES, order=order)
    else:
        path = write_pcapng(tmp_path / "x", FRAMES, "", order=order)
    whole = path.read_bytes()
    ends, expected = [], in_microseconds(FRAMES)
    for size in range(1, len(whole)):
        frames, cut = read(whole[:size])
        assert frames == expected[: len(frames)]
        if not cut:
            ends.append(len(frames))
        else:
            assert f"the file ends at byte {size:,}, inside " in cut
    assert ends == ([0, 1, 2] if format_ == "pcap" else [0, 0, 1, 2])  # after a header or a block it is whole


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (b"", "the file is empty; create one with `tcpdump -w FILE`"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip; run `gunzip` on it first"),
        (b"\x28\xb5\x2f\xfd12", "zstd"),
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh91AY", "bzip2"),
        (b"snoop\0\0\0", "Solaris"),
        (b"\x34\xcd\xb2\xa1\2\0\4\0", "convert it with `editcap -F pcap`"),
        (b"12:00:09.123456 IP 192.0.2.7", "not a capture file; create one with `tcpdump -w FILE`"),
        (b"\xd4\xc3\xb2\xa1\x03\0\0\0" + bytes(16), "byte 4: pcap of version 3.0; doorward reads version 2"),
    ],
)
def test_files_that_are_not_captures(start: bytes, says: str) -> None:
    assert says in fault(start)


def test_invalid_pcap_fields() -> None:
    head = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
    good = struct.pack("<IIII", 1, 0, 1, 1) + b"x"
    lie = struct.pack("<IIII", 1, 0, MAX_FRAME_BYTES + 1, 1)
    assert fault(head + good + lie) == "byte 41: invalid packet size 262,145: at most 262,144 bytes"
    capture = iter(CaptureFile(io.BytesIO(head + good + lie)))
    assert next(capture).data == b"x"


@orders
@pytest.mark.parametrize(
    ("resolution", "units_per_s"), [(b"\x09", 10**9), (b"\x00", 1), (b"\x03", 1000), (b"\x94", 1 << 20), (b"", 10**6)]
)
def test_time_units(order: str, resolution: bytes, units_per_s: int) -> None:
    options = pcapng_option(9, resolution, order) if resolution else b""
    data = pcapng_section(order) + pcapng_interface(1, options=options, order=order)
    ((frame,), _) = read(data + pcapng_packet(FRAMES[0], order=order, units_per_s=units_per_s))
    assert 0 <= AT_NS - frame.at_ns <= 1_000_000_000 // units_per_s


@orders
def test_time_offset(order: str) -> None:
    options = pcapng_option(14, struct.pack(order + "q", -3600), order)
    data = pcapng_section(order) + pcapng_interface(1, options=options, order=order)
    ((frame,), _) = read(data + pcapng_packet(FRAMES[0], order=order))
    assert frame.at_ns == AT_NS // 1000 * 1000 - 3_600_000_000_000


def test_sections_interfaces_and_other_blocks() -> None:
    """Each section has its own byte order and interfaces."""
    frame, noise = FRAMES[0], pcapng_block(4, b"names of addresses")
    first = pcapng_section() + pcapng_interface(1, "eth0") + noise + pcapng_interface(113, "any")
    first += pcapng_packet(frame, 1) + noise + pcapng_packet(frame, 0)
    second = pcapng_section(">") + pcapng_interface(101, "tun0", order=">") + pcapng_packet(frame, order=">")
    frames, cut = read(first + second)
    assert [(f.link, f.interface) for f in frames] == [(113, "any"), (1, "eth0"), (101, "tun0")]
    assert cut == ""


def test_simple_packets_get_the_previous_time() -> None:
    short = pcapng_block(1, struct.pack("<HHI", 1, 0, 4))  # snapshot length of four bytes
    simple = pcapng_block(3, struct.pack("<I", 7) + b"abcdefg")
    frames, _ = read(pcapng_section() + short + simple + pcapng_packet(FRAMES[0]) + simple)
    assert [(f.at_ns, f.data, f.length) for f in frames] == [
        (0, b"abcd", 7),
        (AT_NS // 1000 * 1000, b"first", 5),
        (AT_NS // 1000 * 1000, b"abcd", 7),
    ]


def test_old_packet_blocks() -> None:
    units = AT_NS // 1000
    old = pcapng_block(2, struct.pack("<HHIIII", 0, 0, units >> 32, units & 0xFFFFFFFF, 5, 5) + b"first")
    assert read(pcapng_section() + pcapng_interface(1) + old)[0] == in_microseconds(FRAMES[:1])


START = pcapng_section() + pcapng_interface(1)
AT = len(START)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\n\r\r\n" + bytes(24), "byte 8: a section without a byte order (it has 00000000)"),
        (b"\n\r\r\n\x10\0\0\0\x4d\x3c\x2b\x1a", "byte 4: a section header of 16 bytes, it needs 28"),
        (pcapng_block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 2, 0, -1)), "byte 12: pcapng of version 2.0"),
        (START + struct.pack("<II", 6, 11), f"byte {AT + 4}: a block of 11 bytes; it must be a multiple of 4"),
        (START + struct.pack("<II", 6, 14), f"byte {AT + 4}: a block of 14 bytes"),
        (START + struct.pack("<II", 6, MAX_BLOCK_BYTES + 4), f"byte {AT + 4}: a block of 16,777,220 bytes"),
        (START + struct.pack("<III", 5, 12, 16), f"byte {AT + 8}: a block begins with the length 12 and ends with 16"),
        (START + pcapng_block(6, bytes(8)), f"byte {AT}: a packet block of 8 bytes, it needs 20"),
        (START + pcapng_block(3, b""), f"byte {AT}: a simple packet block of 0 bytes, it needs 4"),
        (START + pcapng_block(1, b"1234"), f"byte {AT}: an interface of 4 bytes, it needs 8"),
        (START + pcapng_packet(FRAMES[0], 1), f"byte {AT}: a packet of interface 1, which no block before describes"),
        (pcapng_section() + pcapng_block(3, bytes(8)), "byte 28: a packet of interface 0, which no block"),
        (START + pcapng_block(6, struct.pack("<IIIII", 0, 0, 0, 9, 9) + b"12345678"), "a packet of 9 bytes in a block"),
        (
            START + pcapng_block(6, struct.pack("<IIIII", 0, 0xFFFFFFFF, 0, 1, 1) + b"1"),
            "invalid packet time",
        ),
        (pcapng_section() + pcapng_interface(1, options=struct.pack("<HH", 9, 40)), "byte 28: an option of 40 bytes"),
        (pcapng_section() + pcapng_interface(1) * (MAX_INTERFACES + 1), "more than 4,096 interfaces"),
    ],
)
def test_invalid_pcapng_fields(data: bytes, says: str) -> None:
    assert says in fault(data)
