"""authorized_keys line by line: each option, and every fault with its line and remedy."""

from __future__ import annotations

import base64
import subprocess
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.signed.authorized_keys import AuthorizedKeys, parse
from doorward.signed.credential import Credential
from doorward.signed.message import signer_hash
from doorward.signed.ssh_keys import Presence, PublicKey, parse_public_key
from doorward.signed.ssh_wire import string
from tests.support import ssh_keygen
from tests.support.authenticator import Authenticator

HERE, ELSEWHERE = ip_address("203.0.113.7"), ip_address("198.51.100.9")
NOW_S = datetime(2026, 7, 1, 12, tzinfo=UTC).timestamp()
EAST = timezone(timedelta(hours=2))


def blob(number: int) -> bytes:
    return string(b"ssh-ed25519") + string(number.to_bytes(32))


def key(number: int = 0) -> str:
    return f"ssh-ed25519 {base64.b64encode(blob(number)).decode()}"


def public(number: int = 0) -> PublicKey:
    return parse_public_key(blob(number))


def in_the_east(moment: datetime) -> float:
    return moment.replace(tzinfo=EAST).timestamp()


def credential(text: str, number: int = 0) -> Credential:
    keys, faults = parse(text, "f", in_the_east)
    assert faults == []
    found = keys.find(signer_hash(public(number).blob), b"", NOW_S)
    assert isinstance(found, Credential), found
    return found


def only_fault(line: str) -> str:
    """Return the fault of a line among valid ones; only that line is ignored."""
    keys, faults = parse(f"# who may\n{key(1)} first\n\n{line}\n{key(2)} last\n", "f", in_the_east)
    assert [line.number for line in keys.lines] == [2, 5]
    (fault,) = faults
    assert (fault.file, fault.line) == ("f", 4)
    return f"{fault.what}; {fault.instead}"


def test_real_keys_of_every_kind() -> None:
    lines = [ssh_keygen.public_line(ssh_keygen.key(kind)) for kind in ssh_keygen.KINDS]
    devices = [Authenticator(kind) for kind in ("ed25519-sk", "ecdsa-sk")]
    lines += [device.line for device in devices]
    keys, faults = parse("\n".join(lines), "f")
    assert faults == []
    for line in lines:
        parsed = parse_public_key(ssh_keygen.blob(line))
        found = keys.find(signer_hash(parsed.blob), b"", NOW_S)
        assert isinstance(found, Credential)
        assert (found.key, found.name) == (parsed, line.split(maxsplit=2)[2])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (key() + " laptop", "laptop"),
        (key() + " \t of Alice,  at home \t", "of Alice,  at home"),
        (f'  doors="ssh"\t {key()}   laptop\r', "laptop"),
        (key(), public().fingerprint_text),
        (f'command="echo \\"a b\\" # c",no-pty {key()} laptop', "laptop"),
        (key() + " a\x1b[31mb\u202ec\x00", "a?[31mb?c?"),
        (key() + " " + "n" * 64, "n" * 64),
        (key() + " " + "n" * 65, "n" * 63 + "…"),
        (key() + " caf\udce9", "caf?"),
        (key() + ' from="::1"', 'from="::1"'),
    ],
)
def test_name_is_the_printable_comment(text: str, name: str) -> None:
    assert credential(text).name == name


@pytest.mark.parametrize(
    ("options", "door", "objection"),
    [
        ("", "ssh", ""),
        ('doors="ssh" ', "ssh", ""),
        ('doors="db,ssh" ', "ssh", ""),
        ('DOORS="ssh" ', "ssh", ""),
        ('doors="ssh" ', "db", "may not open the door db"),
        ('doors="SSH" ', "ssh", "may not open the door ssh"),
        ('from="203.0.113.0/24" ', "ssh", ""),
        ('from="203.0.113.0/24,!203.0.113.7" ', "ssh", "may not knock from 203.0.113.7"),
        ('From="203.0.113.?" ', "ssh", ""),
        ('from="2001:db8::/32" ', "ssh", "may not knock from 203.0.113.7"),
        ('expiry-time="20260702" ', "ssh", ""),
        ('expiry-time="20260701" ', "ssh", "expired on 2026-06-30 22:00:00 UTC"),
        ('expiry-time="20260701Z" ', "ssh", "expired on 2026-07-01 00:00:00 UTC"),
        ('expiry-time="202607011200z" ', "ssh", "expired on 2026-07-01 12:00:00 UTC"),
        ('expiry-time="20260701120001Z" ', "ssh", ""),
        ('expiry-time="202607011200UTC" ', "ssh", "expired on 2026-07-01 12:00:00 UTC"),
        ('expiry-time="202607011400" ', "ssh", "expired on 2026-07-01 12:00:00 UTC"),
        ('expiry-time="202607011401" ', "ssh", ""),
        ('expiry-time="20270101",expiry-time="20260101Z" ', "ssh", "expired on 2026-01-01 00:00:00 UTC"),
        ('expiry-time="20260101Z",expiry-time="20270101" ', "ssh", "expired on 2026-01-01 00:00:00 UTC"),
        ('restrict,command="x",environment="A=b",permitopen="h:1",permitlisten="1",tunnel="0" ', "ssh", ""),
        ("no-pty,PTY,no-agent-forwarding,no-port-forwarding,no-X11-forwarding,no-user-rc,user-rc ", "ssh", ""),
        ("no-pty, ", "ssh", ""),
    ],
)
def test_options_restrict_the_key(options: str, door: str, objection: str) -> None:
    assert credential(f"{options}{key()} laptop").rejection(door, HERE, None, NOW_S) == objection


def test_times_without_a_zone_are_local() -> None:
    keys, faults = parse(f'expiry-time="202607011200" {key()}', "f")
    assert faults == []
    assert keys.lines[0].options.expires_s == datetime(2026, 7, 1, 12).timestamp()


@pytest.mark.parametrize(
    ("addresses", "asked", "objection"),
    [
        ("", None, ""),
        ("", HERE, ""),
        ("", ELSEWHERE, "may not request an opening for 198.51.100.9"),
        ("", ip_network("203.0.113.0/24"), "may not request an opening for 203.0.113.0/24"),
        ('addresses="198.51.100.0/24"', ELSEWHERE, ""),
        ('addresses="198.51.100.0/24"', HERE, ""),
        ('addresses="198.51.100.0/24"', None, ""),
        ('addresses="198.51.100.0/24,!198.51.100.9"', ELSEWHERE, "may not request an opening for 198.51.100.9"),
        ('addresses="198.51.100.0/24"', ip_network("198.51.100.0/25"), ""),
        ('addresses="198.51.100.0/24"', ip_network("198.51.0.0/16"), "may not request an opening for 198.51.0.0/16"),
        ('addresses="2001:db8::/32"', ip_address("2001:db8::7"), ""),
        ('addresses="2001:db8::/32"', ELSEWHERE, "may not request an opening for 198.51.100.9"),
        ('from="203.0.113.0/24",addresses="0.0.0.0/0"', ELSEWHERE, ""),
    ],
)
def test_requested_addresses(addresses: str, asked: object, objection: str) -> None:
    found = credential(f"{addresses} {key()} laptop".strip())
    assert found.rejection("ssh", HERE, asked, NOW_S) == objection  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "wanted_s", "granted_ms"),
    [
        ("", None, 30_000),
        ("", 10, 10_000),
        ("", 31, 30_000),
        ('for-max="1h" ', None, 30_000),
        ('for-max="1h" ', 3600, 3_600_000),
        ('for-max="1h" ', 3601, 3_600_000),
        ('for-max="10s" ', None, 10_000),
        ('for-max="10s" ', 20, 10_000),
        ('for-max="500ms" ', 1, 500),
    ],
)
def test_granted_opening_time(option: str, wanted_s: int | None, granted_ms: int) -> None:
    assert credential(f"{option}{key()}").granted_ms(wanted_s, 30_000) == granted_ms


NO_TOUCH = "signed without touching the security key; touch it, or add no-touch-required to its line"
NO_PIN = "signed without PIN or fingerprint, but its line has verify-required"


@pytest.mark.parametrize(
    ("option", "touched", "verified", "objection"),
    [
        ("", True, False, ""),
        ("", False, True, NO_TOUCH),
        ("no-touch-required ", False, False, ""),
        ("no-touch-required,touch-required ", False, False, NO_TOUCH),
        ("verify-required ", True, True, ""),
        ("verify-required ", True, False, NO_PIN),
        ("Verify-Required,no-verify-required ", True, False, ""),
        ("no-touch-required,verify-required ", False, False, NO_PIN),
    ],
)
def test_required_user_presence(option: str, touched: bool, verified: bool, objection: str) -> None:
    assert credential(f"{option}{key()}").presence_rejection(Presence(touched, verified)) == objection


COPY = "copy the whole line of the .pub file"
RSA1024 = base64.b64encode(string(b"ssh-rsa") + string(b"\1\0\1") + string(b"\0" + b"\xff" * 128)).decode()


@pytest.mark.parametrize(
    ("line", "fault"),
    [  # the line, and how the message begins
        (f'door="ssh" {key()}', "unknown option 'door'; did you mean 'doors'?"),
        (f"no-touch {key()}", "unknown option 'no-touch'; did you mean 'no-touch-required'?"),
        (
            f"qqqqqqqq {key()}",
            "unknown option 'qqqqqqqq'; remove it, or write one of doors, from, for-max, expiry-time, addr",
        ),
        (f"doors {key()}", 'doors takes a value; write doors="…"'),
        (f'cert-authority="x" {key()}', "cert-authority takes no value; write cert-authority alone"),
        (f"doors=ssh {key()}", 'doors: the value is not in quotes; write doors="…", without a space before the quotes'),
        (f'doors="ssh {key()}', 'doors: the quotes are not closed; close them with ", and write \\" '),
        (f'doors="ssh"from="::1" {key()}', "unexpected text after the option 'doors'; separate options"),
        (f'no-pty,, {key()}', "no option where ',' does"),
        ("no-pty,", "no option after the last comma; write OPTION,OPTION KIND KEY COMMENT, or the key alone"),
        (f'@revoked {key()}', "no option where '@revoked' does"),
        (f'doors="" {key()}', "doors: invalid door name ''; write e.g. doors=\"ssh,db\""),
        (f'doors="ssh, db" {key()}', "doors: invalid door name ' db'; write e.g. doors=\"ssh,db\""),
        (f'doors="ssh",doors="db" {key()}', "doors appears twice; write one doors with both, separated by a comma"),
        (f'from="home.example" {key()}', "from: invalid address 'home.example' (host names are not allowed); "),
        (f'from="203.0.113.7/24" {key()}', "from: '203.0.113.7/24' has host bits set; write 203.0.113.0/24"),
        (f'addresses="203.0.113.*" {key()}', "addresses: '203.0.113.*' has a wildcard; write a prefix, "),
        (f'for-max="60" {key()}', "for-max: invalid duration '60'; write the unit too: \"60s\""),
        (f'for-max="0s" {key()}', "for-max: the duration '0s' is zero; write a longer one, like \"15s\""),
        (f'for-max="366d" {key()}', "for-max: '366d' is too long; write at most \"365d\""),
        (f'expiry-time="2026-07-01" {key()}', "expiry-time: invalid time '2026-07-01'; write YYYYMMDD or "),
        (f'expiry-time="20260231" {key()}', "expiry-time: invalid time '20260231'; write"),
        (f'expiry-time="2026070112" {key()}', "expiry-time: invalid time '2026070112'; write"),
        (f'expiry-time="٢٠٢٦٠٧٠١" {key()}', "expiry-time: invalid time '٢٠٢٦٠٧٠١'; write"),
        (f'expiry-time="" {key()}', "expiry-time: invalid time ''; write"),
        (f"cert-authority {key()}", 'cert-authority without principals would accept every certificate of'),
        (f'principals="alice" {key()}', "principals has no effect without cert-authority; "),
        (f'cert-authority,principals="" {key()}', 'principals: empty principal; write complete names, '),
        (f'cert-authority,principals="ops-*" {key()}', "principals: 'ops-*' has a wildcard; write complete names"),
        (f'cert-authority,principals="*,ops" {key()}', "principals: '*,ops' mixes * with names; write principals="),
        ("no-pty", "no key after the options; write OPTIONS KIND KEY COMMENT, "),
        ("ssh-ed25519", f"the key is truncated: 0 bytes left, 4 needed; {COPY}"),
        (key()[:-8], f"the key is truncated: 26 bytes left, 32 needed; {COPY}"),
        (key()[:-1], f"the key is truncated or damaged; {COPY}"),
        (key().replace("AAAA", "AA.A", 1), f"the key is truncated or damaged; {COPY}"),
        (key() + "ä", f"the key is truncated or damaged; {COPY}"),
        (key().replace("ssh-ed25519", "ssh-rsa"), f"the key is of kind ssh-ed25519, not ssh-rsa; {COPY}"),
        (f"ssh-dss {'A' * 40}", "ssh-dss keys are too weak; make a key with ssh-keygen -t ed25519"),
        (f"no-pty ssh-dss {'A' * 40}", "ssh-dss keys are too weak; make a key with ssh-keygen -t ed25519"),
        (f"ssh-xmss@openssh.com {'A' * 40}", "unsupported key kind 'ssh-xmss@openssh.com'; make a key with "),
        (f"ssh-rsa {RSA1024} old", "an rsa key of 1024 bits is too weak; use ed25519, or rsa of 3072 bits"),
        (
            f"ssh-ed25519-cert-v01@openssh.com {'A' * 40}",
            'this is a certificate; write the key of its authority, preceded by cert-authority,principals="…"',
        ),
        ("no-pty 2048 65537 123", "unknown key kind '2048'; write OPTIONS KIND KEY COMMENT, "),
        (f"{key(1)} again", "line 2 has the same key; remove one of the two lines"),
        (f'doors="ssh" {key(1)}', "line 2 has the same key; remove one of the two lines"),
    ],
)  # fmt: skip
def test_every_fault_has_a_remedy(line: str, fault: str) -> None:
    found = only_fault(line)
    assert found.startswith(fault)
    assert found.isprintable()


def test_all_faults_of_a_line_are_reported() -> None:
    _, faults = parse(f'\ndoor="ssh",for-max="1",from="x.example" {key()}\nssh-dss AAAA\n', "f")
    assert [(fault.line, fault.what.split(":")[0]) for fault in faults] == [
        (2, "unknown option 'door'"),
        (2, "for-max"),
        (2, "from"),
        (3, "ssh-dss keys are too weak"),
    ]


def test_year_outside_the_hosts_time_range() -> None:
    for year, local in (("0001", datetime.timestamp), ("9999", in_the_east)):
        _, faults = parse(f'expiry-time="{year}0101" {key()}', "f", local)
        assert [fault for fault in faults if "time range" not in fault.what] == []


def test_unknown_keys_have_a_reason() -> None:
    keys, _ = parse(f'cert-authority,principals="*" {key(1)}\ndoor="ssh" {key(2)}\n', "/etc/keys")
    names = [public(number).fingerprint_text[:23] + "…" for number in range(3)]
    assert [keys.find(signer_hash(public(number).blob), b"", NOW_S) for number in range(3)] == [
        f"/etc/keys does not list the key {names[0]}",
        f"the key {names[1]} is a cert-authority in /etc/keys, which cannot knock itself",
        f"the key {names[2]} is in line 2 of /etc/keys, which is invalid",
    ]
    assert AuthorizedKeys("f").find(b"", b"", NOW_S) == "f does not list the key SHA256:…"


def test_the_names_of_doors_and_their_lines() -> None:
    keys, _ = parse(f'doors="ssh,db" {key(0)}\n{key(1)}\ndoors="ssh" {key(2)}\ndoors="a b" {key(3)}\n', "f")
    assert keys.door_names() == (("db", 1), ("ssh", 1), ("ssh", 3))


def test_a_key_may_be_an_authority_too() -> None:
    keys, faults = parse(f'{key()} me\ncert-authority,principals="alice" {key()} mine\n', "f")
    assert (faults, [line.name for line in keys.lines]) == ([], ["me", "mine"])


def test_one_authority_may_have_a_line_for_each_principal() -> None:
    authority = "cert-authority,principals="
    text = "\n".join(f'{authority}"{names}" {key()}' for names in ("alice,bob", "ops", "bob,eve", "*"))
    keys, faults = parse(text, "f")
    assert [line.number for line in keys.lines] == [1, 2]
    assert [(fault.code, fault.line) for fault in faults] == [("duplicate-key", 3), ("duplicate-key", 4)]
    _, faults = parse(f'{authority}"*" {key()}\n{authority}"ops" {key()}', "f")
    assert [(fault.code, fault.line) for fault in faults] == [("duplicate-key", 2)]


def test_ssh_keygen_sees_the_same_keys_behind_options(tmp_path: Path) -> None:
    lines = [
        f'command="echo \\"a b\\"",no-pty {key(0)} one',
        f'from="203.0.113.0/24,!203.0.113.9",expiry-time="20300101" {key(1)} two words',
        f'  environment="A=b c",restrict {key(2)}',
        f'cert-authority,principals="a b" {key(3)} four',
        f'command="\\\\\\"" {key(4)} five',
    ]
    (tmp_path / "keys").write_text("".join(f"{line}\n" for line in lines))
    shown = subprocess.run(["ssh-keygen", "-l", "-f", tmp_path / "keys"], capture_output=True, text=True, check=True)
    keys, faults = parse((tmp_path / "keys").read_text(), "f")
    assert faults == []
    assert [line.key.fingerprint_text for line in keys.lines] == [line.split()[1] for line in shown.stdout.splitlines()]


PIECES = st.sampled_from(
    [
        "doors=",
        '"ssh"',
        '"',
        ",",
        " ",
        "\t",
        "from=",
        "cert-authority",
        'principals="*"',
        key(),
        "ssh-rsa",
        "#",
        "\\",
        "\n",
        "\r",
        "no-pty",
    ]
)


@given(st.text() | st.lists(PIECES | st.text(max_size=3), max_size=20).map("".join), st.binary(max_size=64))
def test_any_text_gives_keys_and_faults(text: str, signer: bytes) -> None:
    keys, faults = parse(text, "f")
    written = {number for number, line in enumerate(text.split("\n"), 1) if line.strip(" \t\r")[:1] not in ("", "#")}
    faulty = {fault.line for fault in faults}
    good = {line.number for line in keys.lines}
    assert (good | faulty, good & faulty) == (written, set())
    assert all(fault.what and fault.instead and str(fault).isprintable() for fault in faults)
    assert all(line.name.isprintable() for line in keys.lines)
    assert isinstance(keys.find(signer, b"", 0), str)
    assert isinstance(keys.find(signer, signer or b"c", 0), str)


def test_second_line_with_the_same_signer_hash_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes 2^48 attempts at keys of one's own."""
    monkeypatch.setattr("doorward.signed.authorized_keys.signer_hash", lambda _: bytes(12))
    keys, faults = parse(f"{key(0)}\n{key(1)}\n", "f")
    what = "the key's SHA-256 has the same first 12 bytes as that of line 1"
    assert [(fault.line, fault.code, fault.what) for fault in faults] == [(2, "hash-collision", what)]
    found = keys.find(bytes(12), b"", NOW_S)
    assert isinstance(found, Credential)
    assert found.key == public(0)
