"""What tests need of the machine, and the lab that they run in."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NoReturn

import pytest
from hypothesis import settings

from doorward.errors import HostError
from doorward.lab.topology import Lab
from tests.support.consoles import Console
from tests.support.sweep import remove_labs_of


def pytest_configure() -> None:
    """Start the programs under test with default signals, also where this process ignores some.

    `nohup`, and `&` in a script, ignore a signal, and programs inherit that. They do not inherit a handler.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # `nohup`: the tests themselves go on
        signal.signal(signal.SIGHUP, lambda *_: None)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile("untimed", deadline=None)  # a machine that is busy elsewhere makes no example wrong
    settings.load_profile("untimed")
    gc.disable()  # until the tests are collected


def pytest_collection_finish() -> None:
    """Keep the modules and thousands of tests out of every garbage collection: that takes a quarter of the time."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """Remove the labs that a timeout left: it can interrupt a fixture that removes its own lab."""
    remove_labs_of(os.getpid())


def unavailable(reason: str) -> NoReturn:
    """Skip this test, or fail it where CI=true promises a machine that has everything."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"needed here, since CI=true: {reason}", pytrace=False)
    pytest.skip(reason)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Honour `@pytest.mark.netns("nmap", …)`: root, `ip` and the named programs."""
    for mark in item.iter_markers("netns"):
        missing = [program for program in ("ip", *mark.args) if shutil.which(program) is None]
        if os.geteuid() != 0:
            unavailable("needs root")
        if missing:
            unavailable(f"not installed: {', '.join(missing)}")


def _standing(lab: Lab) -> Iterator[Lab]:
    with ExitStack() as stack:
        try:
            stack.enter_context(lab)
        except HostError as error:
            unavailable(str(error))
        yield lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Client, router, server and stranger, for this test alone (it takes 0.1 s)."""
    yield from _standing(Lab())


@pytest.fixture
def direct_lab() -> Iterator[Lab]:
    """Client and server on one wire, for this test alone."""
    yield from _standing(Lab(direct=True))


@pytest.fixture(scope="module")
def module_lab() -> Iterator[Lab]:
    """Client and server on one wire, for all tests of a module."""
    yield from _standing(Lab(direct=True))


@pytest.fixture
def console(request: pytest.FixtureRequest) -> Iterator[Console]:
    """What the consoles of the test's mark say to type; whatever it leaves untyped is a fault."""
    mark = request.node.get_closest_marker("console")
    assert mark is not None, "the test has no mark `console`"
    console = Console(*mark.args)
    failed = request.session.testsfailed
    yield console
    assert console.left == [] or request.session.testsfailed > failed, "not typed"  # the first fault is the one to show
