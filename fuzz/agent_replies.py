"""What an ssh-agent answers, and the keys that it lists."""

from __future__ import annotations

from contextlib import suppress

from doorward.client.keyfile import key_kind
from doorward.client.signers import signature_bytes
from doorward.client.ssh_agent import MAX_KEYS, parse_keys, parse_signature
from doorward.errors import MalformedError
from doorward.signed.ssh_wire import string


def one(data: bytes) -> None:
    """Read the bytes as both kinds of reply, and look at each key."""
    with suppress(MalformedError):
        keys = parse_keys(data)
        assert len(keys) <= MAX_KEYS
        for key in keys:
            assert key.comment.isprintable()
            assert key_kind(key.blob).isprintable()
            assert 0 <= signature_bytes(key.blob) <= len(key.blob) + 200
    with suppress(MalformedError):
        assert data[1:] == string(parse_signature(data))
