"""A capture file, read frame by frame and explained to its end."""

from __future__ import annotations

import io
from contextlib import suppress

from doorward.config.toml import parse
from doorward.errors import MalformedError
from doorward.explain.collect import PacketCollector
from doorward.explain.compiled_config import build_config
from doorward.explain.sources import SourceTraces, server_addresses
from doorward.explain.summary import rows, summarize
from doorward.packets.pcap import MAX_FRAME_BYTES, CaptureFile

CONFIGURATION = """
[gate]
public = ["80/tcp"]
[doors.ssh]
knock = ["7000/tcp", "8000/udp", "9000/tcp"]
opens = ["22/tcp"]
[doors.wake]
knock = ["4001/tcp", "4001/tcp"]
target = "192.0.2.77"
on_open = ["/bin/true"]
"""
CONFIG = build_config(parse(CONFIGURATION, "doorward.toml"))


def one(data: bytes) -> None:
    """Read the frames, and say of every source what there is to say."""
    recording = PacketCollector(CONFIG)
    with suppress(MalformedError):
        for frame in CaptureFile(io.BytesIO(data)):
            assert frame.at_ns >= 0
            assert len(frame.data) <= min(len(data), MAX_FRAME_BYTES)
            recording.feed(frame)
    hosts = server_addresses(recording.packets, CONFIG)
    traces = SourceTraces(CONFIG, hosts.__contains__)
    traces.feed_all(recording.packets)
    for summary in summarize(CONFIG, traces, hosts, hosts.__contains__).sources:
        assert summary.diagnosis.fault.what
        assert summary.diagnosis.fault.kind != "unexplained"
        for row in rows(CONFIG, summary.trace):
            assert row.meaning
