"""The shield's loader with a program that records what is noted in it."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

import pytest

from doorward.config.schema import Gate, Mode
from doorward.core.automaton import compile_doors
from doorward.model import Door, Port
from doorward.shield import loader
from doorward.shield.tables import compile_tables

DOOR = Door("ssh", (Port.parse("7001/tcp"), Port.parse("7002/tcp")), (Port.parse("22/tcp"),))
ALL = range(0)


class Program:
    """What the loader calls of ShieldProgram."""

    asks_conntrack = False

    def __init__(self, *_: object) -> None:
        self.expected: list[Collection[int]] = []

    def expect_answers(self, ports: Collection[int] = ALL) -> None:
        self.expected.append(ports)

    def attach(self, *_: object, **__: object) -> int:
        return os.open(os.devnull, os.O_RDONLY)

    def set_local(self, *_: object, **__: object) -> None:
        pass

    renew = replace = close = set_bans = set_local


@pytest.mark.parametrize(
    ("asks", "version", "expected"), [(False, 0, [{53}]), (False, 4, [ALL]), (False, 6, [ALL]), (True, 4, [])]
)
def test_host_that_forwards_leaves_udp_to_the_gate(
    monkeypatch: pytest.MonkeyPatch, asks: bool, version: int, expected: list[Collection[int]]
) -> None:
    """A host behind it may receive for hours and send nothing; on others, only ports with a socket stay in use.

    Conntrack knows of such flows, if it can be asked.
    """
    monkeypatch.setattr(Program, "asks_conntrack", asks)
    for name, value in (
        ("ShieldProgram", Program),
        ("_obstacle", lambda: ""),
        ("_udp_ports", lambda: {53}),
        ("is_forwarding", lambda asked: asked == version),
    ):
        monkeypatch.setattr(loader, name, value)
    form = compile_tables(Gate(mode=Mode.STEALTH, interfaces=("none0",)), compile_doors([DOOR]), b"key").pack()
    loading, descriptor = loader.ShieldLoader(1 << 10), os.memfd_create("form")
    os.write(descriptor, form)
    loading.answer(loader.LOAD, [descriptor])
    program: Any = loading._program
    assert program.expected == [ALL, *expected]
    loading.answer(loader.RENEW, [])
    assert program.expected == [ALL, *expected, *expected]
    loading.answer(loader.END, [])
    loading.monitor.close()
