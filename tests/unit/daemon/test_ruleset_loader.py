"""Loading in a child: what comes back, and what is left when it dies."""

from __future__ import annotations

import os
import pickle
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from doorward.config.files import read
from doorward.config.schema import Gate, Mode
from doorward.core.automaton import Automaton, compile_doors
from doorward.core.diff import Remaining
from doorward.daemon import ruleset_loader
from doorward.daemon.ruleset_loader import (
    AppliedRuleset,
    LoadProcess,
    LoadResult,
    compile_configuration,
    digest_of,
    load_file,
)
from doorward.errors import ConfigError, HostError, UsageError
from doorward.nftables.libnftables import NftFirewall
from doorward.nftables.monitor import fingerprint
from doorward.nftables.nft_error import NftError
from tests.support.errors import raises
from tests.support.openings import door, element
from tests.support.processes import open_descriptors, own_namespace

GOOD = """
[gate]
mode = "stealth"
capacity = 4096
[doors.ssh]
knock = ["7000/tcp", "8000/udp", "9000/tcp"]
opens = ["22/tcp"]
[doors.web]
opens = ["22/tcp"]
for = "5m"
"""
BAD = """
[gate]
mode = "gaurd"
[doors.ssh]
knock = ["7000/tcp", "99999/udp"]
opens = "22/tcp"
fro = "30s"
"""
pytestmark = pytest.mark.netns("nft")
HOME = element("192.0.2.7 22/tcp")


def children() -> set[str]:
    """List this process's children, zombies too; a test before may have some for the life of the process."""
    return {child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()}


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """In a namespace of its own; no descriptor and no zombie outlives a test."""
    before = open_descriptors(), children()
    with own_namespace():
        yield
    assert (open_descriptors(), children()) == before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "doorward.toml"
    path.write_text(GOOD)
    return path


def loading_of(path: Path, restore: Remaining | None = None) -> LoadProcess[LoadResult]:
    return LoadProcess(lambda: load_file(path, restore or {}, path.with_name("gate.nft")))


def test_what_the_daemon_learns(path: Path) -> None:
    loaded = loading_of(path).result()
    ruleset = compile_configuration(read(path), ruleset_loader.memory_bytes())
    assert loaded == LoadResult(
        Gate(Mode.STEALTH, capacity=4096),
        (door("ssh", "22/tcp"), door("web", "22/tcp", for_ms=300_000)),  # the sequences stay in the child
        generation=ruleset.generation,
        states=ruleset.states,
        commit=AppliedRuleset(loaded.commit.process, fingerprint()),
        depths=((1, 0), (2, 1), (3, 2), (4, 3)),  # three knocks
        digest=digest_of(GOOD),
    )
    assert loaded.summary() == "2 doors, mode stealth"
    assert set(loaded.states.values()) == {(0,)}


def test_gate_with_a_shield_compiles_its_doors_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, compiled = compile_doors, list[Automaton]()

    def once(*doors: Any, **settings: Any) -> Automaton:
        assert not compiled
        compiled.append(real(*doors, **settings))
        return compiled[0]

    monkeypatch.setattr(ruleset_loader, "compile_doors", once)
    path.write_text(GOOD.replace("[gate]", '[gate]\nshield = "on"'))
    assert loading_of(path).result().shield


def test_the_gate_is_loaded_with_the_restored_openings(path: Path) -> None:
    loading_of(path, {HOME: 60}).result()
    assert NftFirewall().elements() == pytest.approx({HOME: 60}, abs=10)
    sizes = {thing.name: thing.size for thing in NftFirewall().existing()}
    assert sizes["ratelimit4"] == 4096


def test_the_daemon_can_wait_for_it_beside_other_things(path: Path) -> None:
    child = loading_of(path)
    done = False
    while not done:
        assert select.select([child.fileno()], [], [], 30)[0]
        done = child.advance()
    assert child.result().summary() == "2 doors, mode stealth"


def test_every_fault_of_the_file_comes_back(path: Path) -> None:
    path.write_text(BAD)
    with pytest.raises(ConfigError) as here:
        read(path)
    with pytest.raises(ConfigError) as there:
        loading_of(path).result()
    assert there.value.faults == here.value.faults
    assert len(there.value.faults) == 4
    assert str(there.value) == str(here.value)


def test_a_missing_file_comes_back_as_what_it_is(path: Path) -> None:
    path.unlink()
    with raises(UsageError, "no-such-file"):
        loading_of(path).result()


def test_a_group_that_the_host_lacks_is_found_before_anything_is_changed(path: Path) -> None:
    path.write_text(GOOD.replace("[gate]", '[gate]\ncontrol_group = "no-such-group"'))
    with raises(HostError, "unknown-group"):
        loading_of(path).result()
    assert NftFirewall().existing() == []


def test_what_nftables_refuses_comes_back_in_its_words(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise NftError("Error: Could not process rule: No buffer space available")

    monkeypatch.setattr(NftFirewall, "load", refuse)
    with pytest.raises(
        NftError, match="nftables rejected the change: Could not process rule: No buffer space available"
    ):
        loading_of(path).result()


def exits(*_: object) -> NoReturn:
    os._exit(3)


def is_killed(*_: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def is_wrong(*_: object) -> NoReturn:
    raise RuntimeError("a fault of its own")


def has_no_memory(*_: object) -> NoReturn:
    raise MemoryError


@pytest.mark.parametrize(("death", "status"), [(exits, 3), (is_killed, -9), (is_wrong, 1), (has_no_memory, 1)])
def test_a_child_that_dies_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, death: Callable[..., NoReturn], status: int
) -> None:
    loading_of(path, {HOME: 60}).result()
    before = NftFirewall().run("list chains inet"), NftFirewall().existing()
    monkeypatch.setattr(ruleset_loader, "compile_configuration", death)
    with pytest.raises(HostError, match=f"exited with status {status}; nothing was changed"):
        loading_of(path).result()
    assert (NftFirewall().run("list chains inet"), NftFirewall().existing()) == before
    assert NftFirewall().elements() == pytest.approx({HOME: 60}, abs=10)


def test_a_child_that_is_killed_while_it_answers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_dump = pickle.dump

    def half(outcome: object, pipe: Any) -> None:
        if isinstance(outcome, LoadResult):
            raw = pickle.dumps(outcome)
            pipe.write(raw[: len(raw) // 2])
            pipe.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        real_dump(outcome, pipe)

    monkeypatch.setattr(pickle, "dump", half)
    with raises(HostError, "child-failed"):
        loading_of(path).result()
