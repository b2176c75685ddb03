"""Datagrams to the port for signed knocks: as they are, as what was sealed, and as the signature of a right request."""

from __future__ import annotations

import base64
from contextlib import suppress
from functools import cache
from ipaddress import ip_address

from doorward.errors import MalformedError
from doorward.signed.authorize import REASONS, KnockRejection, PacketAuthorizer
from doorward.signed.authorized_keys import parse
from doorward.signed.envelope import plaintext_capacity, seal
from doorward.signed.message import Request, pack_body, pack_plaintext, parse_plaintext, signer_hash, target_hash
from doorward.signed.reply import ReplySecret, open_reply
from doorward.signed.server_key import X25519, PrivateKey
from doorward.signed.ssh_wire import string

CAPACITIES = [plaintext_capacity(X25519, length) for length in X25519.lengths]
NOW_MS = 1_800_000_000_000
SOURCE = ip_address("192.0.2.7")
# RFC 8032, section 7.1, test 1: a key that is nobody's.
KEY = string(b"ssh-ed25519") + string(bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"))


@cache
def prepared() -> tuple[PrivateKey, PacketAuthorizer]:
    """Make a server key, and an authorizer that knows one key."""
    server = PrivateKey(X25519, bytes(range(32)))
    keys, faults = parse(f"ssh-ed25519 {base64.b64encode(KEY).decode()} nobody\n", "authorized_keys")
    assert not faults
    return server, PacketAuthorizer(server, keys, {"ssh": 30_000}, None, 60_000)


def one(data: bytes) -> None:
    """Authorize the bytes in all three ways; a packet without a key is rejected, with a reason."""
    server, authorizer = prepared()
    body = pack_body(Request(NOW_MS, bytes(8), target_hash("", "ssh"), signer_hash(KEY)))
    plaintexts = [data[:whole].ljust(whole, b"\0") for whole in CAPACITIES]
    packets = [data, *(seal(server.public, plaintext, bytes(32)) for plaintext in plaintexts)]
    for whole in CAPACITIES:
        with suppress(ValueError):
            packets.append(seal(server.public, pack_plaintext(body, data, whole), bytes(32)))
    for packet in packets:
        verdict = authorizer.authorize(packet, SOURCE.packed, NOW_MS)
        assert isinstance(verdict, KnockRejection), verdict
        assert verdict.reason in REASONS
        assert verdict.words.isprintable()
        assert verdict.words or verdict.reason in ("length", "check")
    for plaintext in plaintexts:
        try:
            message = parse_plaintext(plaintext)
        except MalformedError:
            continue
        assert pack_plaintext(message.body, message.signature, len(plaintext), message.certificate) == plaintext
        assert pack_body(message.request) == message.body
    with suppress(MalformedError):
        raise AssertionError(open_reply(ReplySecret(bytes(32)), data))  # that nobody sealed
