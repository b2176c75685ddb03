"""Real keys of every kind, and signatures by real ssh-keygen; security keys recorded from OpenSSH, and in software."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey as PrivateRSA
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from hypothesis import given
from hypothesis import strategies as st

from doorward.errors import MalformedError
from doorward.signed import sshsig
from doorward.signed.ssh_keys import BadSignatureError, Presence, PublicKey, parse_public_key, verify, verify_data
from doorward.signed.ssh_wire import SshReader, string
from tests.support import ssh_keygen
from tests.support.authenticator import TOUCHED, VERIFIED, Authenticator, armored, mpint
from tests.support.errors import raises

TEXT = b"what is signed"
RECORDED = json.loads(Path("tests/recorded/security-keys.json").read_text())
SECURITY_KINDS = ("ed25519-sk", "ecdsa-sk")


def public_of(private: Path) -> PublicKey:
    return parse_public_key(ssh_keygen.blob(ssh_keygen.public_line(private)))


def parts_of(blob: bytes) -> list[bytes]:
    reader, parts = SshReader(blob, "it"), []
    while reader.offset < len(blob):
        parts.append(reader.string())
    return parts


def joined(*parts: bytes) -> bytes:
    return b"".join(map(string, parts))


@pytest.mark.parametrize("kind", ssh_keygen.KINDS)
def test_real_keys_verify_their_signatures(kind: str) -> None:
    private = ssh_keygen.key(kind)
    line = ssh_keygen.public_line(private)
    key = public_of(private)
    assert key.kind == line.split()[0]
    shown = ssh_keygen.ssh_keygen("-l", "-f", str(private)).split()[1]
    assert key.fingerprint_text == shown
    assert len(key.fingerprint) == 32
    assert verify(key, ssh_keygen.signature(private, TEXT), TEXT) == Presence(touched=True, verified=True)


@pytest.mark.parametrize("kind", ssh_keygen.KINDS)
def test_a_signature_is_for_one_key_and_one_text(kind: str) -> None:
    private = ssh_keygen.key(kind)
    signature = ssh_keygen.signature(private, TEXT)
    with raises(BadSignatureError, "bad-signature"):
        verify(public_of(private), signature, TEXT + b".")
    with raises(BadSignatureError, "bad-signature"):
        verify(public_of(ssh_keygen.key(kind, 1)), signature, TEXT)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa256", "rsa2048"])
def test_changed_signature_bit_is_rejected(kind: str) -> None:
    private = ssh_keygen.key(kind)
    key, signature = public_of(private), ssh_keygen.signature(private, TEXT)
    for at in range(len(signature) * 8):
        changed = bytearray(signature)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(BadSignatureError):
            verify(key, bytes(changed), TEXT)
    for length in range(len(signature)):
        with pytest.raises(BadSignatureError):
            verify(key, signature[:length], TEXT)


@pytest.mark.parametrize("recorded", RECORDED["signed"], ids=lambda recorded: recorded["key"][:8])
def test_recorded_security_keys_and_signatures(recorded: dict[str, str]) -> None:
    blob, signature = sshsig.parse_armored(recorded["signature"])
    assert blob == ssh_keygen.blob(recorded["key"])
    key, text = parse_public_key(blob), RECORDED["text"].encode()
    assert verify(key, signature, text) == Presence(bool(recorded["touched"]), bool(recorded["verified"]))
    with raises(BadSignatureError, "bad-signature"):
        verify(key, signature, text + b".")


@pytest.mark.parametrize("kind", SECURITY_KINDS)
@pytest.mark.parametrize("flags", [0, TOUCHED, VERIFIED, TOUCHED | VERIFIED, 0xFF])
def test_security_key_reports_user_presence(kind: str, flags: int) -> None:
    device = Authenticator(kind)
    presence = verify(parse_public_key(device.blob), device.sign(TEXT, flags), TEXT)
    assert presence == Presence(touched=bool(flags & TOUCHED), verified=bool(flags & VERIFIED))


@pytest.mark.parametrize("kind", SECURITY_KINDS)
def test_openssh_accepts_the_software_security_key(kind: str, tmp_path: Path) -> None:
    device = Authenticator(kind)
    (tmp_path / "signers").write_text(f"me {device.line}\n")
    (tmp_path / "signature").write_text(armored(device.blob, device.sign(TEXT)))
    words = ["-Y", "verify", "-f", str(tmp_path / "signers"), "-I", "me", "-n", "doorward"]
    assert "Good" in ssh_keygen.ssh_keygen(*words, "-s", str(tmp_path / "signature"), given=TEXT.decode())


@pytest.mark.parametrize("kind", SECURITY_KINDS)
def test_a_security_keys_flags_are_signed(kind: str) -> None:
    device = Authenticator(kind)
    key, signature = parse_public_key(device.blob), device.sign(TEXT, 0)
    touched = bytearray(signature)
    touched[-5] = TOUCHED
    with pytest.raises(BadSignatureError):
        verify(key, bytes(touched), TEXT)
    for length in range(len(signature)):
        with pytest.raises(BadSignatureError):
            verify(key, signature[:length], TEXT)


def test_a_security_key_signs_for_its_application() -> None:
    device = Authenticator()
    other = parse_public_key(joined(*parts_of(device.blob)[:-1], b"ssh:other"))
    with pytest.raises(BadSignatureError):
        verify(other, device.sign(TEXT), TEXT)


def private_rsa() -> PrivateRSA:
    private = load_ssh_private_key(ssh_keygen.key("rsa2048").read_bytes(), None)
    assert isinstance(private, PrivateRSA)
    return private


def test_rsa_with_either_hash_and_never_sha1() -> None:
    private, key = private_rsa(), public_of(ssh_keygen.key("rsa2048"))
    by_name = {b"rsa-sha2-256": hashes.SHA256(), b"rsa-sha2-512": hashes.SHA512()}
    for name, hashed in by_name.items():
        raw = private.sign(b"data", padding.PKCS1v15(), hashed)
        assert verify_data(key, joined(name, raw), b"data").touched
        (other,) = by_name.keys() - {name}
        with raises(BadSignatureError, "bad-signature"):
            verify_data(key, joined(other, raw), b"data")
    old = private.sign(b"data", padding.PKCS1v15(), hashes.SHA1())  # noqa: S303 - what must be refused
    with raises(BadSignatureError, "sha1-signature"):
        verify_data(key, joined(b"ssh-rsa", old), b"data")


def test_ecdsa_numbers_may_have_leading_zeros() -> None:
    """Agents differ there, and OpenSSH takes both."""
    private = ssh_keygen.key("ecdsa256")
    algorithm, numbers = parts_of(ssh_keygen.signature(private, TEXT))
    r, s = parts_of(numbers)
    assert verify(public_of(private), joined(algorithm, joined(b"\0" + r, b"\0\0" + s)), TEXT).touched
    key, private_key = public_of(ssh_keygen.key("rsa2048")), private_rsa()
    for data in map(str.encode, map(str, range(10_000))):  # one in 256 begins with a zero
        raw = private_key.sign(data, padding.PKCS1v15(), hashes.SHA512())
        if raw[0] == 0:
            assert verify_data(key, joined(b"rsa-sha2-512", raw.lstrip(b"\0")), data).touched
            return
    pytest.fail("no signature begins with a zero")


ED25519 = joined(b"ssh-ed25519", b"k" * 32)


def rsa(bits: int, exponent: int = 65537, even: bool = False) -> bytes:
    return string(b"ssh-rsa") + mpint(exponent) + mpint((1 << (bits - 1)) + (0 if even else 1))


@pytest.mark.parametrize(
    ("blob", "why"),
    [
        (b"", "truncated"),
        (b"ssh-ed25519", "truncated"),
        (joined(b"ssh-dss", b"1"), "of kind 'ssh-dss'; use ssh-ed25519, "),
        (joined(b"ssh-ed25519-cert-v01@openssh.com"), "of kind 'ssh-ed25519-cert-v01@openssh.com'; use"),
        (joined(b"\x1b[2J\xff"), re.escape(r"'\x1b[2J\ufffd'")),
        (joined(b"ssh-ed25519", b"k" * 31), "31 bytes; it has 32"),
        (ED25519 + b"\0", "1 bytes too many"),
        (joined(b"sk-ssh-ed25519@openssh.com", b"k" * 32), "truncated"),
        (joined(b"ecdsa-sha2-nistp256", b"nistp384", b"\4" + b"k" * 64), "another curve"),
        (joined(b"ecdsa-sha2-nistp256", b"nistp256", b"\4" + b"k" * 64), "not on its curve"),
        (joined(b"ecdsa-sha2-nistp256", b"nistp256", b"\4" + b"k" * 63), "not on its curve"),
        (joined(b"ecdsa-sha2-nistp256", b"nistp256", b"\2" + b"k" * 32), "compressed point"),
        (joined(b"ecdsa-sha2-nistp256", b"nistp256", b""), "compressed point"),
        (rsa(2047), "2047 bits is too weak; use ed25519, or rsa of 3072 bits"),
        (rsa(16_385), "16385 bits; use at most 16384"),
        (rsa(2048, even=True), "unusual rsa key"),
        (rsa(2048, exponent=4), "unusual rsa key"),
        (rsa(2048, exponent=1), "unusual rsa key"),
        (rsa(2048, exponent=(1 << 40) + 1), "unusual rsa key"),
        (joined(b"ssh-rsa", b"\1\0\1", b"\0\0" + b"\xff" * 256), "leading zeros"),
        (joined(b"ssh-rsa", b"\1\0\1", b"\xff" * 256), "negative"),
    ],
)
def test_invalid_key_blobs_are_rejected(blob: bytes, why: str) -> None:
    with pytest.raises(MalformedError, match=why):
        parse_public_key(blob)


@pytest.mark.parametrize(
    ("signature", "code"),
    [
        (b"", "truncated"),
        (joined(b"ssh-ed25519", b"s" * 63), "signature-size"),
        (joined(b"rsa-sha2-512", b"s" * 64), "signature-kind"),
        (joined(b"sk-ssh-ed25519@openssh.com", b"s" * 64), "signature-kind"),
        (joined(b"ssh-ed25519", b"s" * 64) + b"\1\0\0\0\1", "trailing-bytes"),
        (joined(b"ssh-ed25519", b"s" * 64), "bad-signature"),
    ],
)
def test_invalid_signatures_are_rejected(signature: bytes, code: str) -> None:
    with raises(BadSignatureError, code):
        verify(parse_public_key(ED25519), signature, TEXT)


def test_rsa_signatures_of_another_length_or_kind() -> None:
    key = parse_public_key(rsa(2048))
    with raises(BadSignatureError, "signature-size"):
        verify(key, joined(b"rsa-sha2-512", b"s" * 257), TEXT)
    with raises(BadSignatureError, "signature-kind"):
        verify(key, joined(b"rsa-sha2-384", b"s" * 256), TEXT)
    with raises(BadSignatureError, "bad-signature"):
        verify(key, joined(b"rsa-sha2-512", b"\xff" * 256), TEXT)


REAL = [Authenticator(kind).blob for kind in SECURITY_KINDS] + [ED25519, rsa(2048)]


@given(
    st.binary(max_size=200)
    | st.tuples(st.sampled_from(REAL), st.integers(0, 300), st.binary(max_size=4)).map(
        lambda cut: cut[0][: cut[1]] + cut[2] + cut[0][cut[1] + len(cut[2]) :]
    )
)
def test_any_bytes_give_a_key_or_a_clear_error(blob: bytes) -> None:
    try:
        key = parse_public_key(blob)
    except MalformedError:
        return
    assert key.blob == blob
    with pytest.raises(BadSignatureError):
        verify(key, string(key.kind.encode()) + string(b"s" * 64), TEXT)


@given(
    st.sampled_from(REAL),
    st.binary(max_size=100) | st.lists(st.binary(max_size=70), max_size=3).map(lambda parts: joined(*parts)),
)
def test_any_bytes_are_no_signature(blob: bytes, signature: bytes) -> None:
    with pytest.raises(BadSignatureError) as raised:
        verify(parse_public_key(blob), signature, TEXT)
    assert str(raised.value).isprintable()
