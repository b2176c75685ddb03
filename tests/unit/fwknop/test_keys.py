"""The file of shared keys: what it says, and what is wrong with it, without showing any of them."""

from __future__ import annotations

import pytest

from doorward.config.schema import FwknopStanza
from doorward.fwknop.authorizer import StanzaKeys
from doorward.fwknop.keys import format_file, parse
from doorward.model import SecretBytes

STANZAS = FwknopStanza("alice"), FwknopStanza("bob", insecure_no_hmac=True)
SECRET = "c2VzYW1l"  # noqa: S105
GOOD = f"alice {SECRET} b3Blbg==\nbob {SECRET}\n"


def test_a_good_file() -> None:
    stanzas, faults = parse(f"# a comment\n\n{GOOD}", "f", STANZAS)
    assert faults == []
    assert [(stanza.name, keys) for stanza, keys in stanzas] == [
        ("alice", StanzaKeys(SecretBytes(b"sesame"), SecretBytes(b"open"))),
        ("bob", StanzaKeys(SecretBytes(b"sesame"), None)),
    ]
    assert SECRET not in repr(stanzas)
    assert "sesame" not in repr(stanzas)
    assert parse(format_file({stanza.name: keys for stanza, keys in stanzas}), "f", STANZAS) == (stanzas, [])


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (GOOD.replace("alice", "carol"), [("unknown-stanza", 1), ("no-key", 1)]),
        (GOOD + f"{SECRET} b3Blbg==\n", [("unknown-stanza", 3)]),
        (GOOD + GOOD, [("duplicate-entry", 3), ("duplicate-entry", 4)]),
        (GOOD.replace(" b3Blbg==", ""), [("no-hmac", 1)]),
        (GOOD.replace("b3Blbg==", SECRET), [("same-key", 1), ("no-key", 1)]),
        (GOOD + f"bob-{SECRET}\n", [("invalid-line", 3)]),
        (GOOD.replace(f"bob {SECRET}", f"bob {SECRET} b3Blbg=="), [("hmac-unused", 2)]),
        (GOOD.replace("b3Blbg==", f"{SECRET}!"), [("invalid-base64", 1), ("no-key", 1)]),
        (GOOD.replace("b3Blbg==", "b3Bl" * 43), [("key-length", 1), ("no-key", 1)]),
        (GOOD.replace(f"bob {SECRET}", "bob " + "b3Bl" * 11), [("key-length", 2), ("no-key", 1)]),
    ],
)
def test_faults(text: str, faults: list[tuple[str, int]]) -> None:
    stanzas, found = parse(text, "f", STANZAS)
    assert [(fault.code, fault.line) for fault in found] == faults
    assert SECRET not in "".join(map(str, found))
    assert len(stanzas) == len(STANZAS) - sum(code in ("no-key", "no-hmac", "hmac-unused") for code, _ in faults)
