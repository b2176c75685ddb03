"""The text of a version of the fleet's doors, as anyone who can write to etcd may have left it."""

from __future__ import annotations

import pytest

from doorward.errors import HostError
from doorward.fleet.doors import text_in


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b'{"text": 3}', b'{"text": null}', b'{"text": "\\ud800"}'])
def test_what_is_not_the_text_of_doors_is_refused(value: bytes) -> None:
    with pytest.raises(HostError):
        text_in(value)


def test_the_text_of_doors_is_read() -> None:
    assert text_in(b'{"text": "[doors.web]\\n"}') == "[doors.web]\n"
