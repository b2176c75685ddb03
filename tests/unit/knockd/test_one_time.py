import pytest

from doorward.knockd.one_time import ENCODING, ERRORS, mark_used, sequences
from doorward.model import Port, Protocol


def tcp(*numbers: int) -> tuple[Port, ...]:
    return tuple(Port(Protocol.TCP, number) for number in numbers)


def test_finds_unused_lines_and_their_offsets() -> None:
    raw = b"# \xe9\n\n 7,8\r\n#1,2\n  # 3\n9:udp , 10 # home\n 11"
    found = sequences(raw.decode(ENCODING, ERRORS), "f")
    assert found.faults == ()
    assert found.unused == (
        (3, 5, tcp(7, 8)),
        (6, 22, (Port(Protocol.UDP, 9), *tcp(10))),
        (7, 40, tcp(11)),
    )
    assert all(raw[place.offset - 1 : place.offset] == b"\n" for place in found.unused)


def test_reports_and_skips_invalid_lines() -> None:
    found = sequences("hello\n 7,0,x\n 70000\n 7:sctp\n 5,6\n", "f")
    assert [place.knock for place in found.unused] == [tcp(5, 6)]
    assert [str(fault) for fault in found.faults] == [
        "f:1: invalid port 'hello', which knockd misreads; write it as 7000 or 7000:udp",
        "f:2: port 0 does not exist; write a number from 1 to 65535",
        "f:2: invalid port 'x', which knockd misreads; write it as 7000 or 7000:udp",
        "f:3: port 70000 does not exist; write a number from 1 to 65535",
        "f:4: invalid port '7:sctp'; write it as 7000, 7000:tcp or 7000:udp",
    ]


def test_marks_used_lines_like_knockd() -> None:
    raw = b" 7,8\n9,10\n"
    first, second = sequences(raw.decode(), "f").unused
    raw = mark_used(raw, first.offset)
    assert raw == b"#7,8\n9,10\n"
    assert sequences(raw.decode(), "f").unused == (second,)
    assert mark_used(raw, second.offset) == b"#7,8\n#,10\n"


@pytest.mark.parametrize("offset", [-1, 1, 5, 10, 11, 12, 13, 99])
def test_marks_only_unused_lines(offset: int) -> None:
    with pytest.raises(ValueError, match=f"no unused line begins at byte {offset}; read the file again"):
        mark_used(b" 7,8\n#9,10\n\n", offset)
