"""Only the output of `ssh-keygen -Y sign` is accepted."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.errors import MalformedError
from doorward.signed import sshsig
from doorward.signed.ssh_wire import string
from tests.support import ssh_keygen
from tests.support.authenticator import armored
from tests.support.errors import raises

KEY, SIGNATURE = b"a key", b"a signature"


def wrapped(raw: bytes) -> str:
    return f"-----BEGIN SSH SIGNATURE-----\n{base64.encodebytes(raw).decode()}-----END SSH SIGNATURE-----\n"


def raw(
    namespace: bytes = b"doorward", algorithm: bytes = b"sha512", version: int = 1, mark: bytes = b"SSHSIG"
) -> bytes:
    return mark + version.to_bytes(4) + b"".join(map(string, (KEY, namespace, b"", algorithm, SIGNATURE)))


def test_signed_blob() -> None:
    assert sshsig.signed_data(b"text") == (
        b"SSHSIG\0\0\0\x08doorward\0\0\0\0\0\0\0\x06sha512\0\0\0\x40" + hashlib.sha512(b"text").digest()
    )


def test_output_of_ssh_keygen() -> None:
    private = ssh_keygen.key("ed25519")
    key, signature = sshsig.parse_armored(ssh_keygen.sign(private, b"text"))
    assert key == ssh_keygen.blob(ssh_keygen.public_line(private))
    assert signature.startswith(string(b"ssh-ed25519") + (64).to_bytes(4))


def test_any_line_end_is_accepted() -> None:
    assert sshsig.parse_armored(armored(KEY, SIGNATURE).replace("\n", "\r\n") + "\n") == (KEY, SIGNATURE)


def test_ssh_keygen_for_another_purpose() -> None:
    private = ssh_keygen.key("ed25519")
    with raises(MalformedError, "other-namespace"):
        sshsig.parse_armored(ssh_keygen.sign(private, b"text", namespace="file"))
    with raises(MalformedError, "other-hash"):
        sshsig.parse_armored(ssh_keygen.sign(private, b"text", "-O", "hashalg=sha256"))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "armor-mismatch"),
        (wrapped(raw()).replace("END", "FIN"), "armor-mismatch"),
        (wrapped(raw()).replace("U1NI", "U1N!"), "invalid-base64"),
        (wrapped(raw()).replace("U1NI", "U1Nä"), "invalid-base64"),
        (wrapped(raw(mark=b"SSHSIX")), "no-magic"),
        (wrapped(raw(version=2)), "unsupported-version"),
        (wrapped(raw(namespace=b"doorward\0")), "other-namespace"),
        (wrapped(raw(algorithm=b"sha256")), "other-hash"),
        (wrapped(raw() + b"\0"), "trailing-bytes"),
        (wrapped(raw()[:-1]), "truncated"),
        (wrapped(b""), "armor-mismatch"),
        (wrapped(b"SSH"), "truncated"),
    ],
)
def test_other_input_is_rejected(text: str, code: str) -> None:
    with raises(MalformedError, code):
        sshsig.parse_armored(text)


@given(st.text() | st.binary(max_size=120).map(wrapped) | st.binary(max_size=20).map(lambda end: wrapped(raw() + end)))
def test_any_text_gives_a_signature_or_a_clear_error(text: str) -> None:
    try:
        key, signature = sshsig.parse_armored(text)
    except MalformedError:
        return
    assert sshsig.parse_armored(armored(key, signature)) == (key, signature)
