"""Key files of the real ssh-keygen: every kind and format, with and without a passphrase."""

from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ed448
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from doorward.client import keyfile
from doorward.errors import HostError, NegativeResult, UsageError
from doorward.signed.ssh_keys import parse_public_key, verify_data
from doorward.signed.ssh_wire import string
from tests.support.errors import raises
from tests.support.signed import HAS_HYBRID
from tests.support.ssh_agent import blob_of
from tests.support.ssh_keygen import KINDS, key, ssh_keygen

DATA = b"what is to be signed"
OTHER_FORMATS = {"ed25519": (), "ecdsa256": ("-m", "PEM"), "ecdsa521": ("-m", "PKCS8"), "rsa2048": ("-m", "PEM")}


def nobody_is_asked(path: str) -> bytes:
    raise AssertionError(path)


def locked(directory: Path, kind: str, *format_: str) -> Path:
    """Copy a key, and add a passphrase."""
    path = directory / f"{kind}-locked"
    shutil.copyfile(key(kind), path)
    path.chmod(0o600)
    ssh_keygen("-q", "-p", *format_, "-P", "", "-N", "open sesame", "-f", str(path))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_of_every_kind_signs(kind: str) -> None:
    path = str(key(kind))
    raw = keyfile.read(path)
    loaded = keyfile.load(raw, path, nobody_is_asked)
    assert keyfile.is_private(raw)
    assert not keyfile.is_encrypted(raw)
    assert loaded.blob == keyfile.public_blob(path, raw) == blob_of(key(kind))
    verify_data(parse_public_key(loaded.blob), loaded.sign(DATA), DATA)


@pytest.mark.parametrize("kind", OTHER_FORMATS)
def test_a_key_with_a_passphrase(tmp_path: Path, kind: str) -> None:
    path = locked(tmp_path, kind, *OTHER_FORMATS[kind])
    raw = keyfile.read(str(path))
    asked: list[str] = []

    def ask(of: str) -> bytes:
        asked.append(of)
        return b"open sesame" if len(asked) > 1 else b"a slip"

    assert keyfile.is_encrypted(raw)
    loaded = keyfile.load(raw, str(path), ask)
    assert asked == [str(path)] * 2
    assert loaded.blob == blob_of(key(kind))
    verify_data(parse_public_key(loaded.blob), loaded.sign(DATA), DATA)


@pytest.mark.parametrize(("answers", "times"), [([b"a", b"b", b"c"], 3), ([b"a", b""], 2)])
def test_wrong_passphrase_is_an_error(tmp_path: Path, answers: list[bytes], times: int) -> None:
    path = locked(tmp_path, "ed25519")
    left = iter(answers)
    with raises(NegativeResult, "wrong-passphrase"):
        keyfile.load(keyfile.read(str(path)), str(path), lambda _: next(left))
    assert len(list(left)) == len(answers) - times


def test_public_key_is_read_without_the_passphrase(tmp_path: Path) -> None:
    path = locked(tmp_path, "ed25519")
    assert keyfile.public_blob(str(path), path.read_bytes()) == blob_of(key("ed25519"))


def test_other_formats_read_the_public_key_file(tmp_path: Path) -> None:
    path = locked(tmp_path, "rsa2048", "-m", "PEM")
    assert keyfile.public_blob(str(path), path.read_bytes()) is None
    shutil.copyfile(f"{key('rsa2048')}.pub", f"{path}.pub")
    assert keyfile.public_blob(str(path), path.read_bytes()) == blob_of(key("rsa2048"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_private_key_readable_by_others_is_rejected(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    shutil.copyfile(key("ed25519"), path)
    path.chmod(mode)
    with raises(UsageError, "readable-by-others"):
        keyfile.read(str(path))


def test_public_key_may_be_readable_by_all(tmp_path: Path) -> None:
    path = tmp_path / "key.pub"
    shutil.copyfile(f"{key('ed25519')}.pub", path)
    path.chmod(0o644)
    raw = keyfile.read(str(path))
    assert not keyfile.is_private(raw)
    assert keyfile.parse_public_line(raw, str(path)) == (blob_of(key("ed25519")), "ed25519 number 0")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "not-a-public-key"),
        ("ssh-ed25519", "not-a-public-key"),
        ("ssh-ed25519 AAAA", "not-a-public-key"),
        ("ssh-ed25519 !!!!", "not-a-public-key"),
        ("ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIA== x", "not-a-public-key"),
    ],
)
def test_invalid_public_key_line(text: str, code: str) -> None:
    with raises(UsageError, code):
        keyfile.parse_public_line(text.encode(), "here")


def test_no_file(tmp_path: Path) -> None:
    with raises(UsageError, "unreadable-file"):
        keyfile.read(str(tmp_path / "gone"))
    with raises(UsageError, "not-regular-file"):
        keyfile.read(str(tmp_path))


@pytest.mark.parametrize(
    "cipher",
    [
        "3des-cbc",
        pytest.param(
            "chacha20-poly1305@openssh.com",
            marks=pytest.mark.skipif(not HAS_HYBRID, reason="cryptography 38 takes it for a wrong passphrase"),
        ),
    ],
)
def test_unsupported_cipher_suggests_the_agent(tmp_path: Path, cipher: str) -> None:
    path = tmp_path / "key"
    ssh_keygen("-q", "-t", "ed25519", "-Z", cipher, "-N", "a word", "-f", str(path))
    with raises(HostError, "unknown-key-kind"):
        keyfile.load(keyfile.read(str(path)), str(path), lambda _: b"a word")


def test_unsupported_kind_of_private_key() -> None:
    other = ed448.Ed448PrivateKey.generate()
    raw = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with raises(UsageError, "unsupported-key-kind"):
        keyfile.load(raw, "here", nobody_is_asked)


def test_damaged_file_is_reported(tmp_path: Path) -> None:
    raw = key("ed25519").read_bytes()
    with raises(UsageError, "not-a-private-key"):
        keyfile.load(raw[: len(raw) // 2], "here", nobody_is_asked)


def test_private_key_has_no_revealing_repr() -> None:
    loaded = keyfile.load(key("ed25519").read_bytes(), "here", nobody_is_asked)
    assert re.fullmatch(r"<doorward.client.keyfile.PrivateKeyFile object at 0x[0-9a-f]+>", repr(loaded))


@given(st.binary(max_size=200) | st.binary(max_size=80).map(string))
def test_any_bytes_have_a_kind_or_none(blob: bytes) -> None:
    kind = keyfile.key_kind(blob)
    assert kind.isprintable()
    assert not kind or blob.startswith(string(kind.encode()))


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_a_private_key_or_an_error(noise: bytes, armored: bool) -> None:

    body = base64.encodebytes(b"openssh-key-v1\0" + noise)
    begin, end = (b"-----%s OPENSSH PRIVATE KEY-----\n" % word for word in (b"BEGIN", b"END"))
    raw = begin + body + end if armored else noise
    keyfile.public_blob("/nonexistent/key", raw)
    with pytest.raises((UsageError, HostError, NegativeResult)):
        keyfile.load(raw, "here", lambda _: b"")


def test_passphrase_without_bcrypt_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    ssh_keygen("-q", "-t", "ed25519", "-N", "a word", "-f", str(path))

    def load(*_: object, **__: object) -> None:
        raise UnsupportedAlgorithm("Need bcrypt module")

    monkeypatch.setattr("cryptography.hazmat.primitives.serialization.load_ssh_private_key", load)
    with pytest.raises(HostError, match=r"needs bcrypt; run `.* install .*bcrypt`, or `ssh-add .*key`"):
        keyfile.load(keyfile.read(str(path)), str(path), lambda _: b"a word")
