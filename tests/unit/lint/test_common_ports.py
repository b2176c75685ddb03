import pytest

from doorward.lint.common_ports import SHELLS, TRIED_FIRST, is_tried_first
from doorward.model import Port, Protocol


@pytest.mark.parametrize(
    ("port", "tried"),
    [
        ("22/tcp", True),
        ("161/udp", True),
        ("161/tcp", False),  # SNMP is UDP
        ("7000/tcp", True),
        ("9000/udp", True),
        ("1111/tcp", True),
        ("55555/udp", True),
        ("66/tcp", False),  # one digit twice, but below 1000
        ("12345/tcp", True),
        ("4321/udp", True),
        ("54321/tcp", True),
        ("8881/tcp", True),
        ("7013/tcp", False),
        ("50002/udp", False),
        ("0/tcp", False),
    ],
)
def test_is_tried_first(port: str, tried: bool) -> None:
    number, protocol = port.split("/")
    assert is_tried_first(Port(Protocol[protocol.upper()], int(number))) is tried


def test_lists_contain_valid_ports() -> None:
    for ports in (*TRIED_FIRST.values(), SHELLS.keys()):
        assert all(1 <= number <= 65535 for number in ports)
    assert {protocol.name: len(ports) for protocol, ports in TRIED_FIRST.items()} == {"TCP": 194, "UDP": 151}
