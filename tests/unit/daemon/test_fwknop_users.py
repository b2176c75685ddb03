"""Who uses a shared key, and who has moved to signed knocks."""

from __future__ import annotations

from doorward.daemon.fwknop_users import FwknopUsers


def test_a_key_counts_for_the_stanza_of_its_name() -> None:
    users = FwknopUsers(["alice", "bob"], {"fwknop alice": 10.0, "key bob": 5.0, "key carol": 7.0, "ban": 1.0})
    for by, at_s in (
        ("fwknop alice", 20.0),
        ("fwknop alice", 15.0),
        ("key alice@laptop", 30.0),
        ("key bob (browser)", 40.0),
        ("key alicia", 99.0),
        ("fwknop carol", 99.0),
        ("fleet", 99.0),
        ("alice", 99.0),
        ("key ", 99.0),
    ):
        users.note(by, at_s)
    assert users.as_list({"alice"}) == [
        {"stanza": "alice", "fwknop": 20.0, "signed": 30.0, "takes": True},
        {"stanza": "bob", "fwknop": None, "signed": 40.0, "takes": False},
    ]
