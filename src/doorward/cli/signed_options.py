"""Signed knocks from the command line: imported only where one is sent, for it loads the cryptography."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from doorward.cli.knock_options import Knock, KnockPlan, print_sent
from doorward.client.identity import find_signer
from doorward.client.sequence import Target, first_per_family
from doorward.client.signed import KnockRequest, SentPacket, build_request, max_signature_bytes, send
from doorward.client.signers import Signer
from doorward.errors import UsageError
from doorward.model import DEFAULT_SIGNED_PORT


def signed_knocker(aim: KnockPlan, verbose: bool) -> Knock:
    """Give the act that sends a fresh packet for each door to each family's first address."""
    letters, signer = _prepared(aim)
    port = aim.host.signed_port or DEFAULT_SIGNED_PORT
    report = _printer(signer) if verbose else None

    def knock(targets: list[Target]) -> list[Target]:
        chosen = first_per_family(targets)
        reached = [target for each in letters for target in send(each, signer, chosen, port, report=report)]
        return list(dict.fromkeys(reached))

    return knock


def dump(aim: KnockPlan, targets: list[Target], *, as_json: bool) -> None:
    """Print every field of what a knock would send; nothing is sent."""
    from doorward.cli.packet_dump import describe, describe_json

    letters, signer = _prepared(aim)
    port = aim.host.signed_port or DEFAULT_SIGNED_PORT
    show = describe_json if as_json else describe

    def report(letter: KnockRequest, sent: SentPacket) -> None:
        for line in show(letter, signer, sent):
            print_sent(line)

    for each in letters:
        send(
            each,
            signer,
            first_per_family(targets),
            port,
            report=partial(report, each),
            really=False,
        )


def _prepared(aim: KnockPlan) -> tuple[list[KnockRequest], Signer]:
    host = aim.host
    try:
        letters = [build_request(host.server_key or "", door, host.gate, host.for_s, host.asked) for door in aim.doors]
    except UsageError as error:
        raise UsageError(f"{host.name}: {error}") from None
    return letters, find_signer(host.identity, host.certificate, min(map(max_signature_bytes, letters)))


def _printer(signer: Signer) -> Callable[[SentPacket], None]:
    def report(sent: SentPacket) -> None:
        request = sent.message.request
        print_sent(
            f"{sent.port} to {sent.target}: {sent.message.length} bytes for door {request.door!r}, "
            f"signed with {signer.name}"
        )

    return report
