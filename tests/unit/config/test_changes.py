"""What `doorward apply` shows of the difference between two configurations."""

from __future__ import annotations

import pytest

from doorward.config.changes import MOST_SHOWN, describe_changes
from doorward.config.toml import parse

SSH = '[doors.ssh]\nopens = ["22/tcp"]\n'
DB = '[doors.db]\nopens = ["5432/tcp"]\n'
RANGE = '[doors.mosh]\nopens = ["60000-61000/udp"]\n'
FWKNOP = SSH + '[signed]\n[fwknop]\n[fwknop.stanzas.laptop]\ndoors = ["ssh"]\n'
STEALTH = '[gate]\nmode = "stealth"\npublic = ["80/tcp", "443/tcp"]\n'


def changes(before: str, after: str) -> list[str]:
    return describe_changes(parse(before, "before"), parse(after, "after"))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (SSH, SSH, []),
        (SSH, SSH + DB, ["+ door db: 5432/tcp", "newly hidden: 5432/tcp"]),
        (SSH + DB, DB, ["- door ssh: 22/tcp", "no longer hidden: 22/tcp"]),
        (SSH, SSH + 'for = "1h"\non_open = ["/bin/true"]\n', ["~ door ssh: for, on_open"]),
        (SSH, SSH + 'knock = ["7011/tcp", "9000/tcp"]\n', ["~ door ssh: knock"]),
        (SSH, STEALTH + SSH, [
            "~ mode: guard to stealth",
            "~ [gate]: public",
            "newly hidden: every port that is not public",
        ]),
        (STEALTH + SSH, SSH, [
            "~ mode: stealth to guard",
            "~ [gate]: public",
            "no longer hidden: every port that no door opens",
        ]),
        (
            SSH,
            '[gate]\nmode = "observe"\n' + SSH,
            ["~ mode: guard to observe", "no longer hidden: every port"],
        ),
        ('[gate]\nmode = "observe"\n' + SSH, SSH, ["~ mode: observe to guard", "newly hidden: 22/tcp"]),
        (
            STEALTH + SSH,
            STEALTH.replace('"80/tcp", ', "") + SSH,
            ["~ [gate]: public", "newly hidden: 80/tcp"],
        ),
        (STEALTH + SSH, STEALTH + DB + SSH.replace("22", "443"), [
            "+ door db: 5432/tcp",
            "~ door ssh: opens",
            "newly hidden: 443/tcp",
        ]),
        (SSH, SSH.replace("22/tcp", "22/tcp -> 10.7.0.2:22"), ["~ door ssh: opens"]),
        (SSH, '[doors.ssh]\nopens = ["22/tcp", "60000-60010/udp", "10.7.0.2:22/tcp", "[fd07::2]:22/tcp"]\n', [
            "~ door ssh: opens",
            "newly hidden: 10.7.0.2:22/tcp, [fd07::2]:22/tcp, 60000-60010/udp",
        ]),
        (STEALTH + SSH + DB.replace("5432", "10.7.0.2:22"), STEALTH + SSH, [
            "- door db: 10.7.0.2:22/tcp",
            "no longer hidden: 10.7.0.2:22/tcp",
        ]),
        (RANGE, RANGE.replace("61000", "60500"), ["~ door mosh: opens", "no longer hidden: 60501-61000/udp"]),
        (RANGE, RANGE.replace('"]', '", "61001/udp"]'), ["~ door mosh: opens", "newly hidden: 61001/udp"]),
        (STEALTH + RANGE, STEALTH.replace("80/tcp", '80/tcp", "60000-60010/udp') + RANGE.replace("60000", "60011"), [
            "~ door mosh: opens",
            "~ [gate]: public",
            "no longer hidden: 60000-60010/udp",
        ]),
        (SSH, SSH + "[signed]\nconfirm = true\n", ["+ [signed]"]),
        (SSH + "[signed]\n", FWKNOP, ["+ [fwknop]", "+ stanza laptop: ssh"]),
        (FWKNOP, SSH + "[signed]\n", ["- [fwknop]", "- stanza laptop: ssh"]),
        (
            FWKNOP,
            FWKNOP.replace("[fwknop]\n", '[fwknop]\nwindow = "1m"\n') + "insecure_no_hmac = true\n",
            ["~ [fwknop]: window", "~ stanza laptop: insecure_no_hmac"],
        ),
        (SSH + '[signed]\nport = "1/udp"\n', SSH + "[signed]\nconfirm = true\n", ["~ [signed]: port, confirm"]),
    ],
)  # fmt: skip
def test_changes(before: str, after: str, expected: list[str]) -> None:
    assert changes(before, after) == expected


def test_no_port_of_a_sequence_is_shown() -> None:
    with_knock = SSH + 'knock = ["7011/tcp", "9000/tcp"]\n'
    assert changes(with_knock, with_knock.replace("7011", "7012") + DB) == [
        "+ door db: 5432/tcp",
        "~ door ssh: knock",
        "newly hidden: 5432/tcp",
    ]


def test_many_doors_are_counted() -> None:
    many = "".join(f'[doors.d{n}]\nopens = ["{2 * n + 2}/tcp"]\n' for n in range(MOST_SHOWN + 5))
    *shown, more, hidden = changes(SSH, SSH + many)
    assert (len(shown), more) == (MOST_SHOWN, "+ 5 more doors")
    assert hidden.endswith(" and 4 more")  # 22/tcp is hidden already
