"""Datagrams to the port for signed knocks: as they are, as what was sealed, and as the signature of a right request."""

from __future__ import annotations

import base64
from functools import cache
from ipaddress import ip_address

from doorward.errors import MalformedError
from doorward.signed.authorize import KnockRejection, PacketAuthorizer
from doorward.signed.authorized_keys import parse
from doorward.signed.envelope import plaintext_capacity, seal
from doorward.signed.message import Request, pack_body, pack_plaintext, parse_plaintext
from doorward.signed.server_key import X25519, PrivateKey
from doorward.signed.ssh_keys import parse_public_key
from doorward.signed.ssh_wire import string

NOW_MS = 1_800_000_000_000
SOURCE = ip_address("192.0.2.7")
# RFC 8032, section 7.1, test 1: a key that is nobody's.
KEY = string(b"ssh-ed25519") + string(bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"))


@cache
def judge() -> tuple[PrivateKey, PacketAuthorizer]:
    """Make a judge who knows one key."""
    server = PrivateKey(X25519, bytes(range(32)))
    keys, faults = parse(f"ssh-ed25519 {base64.b64encode(KEY).decode()} nobody\n", "authorized_keys")
    assert not faults
    return server, PacketAuthorizer(server, keys, {"ssh": 30_000}, None, 60_000)


def one(data: bytes) -> None:
    """Judge the bytes in all three ways; whoever has no key is refused, with a reason."""
    server, judging = judge()
    whole = plaintext_capacity(X25519, X25519.short_bytes)
    sealed = data[:whole].ljust(whole, b"\0")
    request = Request(NOW_MS, bytes(16), "ssh", None, None, "", parse_public_key(KEY).fingerprint)
    packets = [data, seal(server.public, sealed)]
    body = pack_body(request)
    if len(data) <= whole - len(body) - 2:
        packets.append(seal(server.public, pack_plaintext(body, data, whole)))
    for packet in packets:
        verdict = judging.authorize(packet, SOURCE.packed, NOW_MS)
        assert isinstance(verdict, KnockRejection), verdict
        assert verdict.reason.isalpha()
        assert verdict.words.isprintable()
        assert verdict.words or verdict.reason in ("length", "check")
    try:
        message = parse_plaintext(sealed)
    except MalformedError:
        return
    assert pack_plaintext(message.body, message.signature, whole) == sealed
    assert pack_body(message.request) == message.body
