"""Key selection: the named key, the agent's, ssh's default files; and their signatures."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward.client import signers
from doorward.client.identity import DEFAULT_FILES, find_signer
from doorward.client.signers import Signer, signature_bytes
from doorward.errors import HostError, NegativeResult, UsageError
from doorward.signed.ssh_keys import parse_public_key, verify
from doorward.signed.ssh_wire import string
from doorward.signed.sshsig import signed_data
from tests.support.authenticator import Authenticator
from tests.support.errors import raises
from tests.support.ssh_agent import (
    LIST,
    SIGN_ANSWER,
    RealAgent,
    agent_that,
    blob_of,
    framed,
    listing,
    real_agent,
    token_agent,
)
from tests.support.ssh_keygen import KINDS, key, ssh_keygen

TEXT = b"what is to be said"
ROOM = 1000


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealAgent]:
    with real_agent(tmp_path) as running:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(running.path))
        yield running


@pytest.fixture
def usual(empty_ssh_directory: Path) -> Path:
    return empty_ssh_directory


def copy(private: Path, to: Path, *, words: str = "") -> Path:
    """Copy a private key elsewhere, without its public key."""
    shutil.copyfile(private, to)
    to.chmod(0o600)
    if words:
        ssh_keygen("-q", "-p", "-P", "", "-N", words, "-f", str(to))
    return to


def signs(signer: Signer, blob: bytes) -> None:
    """Check that the signer is this key, and that its signature is within the stated length."""
    assert signer.blob == blob
    signature = signer.sign(TEXT)
    verify(parse_public_key(blob), signature, TEXT)
    assert len(signature) <= signature_bytes(blob)


@pytest.mark.parametrize("kind", KINDS)
def test_key_file_signs_without_an_agent(kind: str) -> None:
    signer = find_signer(str(key(kind)), None, ROOM)
    signs(signer, blob_of(key(kind)))
    assert signer.name == str(key(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_agent_signs_for_a_key_file_it_holds(agent: RealAgent, tmp_path: Path, kind: str) -> None:
    agent.add(key("ed25519", 1))
    agent.add(key(kind))
    locked = copy(key(kind), tmp_path / "locked", words="never asked for")
    signer = find_signer(str(locked), None, ROOM)
    signs(signer, blob_of(key(kind)))
    assert signer.name == f"{kind} number 0 in the agent"


def test_public_key_selects_the_agents_key(agent: RealAgent, tmp_path: Path) -> None:
    agent.add(key("ed25519", 1))
    agent.add(key("ed25519"))
    public = tmp_path / "alone.pub"
    shutil.copyfile(f"{key('ed25519')}.pub", public)
    signs(find_signer(str(public), None, ROOM), blob_of(key("ed25519")))


def test_public_key_selects_the_private_key_file() -> None:
    signer = find_signer(f"{key('ed25519')}.pub", None, ROOM)
    signs(signer, blob_of(key("ed25519")))
    assert signer.name == str(key("ed25519"))


def test_public_key_alone_cannot_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public = tmp_path / "alone.pub"
    shutil.copyfile(f"{key('ed25519')}.pub", public)
    with raises(UsageError, "key-not-in-agent"):
        find_signer(str(public), None, ROOM)
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nonexistent")
    with raises(UsageError, "key-not-in-agent"):
        find_signer(str(public), None, ROOM)


def test_key_file_signs_despite_a_stale_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nonexistent")
    signs(find_signer(str(key("ed25519")), None, ROOM), blob_of(key("ed25519")))


def test_passphrase_is_asked_for_once_at_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(path: str) -> bytes:
        asked.append(path)
        return b"open sesame"

    monkeypatch.setattr(signers, "ask_passphrase", ask)
    path = copy(key("ed25519"), tmp_path / "locked", words="open sesame")
    signer = find_signer(str(path), None, ROOM)
    assert asked == []
    for _ in range(2):
        signs(signer, blob_of(key("ed25519")))
    assert asked == [str(path)]


def test_mismatched_public_key_file_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signers, "ask_passphrase", lambda _: b"open sesame")
    path = copy(key("rsa2048"), tmp_path / "locked")
    ssh_keygen("-q", "-p", "-m", "PEM", "-P", "", "-N", "open sesame", "-f", str(path))
    shutil.copyfile(f"{key('rsa3072')}.pub", f"{path}.pub")
    with raises(UsageError, "public-key-mismatch"):
        find_signer(str(path), None, ROOM).sign(TEXT)


def test_first_fitting_agent_key_is_used(agent: RealAgent) -> None:
    for kind in ("rsa2048", "ecdsa521", "ed25519"):
        agent.add(key(kind))
    for most, kind in ((ROOM, "rsa2048"), (170, "ecdsa521"), (100, "ed25519")):
        signs(find_signer(None, None, most), blob_of(key(kind)))


def test_default_files_are_tried_in_order(usual: Path, agent: RealAgent) -> None:
    for name, kind in (("id_rsa", "rsa2048"), ("id_ecdsa", "ecdsa521"), ("id_ed25519", "ed25519")):
        copy(key(kind), usual / name)
        signer = find_signer(None, None, ROOM)
        signs(signer, blob_of(key(kind)))
        assert signer.name == str(usual / name)
    (usual / "id_ed25519").unlink()
    signs(find_signer(None, None, 500), blob_of(key("ecdsa521")))
    with pytest.raises(HostError, match="the agent has no key"):
        find_signer(None, None, 100)
    agent.add(key("ed25519"))
    assert find_signer(None, None, ROOM).name == "ed25519 number 0 in the agent"


def test_no_key_at_all(agent: RealAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ", ".join(DEFAULT_FILES)
    expected = f"and ~/.ssh has no usable key: {names}\nmake one with `ssh-keygen -t ed25519`, or"
    for path, why in (
        (str(agent.path), "the agent has no key (add one with `ssh-add`; unlock a locked agent with `ssh-add -X`)"),
        (
            "/nonexistent",
            "no ssh-agent answers at /nonexistent (No such file or directory); `eval $(ssh-agent)` starts",
        ),
        ("", "no ssh-agent (SSH_AUTH_SOCK is not set)"),
    ):
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        with pytest.raises(HostError) as raised:
            find_signer(None, None, ROOM)
        assert str(raised.value).startswith(f"no key to sign with: {why}")
        assert expected in str(raised.value)


@pytest.mark.parametrize("kind", ["ed25519-sk", "ecdsa-sk"])
def test_a_security_key_signs_through_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    token = Authenticator(kind)
    with agent_that(tmp_path, token_agent(token)) as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        signs(find_signer(None, None, ROOM), token.blob)


def test_untouched_security_key_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with agent_that(tmp_path, token_agent(Authenticator(), touched=False)) as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        signer = find_signer(None, None, ROOM)
        with raises(NegativeResult, "agent-refused"):
            signer.sign(TEXT)


def test_sha1_signature_of_an_agent_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: bytes) -> bytes:
        if request[0] == LIST:
            return listing((blob_of(key("rsa2048")), b"old"))
        return framed(SIGN_ANSWER, string(string(b"ssh-rsa") + string(bytes(256))))

    with agent_that(tmp_path, answer) as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        with raises(HostError, "unexpected-signature"):
            find_signer(None, None, ROOM).sign(TEXT)


def token_file(directory: Path, token: Authenticator) -> Path:
    """Write a security key file as ssh-keygen does, except for the encrypted part."""
    inner = b"openssh-key-v1\0" + string(b"none") + string(b"none") + string(b"") + (1).to_bytes(4) + string(token.blob)
    begin, end = (f"-----{word} OPENSSH PRIVATE KEY-----\n" for word in ("BEGIN", "END"))
    path = directory / "id_sk"
    path.touch(0o600)
    path.write_text(begin + base64.encodebytes(inner + string(b"")).decode() + end)
    return path


def test_security_key_file_signs_through_ssh_keygen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    signer = find_signer(str(token_file(tmp_path, Authenticator())), None, ROOM)
    with raises(NegativeResult, "not-signed"):
        signer.sign(TEXT)
    assert "id_sk" in capfd.readouterr().err  # ssh-keygen's own words reach the user
    monkeypatch.setenv("PATH", "/nonexistent")
    with raises(HostError, "no-ssh-keygen"):
        signer.sign(TEXT)


def test_signature_of_ssh_keygen_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key in a file replaces a security key."""
    monkeypatch.setattr(signers, "_SECURITY_KEY", "ssh-ed25519")
    signer = find_signer(str(key("ed25519")), None, ROOM)
    monkeypatch.setattr("doorward.client.keyfile.load", None)
    signs(signer, blob_of(key("ed25519")))


@pytest.fixture
def certified(tmp_path: Path) -> Path:
    """Return a copy of a key, with its certificate next to it."""
    path = copy(key("ed25519"), tmp_path / "certified")
    shutil.copyfile(f"{key('ed25519')}.pub", f"{path}.pub")
    ssh_keygen("-q", "-s", str(key("ed25519", 1)), "-I", "me", "-n", "me", "-V", "+1h", f"{path}.pub")
    return path


def certificate_of(path: Path) -> tuple[str, bytes]:
    file = Path(f"{path}-cert.pub")
    return str(file), base64.b64decode(file.read_text().split()[1])


def test_certificate_is_sent_with_its_key(certified: Path, agent: RealAgent) -> None:
    file, blob = certificate_of(certified)
    assert find_signer(str(certified), None, ROOM).certificate is None  # only where it is asked for
    for identity in (str(certified), None):
        signer = find_signer(identity, file, ROOM)
        assert signer.certificate == blob
        assert signer.name == str(certified)
        signs(signer, blob_of(key("ed25519")))
    agent.add(certified)
    signer = find_signer(None, file, ROOM)
    assert (signer.certificate, signer.name) == (blob, "ed25519 number 0 in the agent")
    signs(signer, blob_of(key("ed25519")))


def test_agent_with_the_certificate_only(certified: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, blob = certificate_of(certified)
    alone = find_signer(str(certified), None, ROOM)

    def answer(request: bytes) -> bytes:
        if request[0] == LIST:
            return listing((blob, b"from the authority"))
        assert request[1:].startswith(string(blob))
        assert request[1 + len(string(blob)) :].startswith(string(signed_data(TEXT)))
        return framed(SIGN_ANSWER, string(alone.sign(TEXT)))

    with agent_that(tmp_path, answer) as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        certified.unlink()
        signs(find_signer(None, file, ROOM), blob_of(key("ed25519")))
        with pytest.raises(HostError, match=r"ssh-ed25519-cert-v01@openssh.com; use --certificate FILE"):
            find_signer(None, None, ROOM)


def test_mismatched_certificate_is_an_error(certified: Path) -> None:
    file, _ = certificate_of(certified)
    with raises(UsageError, "certificate-mismatch"):
        find_signer(str(key("ed25519", 1)), file, ROOM)
    with raises(UsageError, "unsupported-certificate"):
        find_signer(None, f"{certified}.pub", ROOM)
    certified.rename(f"{certified}.elsewhere")
    with raises(UsageError, "key-not-in-agent"):
        find_signer(None, file, ROOM)


def test_tilde_expands_to_the_home_directory(usual: Path) -> None:
    copy(key("ed25519"), usual / "other")
    assert find_signer("~/.ssh/other", None, ROOM).name == str(usual / "other")


def test_unsupported_key_is_reported(usual: Path, tmp_path: Path) -> None:
    token = Authenticator()
    token.blob = string(b"ssh-dss") + string(b"")
    with raises(UsageError, "unsupported-key-kind"):
        find_signer(str(token_file(tmp_path, token)), None, ROOM)
