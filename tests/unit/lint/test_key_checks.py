"""Findings for keys with unusually broad options."""

from __future__ import annotations

import base64

import pytest

from doorward.lint.checks import authorized_keys_findings
from doorward.signed.authorized_keys import parse
from doorward.signed.ssh_wire import string


def key(number: int, name: str) -> str:
    blob = string(b"ssh-ed25519") + string(number.to_bytes(32))
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} {name}"


def found(*options: str, doors: int = 1) -> list[str]:
    names = ("laptop", "desk", "tablet")
    lines = [f"{option} {key(number, names[number])}".strip() for number, option in enumerate(options)]
    keys, faults = parse("\n".join(lines), "keys")
    assert faults == []
    assert all(remark.file == "keys" for remark in authorized_keys_findings(keys, doors))
    return [str(remark) for remark in authorized_keys_findings(keys, doors)]


@pytest.mark.parametrize(
    "option",
    ["", 'for-max="1d"', 'addresses="203.0.113.0/24,2001:db8::/32"', 'from="*"', 'cert-authority,principals="ops"'],
)
def test_common_options_have_no_finding(option: str) -> None:
    assert found(option) == []


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            'addresses="203.0.113.0/24,0.0.0.0/0"',
            "warning: key laptop: may open doors for all of 0.0.0.0/0, not only for where it is; "
            "write the networks that it is used from",
        ),
        (
            'addresses="2000::/3"',
            "warning: key laptop: may open doors for all of 2000::/3, not only for where it is; "
            "write the networks that it is used from",
        ),
        (
            'for-max="7d"',
            'warning: key laptop: may keep doors open for 7d; write for-max="24h" or less; '
            "established connections stay open",
        ),
        (
            'cert-authority,principals="*"',
            "note: key laptop: anyone with a certificate from this authority may knock; "
            'principals="*" allows that; list names to limit it',
        ),
    ],
)
def test_broad_options_have_a_finding(option: str, message: str) -> None:
    assert found(option) == [f"1: {message}"]


def test_keys_for_every_door_where_there_is_a_choice() -> None:
    assert found("", "") == []  # one door
    assert found("", doors=3) == []  # one key: the operator's own
    assert found('doors="ssh"', 'doors="ssh,db"', doors=3) == []
    assert found('doors="ssh"', "", doors=3) == [
        '2: note: key desk may open every door, of 3; to limit a key, write doors="…" before it'
    ]
    assert found("", 'doors="ssh"', "", doors=3) == [
        '1: note: 2 keys may open every door, of 3; to limit a key, write doors="…" before it'
    ]


def test_a_file_without_a_key() -> None:
    assert found() == [
        "1: note: no line holds a key, so no signed knock opens anything; "
        "add the public keys of the clients that may knock, one per line"
    ]
