"""The opening table, as transcripts."""

from __future__ import annotations

from ipaddress import ip_address

from doorward.core.opening_table import OpeningTable
from doorward.model import Share
from tests.support.openings import element, opening

HOME, OFFICE = ip_address("192.0.2.7"), ip_address("2001:db8::7")


def test_second_opening_extends_but_never_shortens() -> None:
    book = OpeningTable()
    first = opening(since_s=1000, until_s=1030, by="knock")
    shares = (Share("hand", 1040, name="hand"), Share("knock", 1030, name="knock"))
    longer = first._replace(until_s=1040, shares=shares)  # since and by stay
    transcript = [
        (first, first),
        (opening(since_s=1010, until_s=1040, by="hand"), longer),
        (opening(since_s=1011, until_s=1015, by="hand"), longer),
        (opening(since_s=1012, until_s=1040, by="hand"), longer),
    ]
    for new, expected in transcript:
        assert book.open(new) == expected
        assert list(book) == [expected]
        assert book.get("ssh", HOME) == expected


def test_one_entry_per_door_and_address() -> None:
    book = OpeningTable()
    entered = [opening("ssh"), opening("web"), opening("ssh", "2001:db8::7"), opening("web", "2001:db8::7")]
    for one in entered:
        book.open(one)
    assert list(book) == entered
    assert book.close("web", HOME) == entered[1]
    assert book.close("web", HOME) is None
    assert book.get("web", HOME) is None
    assert book.close("ssh", ip_address("192.0.2.8")) is None
    assert list(book) == [entered[0], entered[2], entered[3]]


def test_openings_expire_in_order_once() -> None:
    book = OpeningTable()
    for name, until_s in ("c", 30.0), ("a", 10.0), ("b", 20.0), ("late", 90.0):
        book.open(opening(name, until_s=until_s))
    transcript: list[tuple[float, list[str], str | None]] = [
        (9.999, [], "a"),
        (10.0, ["a"], "b"),
        (10.0, [], "b"),
        (35.0, ["b", "c"], "late"),
        (1e9, ["late"], None),
        (1e9, [], None),
    ]
    for now_s, ended, following in transcript:
        assert [one.door for one in book.expire(now_s)] == ended
        upcoming = book.next_end()
        assert (upcoming.door if upcoming else None) == following
    assert list(book) == []


def test_equal_ends_of_both_families() -> None:
    book = OpeningTable()
    for address in "192.0.2.7", "2001:db8::7", "192.0.2.8":
        book.open(opening(address=address, until_s=10.0))
    assert len(book.expire(10.0)) == 3


def test_next_end_after_close_and_extension() -> None:
    book = OpeningTable()
    book.open(opening("ssh", until_s=10.0))
    book.open(opening("web", until_s=20.0))
    book.open(opening("ssh", until_s=30.0))  # extended past the other
    assert [one.door for one in book.expire(10.0)] == []
    book.close("web", HOME)
    assert book.next_end() == opening("ssh", until_s=30.0)._replace(shares=(Share("knock", 30.0, name="knock"),))
    book.close("ssh", HOME)
    book.open(opening("ssh", until_s=15.0))  # opened again after a manual close: it may end sooner
    assert book.expire(30.0) == [opening("ssh", until_s=15.0)]
    assert book.next_end() is None


def test_element_is_wanted_until_its_last_opening_ends() -> None:
    book = OpeningTable()
    book.open(opening("ssh", opened="22/tcp", until_s=10.0))
    book.open(opening("admin", opened="22/tcp 443/tcp", until_s=20.0))
    book.open(opening("ssh", "2001:db8::7", "22/tcp", until_s=90.0))
    asked = {
        "192.0.2.7 22/tcp": 20.0,
        "192.0.2.7 443/tcp": 20.0,
        "192.0.2.7 22/udp": None,
        "192.0.2.8 22/tcp": None,
        "2001:db8::7 22/tcp": 90.0,
        "2001:db8::7 443/tcp": None,
    }
    expected = {element(text): until_s for text, until_s in asked.items() if until_s is not None}
    assert book.wanted_until(map(element, asked)) == expected
    book.close("admin", HOME)
    assert book.wanted_until(map(element, asked)) == {
        element("192.0.2.7 22/tcp"): 10.0,
        element("2001:db8::7 22/tcp"): 90.0,
    }
    book.close("ssh", OFFICE)
    book.close("ssh", HOME)
    assert book.wanted_until(map(element, asked)) == {}
