"""What the verifier tells the daemon: a fixed form, and nothing beyond it is believed. Pure."""

from __future__ import annotations

import json
from typing import NamedTuple, cast

from doorward.config.schema import MAX_STANZAS
from doorward.daemon.browser_frames import FrameRepeat
from doorward.errors import MalformedError
from doorward.escape import printable
from doorward.fwknop.spa_packet import MAX_PORTS
from doorward.model import NAME, Address, parse_address, parse_source
from doorward.signed.authorize import KINDS, REASONS, Kind, KnockRejection, Reason, ValidKnock
from doorward.signed.message import HASH_BYTES, MAX_FOR_MS, MAX_TIME_MS, NUMBER_BYTES
from doorward.signed.reply import SECRET_BYTES, ReplyPath, ReplySecret
from doorward.signed.stun import TRANSACTION_BYTES

MAX_PER_REPORT = 36  # per message: it has room for knocks of up to 1,250 bytes and rejections of up to 2,250
_MAX_DOORS = MAX_PORTS  # that one packet of fwknop's opens
_MAX_LINE_LENGTH, _LONGEST_TROUBLE = 500, 8000
_MAX_FAULTS = 30  # in the first message, which has room for them and for MAX_STANZAS names


class Rejection(NamedTuple):
    """A rejection with its source."""

    source: Address
    refused: KnockRejection


class VerifierReport(NamedTuple):
    """Valid knocks in the order of arrival, rejections, and the number of these by reason since the last report.

    `repeats`: frames of knocks in this report or an earlier one, to answer again.
    """

    knocks: list[ValidKnock]
    refused: list[Rejection]
    counts: dict[str, int]
    repeats: tuple[FrameRepeat, ...] = ()


class VerifierReady(NamedTuple):
    """The first message: faults of single lines of the key files, and why the verifier cannot start, or "".

    `stanzas`: the names of fwknop's stanzas whose packets it accepts.
    """

    faults: list[str]
    trouble: str
    stanzas: frozenset[str] = frozenset()


def pack_report(report: VerifierReport) -> bytes:
    """Return the message with this report."""
    knocks = [
        {
            **knock._asdict(),
            "source": str(knock.source),
            "signer": knock.signer.hex(),
            "id": knock.id.hex(),
            "reply": None if knock.reply is None else knock.reply.hex(),
            "path": None if knock.path is None else [str(part) for part in knock.path],
            "transaction": None if knock.transaction is None else knock.transaction.hex(),
            "also": list(knock.also),
        }
        for knock in report.knocks
    ]
    refused = [
        {**why._asdict(), "words": printable(why.words, _MAX_LINE_LENGTH), "source": str(source)}
        for source, why in report.refused
    ]
    repeats = [[part.hex() for part in repeat] for repeat in report.repeats]
    return _packed({"knocks": knocks, "refused": refused, "counts": report.counts, "repeats": repeats})


def _packed(message: dict[str, object]) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode(errors="replace")  # a path may hold bytes that are not text


def parse_report(raw: bytes) -> VerifierReport:
    """Parse such a message. MalformedError: it is anything else."""
    try:
        found = json.loads(raw)
        knocks = [_knock(**each) for each in found["knocks"]]
        refused = [_rejection(**each) for each in found["refused"]]
        counts: dict[str, int] = {_reason(word): _number(count, 1 << 40) for word, count in found["counts"].items()}
        repeats = tuple(_repeat(*each) for each in found["repeats"])
        if max(len(knocks), len(refused), len(repeats)) > MAX_PER_REPORT:
            raise ValueError("too many in one message")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MalformedError("invalid-message", f"verifier: invalid message: {error}") from None
    return VerifierReport(knocks, refused, counts, repeats)


def _knock(
    door: str,
    source: str,
    for_ms: int | None,
    key: str,
    signer: str,
    id: str,  # noqa: A002
    time_ms: int,
    is_shared: bool,
    once: bool,
    reply: str | None,
    path: list[str] | None,
    transaction: str | None,
    kind: str,
    also: list[str],
) -> ValidKnock:
    if (
        type(is_shared) is not bool
        or type(once) is not bool
        or type(also) is not list
        or len(also) >= _MAX_DOORS
        or not all(map(NAME.fullmatch, (door, *also)))
    ):
        raise ValueError("invalid door or scope")
    secret = None if reply is None else ReplySecret(_bytes(reply, SECRET_BYTES))
    return ValidKnock(
        door, parse_source(_words(source)), None if for_ms is None else _number(for_ms, MAX_FOR_MS),
        _words(key), _bytes(signer, HASH_BYTES), _bytes(id, NUMBER_BYTES),
        _number(time_ms, MAX_TIME_MS), is_shared, once, secret,
        None if path is None else _path(*path),
        None if transaction is None else _bytes(transaction, TRANSACTION_BYTES if transaction else 0),
        _kind(kind), tuple(also),
    )  # fmt: skip


def _path(source: str, source_port: str, destination: str, port: str, interface: str) -> ReplyPath:
    ports = [_number(int(_words(number)), 0xFFFF) for number in (source_port, port)]
    addresses = [parse_address(_words(address)) for address in (source, destination)]
    if addresses[0].version != addresses[1].version:
        raise ValueError("addresses of two families")
    return ReplyPath(addresses[0], ports[0], addresses[1], ports[1], _number(int(_words(interface)), 0x7FFFFFFF))


def _repeat(id: str, transaction: str) -> FrameRepeat:  # noqa: A002
    return FrameRepeat(_bytes(id, NUMBER_BYTES), _bytes(transaction, TRANSACTION_BYTES))


def _bytes(value: str, length: int) -> bytes:
    raw = bytes.fromhex(value)
    if len(raw) != length:
        raise ValueError("invalid bytes")
    return raw


def _rejection(reason: str, words: str, door: str | None, kind: str, source: str) -> Rejection:
    if door is not None and not NAME.fullmatch(door):
        raise ValueError("invalid door")
    return Rejection(parse_address(_words(source)), KnockRejection(_reason(reason), _words(words), door, _kind(kind)))


def _number(value: object, limit: int) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise ValueError("invalid number")
    return value


def _reason(value: object) -> Reason:
    if not isinstance(value, str) or value not in REASONS:
        raise ValueError("unknown reason")
    return cast(Reason, value)


def _kind(value: object) -> Kind:
    if not isinstance(value, str) or value not in KINDS:
        raise ValueError("unknown kind")
    return cast(Kind, value)


def _words(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > _MAX_LINE_LENGTH:
        raise ValueError("invalid text")
    return value


def pack_ready(ready: VerifierReady) -> bytes:
    """Return the first message."""
    shown = [printable(fault, _MAX_LINE_LENGTH) for fault in ready.faults[:_MAX_FAULTS]]
    return _packed({"faults": shown, "trouble": ready.trouble[:_LONGEST_TROUBLE], "stanzas": sorted(ready.stanzas)})


def parse_ready(raw: bytes) -> VerifierReady:
    """Parse the first message. MalformedError: it is anything else."""
    try:
        found = json.loads(raw)
        stanzas = frozenset(found["stanzas"])
        if len(stanzas) > MAX_STANZAS or not all(map(NAME.fullmatch, stanzas)):
            raise ValueError("invalid stanzas")
        return VerifierReady([_words(fault) for fault in found["faults"]], str(found["trouble"]), stanzas)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MalformedError("invalid-message", f"verifier: invalid message: {error}") from None
