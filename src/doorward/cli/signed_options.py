"""Signed knocks from the command line; imported only to send one, since it loads the cryptography."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import cycle

from doorward.cli.knock_options import Knock, KnockPlan, print_sent
from doorward.client.confirmation import ReplyListener
from doorward.client.identity import find_signer
from doorward.client.sequence import Target, UnreachableError, first_per_family
from doorward.client.signed import KnockRequest, SentPacket, build_request, max_signature_bytes, send
from doorward.client.signers import Signer
from doorward.errors import UsageError
from doorward.model import Port
from doorward.signed.message import CLOSE, CONFIRM, ONCE


def signed_knocker(plan: KnockPlan, verbose: bool, replies: ReplyListener | None = None) -> Knock:
    """Return the function that sends a fresh packet per door to the first address of each family.

    Each call for the same addresses uses the next of the host's ports to which this host can send. `replies` waits for
    the confirmations.
    """
    requests, signer = build_requests(plan)
    ports: defaultdict[tuple[Target, ...], Iterator[Port]] = defaultdict(lambda: cycle(plan.host.signed_ports))

    def knock(targets: list[Target]) -> list[Target]:
        chosen = first_per_family(targets)
        turn = ports[tuple(chosen)]
        for _ in plan.host.signed_ports[1:]:
            with suppress(UnreachableError):  # this host's own packet filter may pass another port
                return send_all(chosen, next(turn))
        return send_all(chosen, next(turn))

    def send_all(chosen: list[Target], port: Port) -> list[Target]:
        reached = list[Target]()
        for request in requests:
            report = partial(_print_packet, request.door, signer) if verbose else None
            reached += send(request, signer, chosen, port, report=report, replies=replies)
        return list(dict.fromkeys(reached))

    return knock


def dump(plan: KnockPlan, targets: list[Target], *, as_json: bool) -> None:
    """Print every field of the packets that a knock would send; send nothing."""
    from doorward.cli.packet_dump import describe, describe_json

    requests, signer = build_requests(plan)
    port = plan.host.signed_ports[0]
    show = describe_json if as_json else describe

    def report(request: KnockRequest, sent: SentPacket) -> None:
        for line in show(request, signer, sent):
            print_sent(line)

    for request in requests:
        send(request, signer, first_per_family(targets), port, report=partial(report, request), really=False)


def build_requests(plan: KnockPlan) -> tuple[list[KnockRequest], Signer]:
    """Return the request for each door of a plan, and the signer. UsageError, HostError: one is invalid, or missing."""
    host = plan.host
    flags = CLOSE * plan.closes | CONFIRM * host.confirm | ONCE * host.once
    try:
        requests = [
            build_request(host.server_key or "", door, host.gate, host.for_s, host.asked, flags) for door in plan.doors
        ]
    except UsageError as error:
        raise UsageError(error.code, f"{host.name}: {error}") from None
    return requests, find_signer(host.identity, host.certificate, max_signature_bytes(requests[0].key))


def packet_text(door: str, signer: Signer, sent: SentPacket) -> str:
    """Return the line for a packet that was sent."""
    return f"{sent.port} to {sent.target}: {sent.message.length} bytes for door {door!r}, signed with {signer.name}"


def _print_packet(door: str, signer: Signer, sent: SentPacket) -> None:
    print_sent(packet_text(door, signer, sent))
