"""What the daemon confirms, and what a compromised verifier cannot make it send."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace

import pytest

from doorward.daemon import confirmations, reply_sockets, signed_knocks, verifier_supervisor
from doorward.daemon.browser_frames import ANSWER_S, MAX_ANSWERS, FrameRepeat
from doorward.daemon.confirmation_outcomes import CONFIRMATIONS_AT_ONCE, CONFIRMATIONS_PER_S
from doorward.daemon.confirmations import Confirmations
from doorward.daemon.ledger import Ledger, read_records
from doorward.daemon.log import Log
from doorward.daemon.reply_sockets import ReplySockets, open_early
from doorward.daemon.signed_knocks import SignedKnocks
from doorward.kernel.routes import LOCAL, UNICAST
from doorward.kernel.send_only import open_send_only
from doorward.model import Port, Protocol
from doorward.signed.authorize import ValidKnock
from doorward.signed.reply import (
    REPLY_BYTES,
    SALT_BYTES,
    Confirmation,
    ReplyPath,
    ReplySecret,
    _key_and_nonce,
    open_reply,
)
from doorward.signed.stun import ice_password, success_response
from tests.support.in_process_daemon import InProcessDaemon

GUEST, SERVER = ip_address("127.0.0.1"), ip_address("127.0.0.2")  # as if they were two hosts
SECRET = ReplySecret(bytes(range(32)))
_MARKER = b"marker"


class Client:
    """A socket that a gate answers to, and the gate's own sockets, over loopback."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((str(GUEST), 0))
        self.socket.settimeout(30)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as free:  # of both families, as nobody else uses it
            free.bind(("", 0))
            self.port = Port(Protocol.UDP, free.getsockname()[1])
        self.sockets, self.lines = ReplySockets(), io.StringIO()
        self.confirmations = Confirmations(self.sockets, Log("json", self.lines))
        types = {GUEST: UNICAST, SERVER: LOCAL}
        monkeypatch.setattr(confirmations, "route_type", lambda to, _: types.get(to, 0))

    def path(self, **fields: object) -> ReplyPath:
        path = ReplyPath(GUEST, self.socket.getsockname()[1], SERVER, self.port.number, 0)
        return path._replace(**fields)  # type: ignore[arg-type]

    def grant(self, number: int = 0, **fields: object) -> ValidKnock:
        id_ = number.to_bytes(16)
        grant = ValidKnock("ssh", GUEST, 30_000, "laptop", bytes(12), id_, 0, reply=SECRET, path=self.path())
        return grant._replace(**fields)  # type: ignore[arg-type]

    def waiting(self) -> list[bytes]:
        """Return the datagrams that came before this call: a marker follows them, since loopback may lag."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.sendto(_MARKER, self.socket.getsockname())
        return list(iter(lambda: self.socket.recv(2000), _MARKER))

    def logged(self) -> list[str]:
        return [json.loads(line).get("code", "sent") for line in self.lines.getvalue().splitlines()]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    client = Client(monkeypatch)
    client.confirmations.configure([client.port])
    with closing(client.socket):
        yield client
    client.confirmations.configure(())


def test_an_opening_and_a_close_are_confirmed(client: Client) -> None:
    assert client.confirmations.confirm(client.grant(), 30, 0.0) == "sent"
    close = ValidKnock("ssh", GUEST, None, "laptop", bytes(12), bytes(16), 0, reply=SECRET, path=client.path())
    client.confirmations.confirm(close, None, 0.0)
    replies = [open_reply(SECRET, datagram) for datagram in client.waiting()]
    assert [(reply.source, reply.left_s) for reply in replies] == [(GUEST, 30), (GUEST, None)]
    assert client.logged() == ["sent", "sent"]


def test_a_knock_that_does_not_ask_gets_nothing_and_no_line(client: Client) -> None:
    client.confirmations.confirm(client.grant(reply=None), 30, 0.0)
    client.confirmations.confirm(client.grant(path=None), 30, 0.0)
    assert (client.waiting(), client.logged()) == ([], [])


def test_a_compromised_verifier_chooses_neither_port_nor_rate_nor_contents(client: Client) -> None:
    """It reports any way and any secret: from a port that is not open, with a foreign source, without an end."""
    others = [
        client.path(port=client.port.number ^ 1),
        client.path(source_port=0),
        client.path(source=ip_address("::1")),  # of another family than the destination
        client.path(destination=ip_address("198.51.100.7")),
    ]
    for path in others:
        client.confirmations.confirm(client.grant(path=path), 30, 0.0)
    assert client.waiting() == []
    assert client.logged()[0:2] == ["port-not-open", "not-a-host"]
    assert set(client.logged()) <= {"port-not-open", "not-a-host", "not-sent"}
    sent = []
    for second in (10.0, 11.0):
        for number in range(2 * CONFIRMATIONS_AT_ONCE):
            client.confirmations.confirm(client.grant(number), 30, second)
            sent += client.waiting()
    assert len(sent) == CONFIRMATIONS_AT_ONCE + CONFIRMATIONS_PER_S
    assert {len(datagram) for datagram in sent} == {REPLY_BYTES}
    assert len(set(sent)) == len(sent)  # a fresh salt each, also for one secret
    assert isinstance(open_reply(SECRET, sent[0]), Confirmation)


TRANSACTION = bytes(range(12))


def test_a_browser_is_answered_again_for_its_repeats(client: Client) -> None:
    """At most eight times within seven seconds, each to its own transaction; the first is logged."""
    grant = client.grant(transaction=TRANSACTION)
    client.confirmations.confirm(grant, 30, 0.0)
    transactions = [TRANSACTION, *(bytes(11) + bytes([number]) for number in range(10))]
    for transaction in transactions[1:]:
        client.confirmations.repeat(FrameRepeat(grant.id, transaction), 1.0)
    expected = [success_response(each, GUEST, client.path().source_port, ice_password(SECRET)) for each in transactions]
    assert client.waiting() == expected[:MAX_ANSWERS]
    assert client.logged() == ["sent"]
    assert client.confirmations.counts == {"sent": 1, "again": MAX_ANSWERS - 1}
    assert json.loads(client.lines.getvalue())["by"] == "key laptop (browser)"


def test_a_frame_with_a_wrong_integrity_does_not_spoil_the_right_one(client: Client) -> None:
    grant = client.grant(transaction=b"")
    client.confirmations.confirm(grant, 30, 0.0)
    assert (client.waiting(), client.logged()) == ([], ["integrity"])
    client.confirmations.repeat(FrameRepeat(grant.id, TRANSACTION), 1.0)
    assert len(client.waiting()) == 1
    client.confirmations.repeat(FrameRepeat(grant.id, TRANSACTION), ANSWER_S)
    assert client.waiting() == []


def test_repeats_of_what_was_not_recorded_are_not_answered(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not those of raw packets, nor of a browser's knock that was dropped from a bounded memory."""
    monkeypatch.setattr(confirmations, "MAX_ANSWERABLE", 2)
    client.confirmations.confirm(client.grant(9), 30, 0.0)
    for number in range(3):
        client.confirmations.confirm(client.grant(number, transaction=TRANSACTION), 30, 0.0)
    client.waiting()
    for number in (0, 9, 10):
        client.confirmations.repeat(FrameRepeat(client.grant(number).id, TRANSACTION), 1.0)
    assert client.waiting() == []
    client.confirmations.repeat(FrameRepeat(client.grant(1).id, TRANSACTION), 1.0)
    assert len(client.waiting()) == 1


def test_repeats_are_within_the_rate_limit(client: Client) -> None:
    sent = []
    for number in range(CONFIRMATIONS_AT_ONCE):
        grant = client.grant(number, transaction=TRANSACTION)
        client.confirmations.confirm(grant, 30, 0.0)
        client.confirmations.repeat(FrameRepeat(grant.id, TRANSACTION), 0.0)
        sent += client.waiting()
    assert len(sent) == CONFIRMATIONS_AT_ONCE
    assert {len(datagram) for datagram in sent} == {64}


def test_this_hosts_own_addresses_get_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    client.confirmations.confirm(client.grant(), 30, 0.0)
    assert (client.waiting(), client.logged()) == ([], ["not-a-host"])


def test_what_has_no_form_in_a_reply_does_not_end_the_daemon(client: Client) -> None:
    """An IPv4 address in IPv6's form, which a forged source may have, and an end from a forged ledger."""
    mapped = ip_address("::ffff:203.0.113.9")
    client.confirmations.confirm(client.grant(source=mapped), 30, 0.0)
    assert (client.waiting(), client.logged()) == ([], ["not-sent"])
    client.confirmations.confirm(client.grant(), 1 << 40, 0.0)
    (datagram,) = client.waiting()
    assert open_reply(SECRET, datagram).left_s == (1 << 32) - 1


def test_without_confirm_nothing_is_bound_or_sent(client: Client) -> None:
    client.confirmations.configure(())
    client.confirmations.confirm(client.grant(), 30, 0.0)
    assert (client.waiting(), client.logged()) == ([], ["off"])
    for family in (socket.AF_INET, socket.AF_INET6):
        with socket.socket(family, socket.SOCK_DGRAM) as other:
            other.bind(("", client.port.number))


def test_a_port_that_cannot_be_opened_is_logged_and_the_others_are_open(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    low, real = Port.parse("53/udp"), open_send_only

    def refusing(family: socket.AddressFamily, number: int) -> socket.socket:
        if number == low.number:
            raise PermissionError(13, "Permission denied")
        return real(family, number)

    monkeypatch.setattr(reply_sockets, "open_send_only", refusing)
    client.confirmations.configure([low, client.port])
    assert client.confirmations.as_dict() == {
        "is_on": True,
        "ports": [str(client.port)],
        "not_open": {"53/udp": "Permission denied"},
        "counts": {},
    }
    assert client.logged() == ["reply-port-not-open"]
    client.confirmations.confirm(client.grant(), 30, 0.0)
    assert len(client.waiting()) == 1


def test_only_what_opened_is_confirmed(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what the kernel refuses, what was used before, or what is banned; those of a batch are distinguished."""
    monkeypatch.setattr(verifier_supervisor, "datagram_log", lambda _: SimpleNamespace(close=lambda: None))
    daemon = InProcessDaemon(Ledger(tmp_path / "ledger.sqlite3"), Log("text", io.StringIO()))
    with closing(daemon):
        signed = SignedKnocks(daemon.openings, daemon.bans, lambda: None, 60_000, client.sockets)
        signed._confirmations.is_on = True
        now_ms = signed_knocks._clock().now_ms
        grants = [client.grant(number, time_ms=now_ms) for number in range(3)]
        signed._on_knocks([grants[0], grants[1], grants[1], grants[0]])
        assert len(client.waiting()) == 2
        signed._on_knocks([grants[0]])
        daemon.firewall.stuck = True
        signed._on_knocks([grants[2]._replace(source=ip_address("192.0.2.9"))])
        assert client.waiting() == []
        signed.close()


def test_what_became_of_a_confirmation_is_recorded_after_it(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the opening, also for its close; where nobody asked, there is nothing to record."""
    monkeypatch.setattr(verifier_supervisor, "datagram_log", lambda _: SimpleNamespace(close=lambda: None))
    path = tmp_path / "ledger.sqlite3"
    with closing(InProcessDaemon(Ledger(path), Log("text", io.StringIO()))) as daemon:
        signed = SignedKnocks(daemon.openings, daemon.bans, lambda: None, 60_000, client.sockets)
        now_ms = signed_knocks._clock().now_ms
        grant = client.grant(time_ms=now_ms)
        closes = grant._replace(for_ms=None, id=bytes([1] * 16), time_ms=now_ms + 1)
        silent = grant._replace(id=bytes([2] * 16), door="web", reply=None)
        found = []
        for is_on, knock in (True, grant), (False, closes), (True, silent):
            signed._confirmations.is_on = is_on
            signed._on_knocks([knock])
            found.append([record.detail["confirmation"] for record in read_records(path, 0.0, 9)])
        signed.close()
    assert found == [["sent"], ["off"], ["off", None]]


def test_gates_with_one_key_never_use_a_key_and_a_nonce_twice(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two gates without names take one packet, as does one that lost its ledger: three replies under one secret."""
    monkeypatch.setattr(verifier_supervisor, "datagram_log", lambda _: SimpleNamespace(close=lambda: None))
    knock = client.grant(time_ms=signed_knocks._clock().now_ms + 1000)
    salts = []
    for name in ("one", "two", "lost"):
        with closing(InProcessDaemon(Ledger(tmp_path / name), Log("text", io.StringIO()))) as daemon:
            signed = SignedKnocks(daemon.openings, daemon.bans, lambda: None, 60_000, client.sockets)
            signed._confirmations.configure([client.port])
            signed._on_knocks([knock, knock])
            (reply,) = client.waiting()
            assert open_reply(SECRET, reply).source == GUEST
            salts.append(reply[:SALT_BYTES])
            signed.close()
    keys, nonces = zip(*(_key_and_nonce(SECRET, salt) for salt in salts), strict=True)
    assert len(set(keys)) == len(set(nonces)) == len(salts)


@pytest.mark.parametrize(
    ("text", "is_bound"),
    [
        ("[signed]\nport = {port}\nconfirm = true\n", True),
        ("[signed]\nport = {port}\nconfirm = false\n", False),
        ("[signed]\nport = {port}\n", False),
        ("[signed]\nport = {port}\nconfirm = 7\n", False),
    ],
)
def test_the_ports_of_a_file_are_opened_early(client: Client, tmp_path: Path, text: str, is_bound: bool) -> None:
    client.confirmations.configure(())
    file = tmp_path / "doorward.toml"
    file.write_text(text.format(port=f'"{client.port}"') + '[doors.ssh]\nopens = ["22/tcp"]\n')
    file.chmod(0o600)
    for _ in range(2):
        sockets = open_early(tmp_path / "doorward.toml")
        assert sockets.ports == ({client.port} if is_bound else set())
        sockets.open(())
        if file.exists():
            file.rename(tmp_path / "doorward.toml.last")  # the last good copy
