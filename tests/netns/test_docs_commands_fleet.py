"""The example of `doorward fleet`, typed at one of two gates, of which the other cannot take the new doors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.consoles import Console
from tests.support.examples import Seat, assert_printed
from tests.support.fleet import Fleet, running_fleet

pytestmark = pytest.mark.netns("nft")

DOOR = """
[doors.web{number}]
knock = ["{first}/udp", "{second}/udp"]
opens = ["{port}/tcp"]
"""
OTHER = '[doors.other]\nopens = ["9081/tcp"]\nknock = ["8080/tcp"]\n'  # knocks where a door of the fleet's opens


def doors(ports: range) -> str:
    """Give doors that open these ports."""
    return "".join(
        DOOR.format(number=number, first=7100 + number, second=7200 + number, port=port)
        for number, port in enumerate(ports)
    )


@pytest.mark.console("docs/reference/commands.md", "doorward fleet")
def test_fleet(console: Console, tmp_path: Path) -> None:
    push, rollback = console
    with running_fleet(Fleet(tmp_path, gates=2, nodes=1, fleet="doors = true")) as fleet:
        first, second = fleet.gates
        second.reload(second.config.read_text() + OTHER)
        seat = Seat(first.host, tmp_path / "seat", first.env)
        file = seat.at / "doors.toml"
        file.write_text(doors(range(8070, 8075)))
        assert_printed("version 1 of the fleet's doors stands; …\n…", first.run("fleet", "push", file).stdout)
        file.write_text(doors(range(8070, 8081)))
        printed = seat.type(push._replace(printed=""), status=1).splitlines()
        assert_printed(push.printed, "\n".join([printed[0], *sorted(printed[1:])]))  # either gate may be the first
        seat.type(rollback)
        assert [gate.ask("status")["summary"][:7] for gate in fleet.gates] == ["6 doors", "7 doors"]
