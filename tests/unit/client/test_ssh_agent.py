"""The real ssh-agent, and agents that misbehave."""

from __future__ import annotations

import os
import threading
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.client import ssh_agent as client
from doorward.client.ssh_agent import (
    Agent,
    AgentKey,
    NoAgentError,
    comment_text,
    open_agent,
    parse_keys,
    parse_signature,
)
from doorward.errors import DoorwardError, HostError, MalformedError, NegativeResult
from doorward.signed.ssh_keys import parse_public_key, verify_data
from doorward.signed.ssh_wire import string
from tests.support.errors import raises
from tests.support.ssh_agent import FAILURE, LIST, SIGN_ANSWER, agent_that, blob_of, framed, listing, real_agent
from tests.support.ssh_keygen import KINDS, key

DATA = b"what is to be signed"


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_of_every_kind_signs(tmp_path: Path, kind: str) -> None:
    with real_agent(tmp_path) as real:
        real.add(key(kind))
        with Agent(str(real.path)) as agent:
            (found,) = agent.list_keys()
            signature = agent.sign(found, DATA)
    assert found == AgentKey(blob_of(key(kind)), f"{kind} number 0")
    verify_data(parse_public_key(found.blob), signature, DATA)


def test_several_keys_are_listed_in_their_order(tmp_path: Path) -> None:
    wanted = [key("rsa2048"), key("ed25519", 1), key("ecdsa384")]
    with real_agent(tmp_path) as real:
        for each in wanted:
            real.add(each)
        with Agent(str(real.path)) as agent:
            assert [found.blob for found in agent.list_keys()] == list(map(blob_of, wanted))


def test_locked_agent_lists_and_signs_nothing(tmp_path: Path) -> None:
    with real_agent(tmp_path) as real:
        real.add(key("ed25519"))
        with Agent(str(real.path)) as agent:
            (found,) = agent.list_keys()
        real.add("-x", given="a word")
        with Agent(str(real.path)) as agent:
            assert agent.list_keys() == []
            with raises(NegativeResult, "agent-refused"):
                agent.sign(found, DATA)


def test_unconfirmed_key_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_ASKPASS", "/bin/false")  # the agent asks with it
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    with real_agent(tmp_path) as real:
        real.add("-c", key("ed25519"))
        with Agent(str(real.path)) as agent, raises(NegativeResult, "agent-refused"):
            agent.sign(agent.list_keys()[0], DATA)


def test_missing_ssh_auth_sock() -> None:
    with raises(NoAgentError, "no-agent"):
        open_agent()


@pytest.mark.parametrize(("name", "code"), [("gone", "no-agent"), ("a" * 200, "no-agent"), (".", "no-agent")])
def test_no_agent_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str) -> None:
    path = tmp_path / name
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    with raises(NoAgentError, code):
        open_agent()


@pytest.mark.parametrize(
    ("reply", "error", "code"),
    [
        (b"", HostError, "no-key-list"),
        (b"\xff\xff\xff\xff", HostError, "no-key-list"),
        (string(b""), HostError, "no-key-list"),
        (framed(99), HostError, "no-key-list"),
        (framed(12, b"\0\0\0\1"), HostError, "no-key-list"),
        (framed(12, b"\0\xff\0\0"), HostError, "no-key-list"),
        (framed(12, b"\0\0\0\0x"), HostError, "no-key-list"),
        (framed(FAILURE), HostError, "no-key-list"),
    ],
)
def test_malformed_list_reply(tmp_path: Path, reply: bytes, error: type[DoorwardError], code: str) -> None:
    with agent_that(tmp_path, lambda _: reply) as path, Agent(str(path)) as agent, raises(error, code):
        agent.list_keys()


@pytest.mark.parametrize(
    ("reply", "error", "code"),
    [
        (framed(FAILURE), NegativeResult, "agent-refused"),
        (framed(30), NegativeResult, "agent-refused"),
        (framed(SIGN_ANSWER), HostError, "no-signature"),
        (framed(SIGN_ANSWER, string(b"x") + b"y"), HostError, "no-signature"),
        (listing(), HostError, "no-signature"),
    ],
)
def test_malformed_signature_reply(tmp_path: Path, reply: bytes, error: type[DoorwardError], code: str) -> None:
    with agent_that(tmp_path, lambda _: reply) as path, Agent(str(path)) as agent, raises(error, code):
        agent.sign(AgentKey(b"blob", ""), DATA)


def test_silent_agent_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_S", 0.05)
    with (
        agent_that(tmp_path, lambda _: None) as path,
        Agent(str(path)) as agent,
        raises(HostError, "agent-timeout"),
    ):
        agent.list_keys()


def test_a_signature_may_take_longer_than_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_S", 0.05)
    touched = threading.Event()

    def answer(request: bytes) -> bytes:
        if request[0] != LIST:
            touched.wait(10)
        return framed(SIGN_ANSWER, string(b"signature"))

    with agent_that(tmp_path, answer) as path, Agent(str(path)) as agent:
        threading.Timer(0.2, touched.set).start()
        assert agent.sign(AgentKey(b"blob", "token"), DATA) == b"signature"


def test_what_is_sent_to_an_agent_byte_by_byte(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def answer(request: bytes) -> bytes:
        seen.append(request)
        return listing() if request[0] == LIST else framed(SIGN_ANSWER, string(b"s"))

    with agent_that(tmp_path, answer) as path, Agent(str(path)) as agent:
        agent.list_keys()
        agent.sign(AgentKey(b"blob", ""), b"data")
    assert seen == [b"\x0b", b"\x0d\0\0\0\4blob\0\0\0\4data\0\0\0\4"]  # the draft's sections 3.5 and 3.6


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        (b"laptop", "laptop"),
        (b"\x1b[2Jx", "?[2Jx"),
        (b"\xff", "\ufffd"),
        ("\u00e9\u202e".encode(), "\u00e9?"),
        (b"a" * 999, "a" * 64),
    ],
)
def test_comment_is_shown_without_control_characters(comment: bytes, text: str) -> None:
    assert comment_text(comment) == text


@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda raw: b"\x0c\0\0\0\1" + string(raw) + string(b"")))
def test_any_bytes_are_a_list_or_malformed(raw: bytes) -> None:
    try:
        found = parse_keys(raw)
    except MalformedError:
        return
    assert framed(12, b"")[4:] + len(found).to_bytes(4) == raw[:5]
    assert all(each.comment.isprintable() for each in found)


@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda raw: b"\x0e" + string(raw)))
def test_any_bytes_are_a_signature_or_malformed(raw: bytes) -> None:
    try:
        assert string(parse_signature(raw)) == raw[1:]
    except MalformedError:
        return


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """Open a path as the named pipe is opened on Windows, which nobody answers; and its other end."""
    monkeypatch.setattr(client, "_HAS_UNIX_SOCKETS", False)
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    path = os.ttyname(theirs)
    yield path, ours
    os.close(theirs)


def test_silent_named_pipe(pipe: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_S", 0.05)
    path, ours = pipe
    with Agent(path) as agent, raises(HostError, "agent-timeout"):
        agent.list_keys()
    (reader,) = [thread for thread in threading.enumerate() if thread.name == "agent reply"]
    os.close(ours)
    reader.join()  # and the path is closed


def test_named_pipe_that_ends(pipe: tuple[str, int]) -> None:
    path, ours = pipe
    with Agent(path) as agent:
        os.close(ours)
        with raises(HostError, "agent-closed"):
            agent.list_keys()
