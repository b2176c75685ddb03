"""Certificates of the real ssh-keygen, and their authorization by authorized_keys."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from functools import cache
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from doorward.errors import MalformedError
from doorward.signed.authorized_keys import parse
from doorward.signed.credential import Credential
from doorward.signed.message import signer_hash
from doorward.signed.ssh_certificates import parse_certificate
from doorward.signed.ssh_keys import Presence, parse_public_key, verify
from doorward.signed.ssh_wire import SshReader, string
from tests.support import ssh_keygen
from tests.support.authenticator import Authenticator
from tests.support.errors import raises

NOW_S = datetime(2026, 7, 1, 12, tzinfo=UTC).timestamp()
HERE = ip_address("203.0.113.7")
RECORDED = json.loads(Path("tests/recorded/security-keys.json").read_text())
FOREVER_S = (1 << 64) - 1
AUTHORITIES = ("ed25519", "ecdsa256", "ecdsa384", "ecdsa521", "rsa3072")


@cache
def certified(*options: str, authority: str = "ed25519", subject: str = "ed25519", name: str = "alice@laptop") -> bytes:
    """Alice's certificate for her key `subject` number 1."""
    line = ssh_keygen.public_line(ssh_keygen.key(subject, 1))
    return ssh_keygen.certify(ssh_keygen.key(authority), line, "-n", "alice", *options, name=name)


def authority_line(options: str = 'principals="alice"', authority: str = "ed25519") -> str:
    return f"cert-authority,{options} {ssh_keygen.public_line(ssh_keygen.key(authority))}"


def found(certificate: bytes, text: str | None = None, now_s: float = NOW_S) -> Credential | str:
    keys, faults = parse(text or authority_line(), "f")
    assert faults == []
    return keys.find(b"", certificate, now_s)


def credential(certificate: bytes, text: str | None = None) -> Credential:
    answer = found(certificate, text)
    assert isinstance(answer, Credential), answer
    return answer


@pytest.mark.parametrize("authority", AUTHORITIES)
@pytest.mark.parametrize("subject", ssh_keygen.KINDS)
def test_every_kind_of_key_and_authority(subject: str, authority: str) -> None:
    raw = certified(subject=subject, authority=authority)
    private = ssh_keygen.key(subject, 1)
    answer = credential(raw, authority_line(authority=authority))
    assert answer.key == parse_public_key(ssh_keygen.blob(ssh_keygen.public_line(private)))
    assert answer.name == f"alice@laptop (signed by {authority} number 0)"
    assert verify(answer.key, ssh_keygen.signature(private, b"text"), b"text") == Presence(touched=True, verified=True)
    assert answer.rejection("ssh", HERE, None, NOW_S) == ""


@pytest.mark.parametrize("kind", ["ed25519-sk", "ecdsa-sk"])
def test_certificates_for_keys_in_security_keys(kind: str) -> None:
    device = Authenticator(kind)
    raw = ssh_keygen.certify(ssh_keygen.key("ed25519"), device.line, "-n", "alice")
    answer = credential(raw)
    assert answer.key == parse_public_key(device.blob)
    assert verify(answer.key, device.sign(b"text"), b"text").touched


@pytest.mark.parametrize("recorded", RECORDED["certified"], ids=lambda recorded: recorded["authority"][:8])
def test_authorities_in_security_keys_as_openssh_made_them(recorded: dict[str, str]) -> None:
    text = f'cert-authority,principals="alice" {recorded["authority"]} token'
    assert credential(ssh_keygen.blob(recorded["certificate"]), text).name.endswith("-sk (signed by token)")


@pytest.mark.parametrize("kind", ["ed25519-sk", "ecdsa-sk"])
def test_authorities_in_security_keys_in_software(kind: str, tmp_path: Path) -> None:
    device = Authenticator(kind)
    raw = signed_by(device)
    assert credential(raw, f'cert-authority,principals="alice" {device.line}').name.endswith("(signed by in software)")
    line = f"ssh-ed25519-cert-v01@openssh.com {base64.b64encode(raw).decode()}\n"
    (tmp_path / "cert.pub").write_text(line)  # ssh-keygen reads no certificate whose signature is wrong
    assert "Signing CA" in ssh_keygen.ssh_keygen("-L", "-f", str(tmp_path / "cert.pub"))


def signed_by(device: Authenticator) -> bytes:
    """Return Alice's certificate with another authority and its signature."""
    certificate = parse_certificate(certified())
    head = certificate.signed.removesuffix(string(certificate.authority.blob))
    signed = head + string(device.blob)
    return signed + string(device.sign_data(signed))


def test_certificate_fields() -> None:
    raw = certified("-z", "17", "-V", "20260101000000Z:20270101000000Z", "-O", "force-command=true")
    certificate = parse_certificate(raw)
    authority = parse_public_key(ssh_keygen.blob(ssh_keygen.public_line(ssh_keygen.key("ed25519"))))
    assert (certificate.serial, certificate.key_id) == (17, "alice@laptop")
    assert (certificate.principals, certificate.authority) == (("alice",), authority)
    assert certificate.valid_after_s == datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert certificate.valid_before_s == datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    assert (certificate.sources, certificate.verify_required, certificate.no_touch_required) == (None, False, False)
    assert certificate.rejection(NOW_S) == ""
    assert (parse_certificate(certified()).valid_after_s, parse_certificate(certified()).valid_before_s) == (
        0,
        FOREVER_S,
    )


NAME = "the certificate 'alice@laptop'"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("-V", "20250101000000Z:20260101000000Z"), f"{NAME} expired on 2026-01-01 00:00:00 UTC"),
        (("-V", "20250101000000Z:20260701120000Z"), f"{NAME} expired on 2026-07-01 12:00:00 UTC"),
        (("-V", "20270101000000Z:forever"), f"{NAME} is not valid before 2027-01-01 00:00:00 UTC"),
        (("-h",), "invalid certificate: a certificate for a host; sign one for a user, without -h"),
        (
            ("-O", "critical:door@doorward.example=ssh"),
            "invalid certificate: a certificate with the critical option 'door@doorward.example', "
            "which is not supported",
        ),
    ],
)
def test_invalid_certificates_are_rejected(options: tuple[str, ...], reason: str) -> None:
    assert found(certified(*options)) == reason


def test_a_moment_before_and_after() -> None:
    raw = certified("-V", "20260101000000Z:20270101000000Z")
    start_s, end_s = parse_certificate(raw).valid_after_s, parse_certificate(raw).valid_before_s
    answers = [found(raw, now_s=now_s) for now_s in (start_s - 0.1, start_s, end_s - 0.1, end_s)]
    assert [isinstance(answer, Credential) for answer in answers] == [False, True, True, False]


def test_unknown_authority_is_rejected() -> None:
    raw = certified(authority="ecdsa256")
    fingerprint = parse_certificate(raw).authority.fingerprint_text
    assert found(raw) == f"f has no cert-authority line with the key {fingerprint} that signed {NAME}"
    plain = ssh_keygen.public_line(ssh_keygen.key("ecdsa256"))
    assert found(raw, plain) == f"f has no cert-authority line with the key {fingerprint} that signed {NAME}"


def test_authority_in_an_invalid_line_is_rejected() -> None:
    keys, faults = parse(f"\ncert-authority {ssh_keygen.public_line(ssh_keygen.key('ed25519'))}", "f")
    assert len(faults) == 1
    answer = keys.find(b"", certified(), NOW_S)
    assert answer == f"{NAME} was signed by the key in line 2 of f, which is invalid"


def test_certified_key_without_its_certificate_is_rejected() -> None:
    """The authority certifies it only through the certificate."""
    keys, _ = parse(authority_line(), "f")
    signer = signer_hash(parse_certificate(certified()).key.blob)
    assert str(keys.find(signer, b"", NOW_S)).startswith("f does not list the key ")


@pytest.mark.parametrize(
    ("given", "wanted", "is_found"),
    [
        ("alice", "alice", True),
        ("alice,ops", "ops", True),
        ("alice", "ops,alice", True),
        ("alice", "*", True),
        ("", "*", True),
        ("alice", "bob", False),
        ("alice", "Alice", False),
        ("alice", "ali", False),
        ("*", "alice", False),
        ("", "alice", False),  # for OpenSSH a certificate without principals was once good for everybody
    ],
)
def test_principals(given: str, wanted: str, is_found: bool) -> None:
    subject = ssh_keygen.public_line(ssh_keygen.key("ed25519", 1))
    raw = ssh_keygen.certify(ssh_keygen.key("ed25519"), subject, *(("-n", given) if given else ()))
    answer = found(raw, authority_line(f'principals="{wanted}"'))
    if is_found:
        assert isinstance(answer, Credential)
    else:
        shown = f"'{given}'" if given else "no principal"
        assert answer == f"{NAME} is for {shown}, which its cert-authority line in f does not name"


def test_each_principal_has_the_line_that_names_it_first() -> None:
    text = authority_line('principals="ops",doors="db"') + "\n" + authority_line('principals="alice",doors="ssh"')
    assert credential(certified(), text).options.doors == frozenset({"ssh"})
    subject = ssh_keygen.public_line(ssh_keygen.key("ed25519", 1))
    both = ssh_keygen.certify(ssh_keygen.key("ed25519"), subject, "-n", "alice,ops")
    assert credential(both, text).options.doors == frozenset({"db"})


@pytest.mark.parametrize(
    ("options", "source", "objection"),
    [
        ("", "203.0.113.7", ""),
        ("", "198.51.100.1", "may not knock from 198.51.100.1"),
        (',from="203.0.113.0/24"', "203.0.113.7", ""),
        (',from="203.0.113.0/24"', "2001:db8::7", "may not knock from 2001:db8::7"),
        (',from="2001:db8::/32"', "203.0.113.7", "may not knock from 203.0.113.7"),
        (',expiry-time="20260101Z"', "203.0.113.7", "expired on 2026-01-01 00:00:00 UTC"),
        (',doors="db"', "203.0.113.7", "may not open the door ssh"),
    ],
)
def test_certificate_addresses_and_line_options_both_apply(options: str, source: str, objection: str) -> None:
    raw = certified("-O", "source-address=203.0.113.0/28,2001:db8::/32")
    answer = credential(raw, authority_line(f'principals="alice"{options}'))
    assert answer.rejection("ssh", ip_address(source), None, NOW_S) == objection


@pytest.mark.parametrize(
    ("options", "line", "touch_required", "verify_required"),
    [
        ((), "", True, False),
        (("-O", "no-touch-required"), "", True, False),
        ((), ",no-touch-required", True, False),
        (("-O", "no-touch-required"), ",no-touch-required", False, False),
        (("-O", "verify-required"), "", True, True),
        ((), ",verify-required", True, True),
    ],
)
def test_required_user_presence(
    options: tuple[str, ...], line: str, touch_required: bool, verify_required: bool
) -> None:
    """As sshd: relaxed only if both agree, strict if either requires it."""
    answer = credential(certified(*options), authority_line(f'principals="alice"{line}'))
    assert (answer.options.touch_required, answer.options.verify_required) == (touch_required, verify_required)


def test_names_are_made_printable() -> None:
    assert credential(certified(name="a\x1b[2Jb")).name == "a?[2Jb (signed by ed25519 number 0)"
    assert credential(certified(name="n" * 100)).name == "n" * 63 + "… (signed by ed25519 number 0)"
    key = parse_certificate(certified()).key
    assert credential(certified(name=" ")).name == f"{key.fingerprint_text} (signed by ed25519 number 0)"


def test_changed_certificate_byte_is_rejected() -> None:
    raw = certified("-O", "source-address=203.0.113.0/24")
    keys, _ = parse(authority_line(), "f")
    for at in range(len(raw)):
        for bit in (1, 0x80):
            changed = raw[:at] + bytes([raw[at] ^ bit]) + raw[at + 1 :]
            assert isinstance(keys.find(b"", changed, NOW_S), str), at
        assert isinstance(keys.find(b"", raw[:at], NOW_S), str), at
    assert isinstance(keys.find(b"", raw + b"\0", NOW_S), str)


def test_signature_by_another_key_is_rejected() -> None:
    certificate = parse_certificate(certified())
    forged = string(b"ssh-ed25519") + string(Ed25519PrivateKey.generate().sign(certificate.signed))
    shown, why = certificate.authority.fingerprint_text, "the signature is by another key, or over other data"
    assert certificate.signed + string(certificate.signature) == certified()
    answer = found(certificate.signed + string(forged))
    assert answer == f"{NAME} was not signed by its authority {shown}: {why}"


def fields_of(raw: bytes) -> list[bytes]:
    """The fields of an ed25519 certificate: strings without their length, numbers as they are."""
    reader = SshReader(raw, "it")
    first = [reader.string() for _ in range(3)] + [reader.read(12)]
    middle = [reader.string(), reader.string(), reader.read(16)]
    return first + middle + [reader.string() for _ in range(5)]


KIND, KEY, USAGE, PRINCIPALS, CRITICAL, AUTHORITY = 0, 2, 3, 5, 7, 10


def rewritten(at: int, field: bytes) -> bytes:
    fields = fields_of(certified())
    fields[at] = field
    return b"".join(part if number in (USAGE, 6) else string(part) for number, part in enumerate(fields))


@pytest.mark.parametrize(
    ("at", "field", "code"),
    [
        (KIND, b"ssh-ed25519", "unsupported-certificate"),
        (KIND, b"ssh-dss-cert-v01@openssh.com", "unsupported-certificate"),
        (KIND, b"ssh-ed25519-cert-v02@openssh.com", "unsupported-certificate"),
        (KEY, b"k" * 31, "key-size"),
        (USAGE, bytes(11) + b"\3", "host-certificate"),
        (PRINCIPALS, string(b"\xff"), "not-utf8"),
        (PRINCIPALS, b"\0\0\0\5abc", "truncated"),
        (PRINCIPALS, string(b"a") * 257, "too-many-principals"),
        (
            CRITICAL,
            string(b"verify-required") + string(b"") + string(b"verify-required") + string(b""),
            "duplicate-option",
        ),
        (CRITICAL, string(b"verify-required"), "truncated"),
        (CRITICAL, string(b"source-address") + string(b"203.0.113.0/24"), "truncated"),
        (CRITICAL, string(b"source-address") + string(string(b"home.example")), "invalid-address"),
        (CRITICAL, string(b"source-address") + string(string(b"::/0,!::1")), "exclusion"),
        (CRITICAL, string(b"source-address") + string(string(b"203.0.113.*")), "wildcard"),
        (CRITICAL, string(b"source-address") + string(string(b"::/0") + b"\0"), "trailing-bytes"),
        (AUTHORITY, string(b"ssh-ed25519-cert-v01@openssh.com"), "unsupported-key-kind"),
    ],
)
def test_invalid_certificate_bytes_are_rejected(at: int, field: bytes, code: str) -> None:
    assert rewritten(1, fields_of(certified())[1]) == certified()
    with raises(MalformedError, code):
        parse_certificate(rewritten(at, field))


@given(st.data())
def test_any_bytes_give_a_certificate_or_a_reason(data: st.DataObject) -> None:
    real = certified()
    begin, end = data.draw(st.integers(0, len(real))), data.draw(st.integers(0, len(real)))
    raw = (
        data.draw(st.binary(max_size=100))
        if begin == end
        else real[:begin] + data.draw(st.binary(max_size=8)) + real[end:]
    )
    keys, _ = parse(authority_line(), "f")
    answer = keys.find(b"", raw, NOW_S)
    assert isinstance(answer, Credential) == (raw == real)
    assert isinstance(answer, Credential) or answer.isprintable()
