"""SSH public keys in their wire form."""

from __future__ import annotations

from doorward.errors import MalformedError
from doorward.signed.ssh_keys import KINDS, BadSignatureError, parse_public_key, verify
from doorward.signed.ssh_wire import string
from fuzz import faults


def one(data: bytes) -> None:
    """Read a key; what is one keeps its bytes, and nothing short of a signature is one by it."""
    try:
        key = parse_public_key(data)
    except MalformedError as error:
        faults.check_message(error)
        return
    assert (key.kind in KINDS, key.blob) == (True, data)
    assert data.startswith(string(key.kind.encode()))
    try:
        verify(key, string(key.kind.encode()) + string(data[-64:]) + data[:5], b"")
    except BadSignatureError as error:
        faults.check_message(error)
    else:
        raise AssertionError("a key is its own signature")
