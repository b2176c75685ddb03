"""Files of SSH keys: which half it is, whose, and whether a passphrase is needed."""

from __future__ import annotations

from contextlib import suppress

from doorward.client.keyfile import is_encrypted, is_private, key_kind, parse_public_line, public_blob
from doorward.errors import UsageError


def one(data: bytes) -> None:
    """Look at the bytes as at either half."""
    is_encrypted(data)
    is_private(data)
    blob = public_blob("/nonexistent", data)
    assert blob is None or key_kind(blob).isprintable()
    with suppress(UsageError):
        assert key_kind(parse_public_line(data, "f")[0])
