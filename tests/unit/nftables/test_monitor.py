"""The kernel's notifications of nf_tables changes, and their scope."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.config.toml import parse
from doorward.daemon.ruleset_loader import compile_configuration
from doorward.errors import MalformedError
from doorward.nftables.libnftables import NftFirewall
from doorward.nftables.monitor import _DYNAMIC, RulesetChange, RulesetMonitor, fingerprint, own_pid
from tests.support.processes import own_namespace

pytestmark = pytest.mark.netns("nft")
GATE = compile_configuration(
    parse(
        '[gate]\ncapacity = 4096\n[doors.ssh]\nknock = ["7001/tcp", "7002/tcp"]\nopens = ["22/tcp"]\n'
        "[signed]\nbrowser = true\n",
        "test",
    ),
    1 << 30,
)
SMALL_BUFFER_BYTES = 64 << 10  # the gate's own takes a few hundred thousand elements
NFT = {"family": "inet", "table": "doorward"}


@pytest.fixture
def watch() -> Iterator[RulesetMonitor]:
    """Return a monitor that was opened after a gate was loaded."""
    with own_namespace():
        NftFirewall().load(GATE, {})
        with closing(RulesetMonitor()) as watch:
            yield watch


def nft(commands: str) -> None:
    subprocess.run(["nft", commands], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("commands", "harm"),
    [
        ("add table inet other", ""),
        ("add table ip doorward; add chain ip doorward c", ""),
        ("add table inet doorward2; add set inet doorward2 ports { type ipv4_addr; }", ""),
        ("add element inet doorward open4 { 192.0.2.7 . tcp . 22 timeout 9s }", "openings"),
        ("add element inet doorward scanners4 { 192.0.2.7 }", ""),
        ("add element inet doorward browser4 { 192.0.2.7 }", ""),
        ("add element inet doorward preexisting4 { 192.0.2.7 . 40000 . 192.0.2.8 . 22 }", ""),
        ("delete element inet doorward ports { tcp . 22 }", "rules"),
        ("flush map inet doorward delta", "rules"),
        ("flush chain inet doorward door", "rules"),
        ("add chain inet doorward more", "rules"),
        ("add table inet doorward { flags dormant; }", "rules"),
        ("delete table inet doorward", "rules"),
        ("flush ruleset", "rules"),
        # several in one transaction: the widest scope counts
        ("add table inet other; flush chain inet doorward door; add table inet third", "rules"),
        (
            "add element inet doorward open4 { 192.0.2.7 . tcp . 22 timeout 9s }; flush chain inet doorward door",
            "rules",
        ),
    ],
)
def test_process_and_scope_of_changes(watch: RulesetMonitor, commands: str, harm: str) -> None:
    nft(commands)
    assert [(change.program, change.scope) for change in watch.read() or []] == [("nft", harm)]
    assert watch.read() == []


def test_no_set_that_packets_fill_counts_as_rules() -> None:
    dynamic = [spec.name for spec in GATE.sets if "dynamic" in spec.text]
    assert [name for name in dynamic if not _DYNAMIC.match(name.encode())] == []


def test_rejected_transaction_is_not_reported(watch: RulesetMonitor) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        nft("flush chain inet doorward door; delete chain inet doorward no_such_chain")
    assert watch.read() == []


def test_own_changes_are_recognized(watch: RulesetMonitor) -> None:
    NftFirewall().unload()
    (change,) = watch.read() or []
    assert change.process == own_pid()
    assert change.program == Path("/proc/self/comm").read_text().strip()


def test_ignored_child_is_reported_only_at_the_end_of_transactions(watch: RulesetMonitor) -> None:
    def child() -> RulesetChange:
        pid = os.fork()
        if pid == 0:
            try:
                watch.ignore_pid(os.getpid())
                watch.close()
                os.closerange(3, 1024)
                NftFirewall().load(GATE, {})
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        (change,) = watch.read() or []
        assert change.process != own_pid()
        return change

    assert child().scope == ""
    nft("flush ruleset")
    assert [change.scope for change in watch.read() or []] == ["rules"]  # other processes are still reported
    watch.clear_filter()
    NftFirewall().load(GATE, {})
    assert [change.scope for change in watch.read() or []] == ["rules"]


def test_fingerprint_is_unique_to_a_load(watch: RulesetMonitor) -> None:
    first = fingerprint()
    assert first == fingerprint() != b""
    for harmless in ("add table inet other", "add element inet doorward open4 { 192.0.2.7 . tcp . 22 timeout 9s }"):
        nft(harmless)
        assert fingerprint() == first
    seen = {first}
    for harm in (
        "insert rule inet doorward prerouting accept",
        "flush chain inet doorward door",
        "add table inet doorward { flags dormant; }",
        "flush ruleset",
    ):
        nft(harm)
        seen.add(fingerprint())
    NftFirewall().load(GATE, {})
    assert len(seen | {fingerprint()}) == 6


def test_buffer_overflow_is_reported(watch: RulesetMonitor) -> None:
    watch._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    elements = ", ".join(f"10.0.{n >> 8}.{n & 255}" for n in range(10_000))
    NftFirewall().run("add table inet other\nadd set inet other s { type ipv4_addr; }")
    assert watch.read() is not None
    for _ in range(3):
        NftFirewall().run(f"add element inet other s {{ {elements} }}\nflush set inet other s")
    assert watch.read() is None
    assert watch.read() == []
    nft("flush ruleset")
    assert [change.scope for change in watch.read() or []] == ["rules"]


@given(st.binary(max_size=200))
def test_any_bytes_are_changes_or_malformed(raw: bytes) -> None:
    watch = RulesetMonitor.__new__(RulesetMonitor)
    watch._scope = ""
    try:
        changes = watch._changes(raw)
    except MalformedError:
        return
    assert all(change.scope in ("", "rules", "openings") for change in changes)
