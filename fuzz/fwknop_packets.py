"""Packets of fwknop's clients: as they are, as what was encrypted, and as the message of a right packet."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from contextlib import suppress
from functools import cache
from ipaddress import IPv4Address

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from doorward.config.schema import FwknopStanza
from doorward.errors import MalformedError
from doorward.fwknop.authorizer import FwknopAuthorizer, StanzaKeys
from doorward.fwknop.cipher import decrypt
from doorward.fwknop.spa_packet import MAX_PORTS, PREFIX, is_candidate, parse_plaintext
from doorward.model import Door, Port, SecretBytes
from doorward.signed.authorize import REASONS, KnockRejection

NOW_S = 1_800_000_000
SOURCE = IPv4Address("192.0.2.7")
KEY, HMAC_KEY = SecretBytes(b"key"), SecretBytes(b"another key")


@cache
def prepared() -> FwknopAuthorizer:
    """Make an authorizer for one key, with and without HMAC."""
    doors = {"ssh": Door("ssh", (), (Port.parse("22/tcp"),))}
    stanzas = [
        (FwknopStanza("alice", ("ssh",)), StanzaKeys(KEY, HMAC_KEY)),
        (FwknopStanza("bob", ("ssh",), insecure_no_hmac=True), StanzaKeys(SecretBytes(b"third"), None)),
    ]
    return FwknopAuthorizer(stanzas, doors, 120_000)


def one(data: bytes) -> None:
    """Authorize the bytes in all three ways; what opens the door is a right request for its port."""
    message = b64encode(data).rstrip(b"=")
    for plain in (data, b"1234567890123456:YWxpY2U:1800000000:3.0.0:1:" + message):
        text = plain + b":" + b64encode(hashlib.sha256(plain).digest()).rstrip(b"=")
        for packet in (data, _packet(plain), _packet(text)):
            if not is_candidate(packet):
                continue
            verdict = prepared().authorize(packet, SOURCE.packed, NOW_S * 1000)
            if isinstance(verdict, KnockRejection):
                assert verdict.reason in REASONS
                assert verdict.words.isprintable()
            else:
                assert (verdict.door, verdict.also) == ("ssh", ())
                assert 0 < (verdict.for_ms or 0) <= 300_000
        try:
            request = parse_plaintext(text.decode())
        except (MalformedError, UnicodeDecodeError):
            continue
        assert request.username.isprintable()
        assert 1 <= len(request.ports) <= MAX_PORTS


def _packet(plain: bytes) -> bytes:
    """Seal bytes as fwknop does, with a salt of zeros."""
    derived = last = b""
    while len(derived) < 48:
        last = hashlib.md5(last + KEY + bytes(8), usedforsecurity=False).digest()
        derived += last
    padding = 16 - len(plain) % 16
    encryptor = Cipher(algorithms.AES(derived[:32]), modes.CBC(derived[32:])).encryptor()
    sealed = b"Salted__" + bytes(8) + encryptor.update(plain + bytes([padding]) * padding) + encryptor.finalize()
    with suppress(MalformedError):
        assert decrypt(sealed, KEY).encode() == plain
    text = b64encode(sealed).rstrip(b"=")
    return text[len(PREFIX) :] + b64encode(hmac.digest(HMAC_KEY, text, "sha256")).rstrip(b"=")
