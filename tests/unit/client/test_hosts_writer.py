"""Writing hosts.toml: existing content is preserved in any form."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.client.hosts import parse_hosts, read_hosts
from doorward.client.hosts_writer import host_table, remove_host, save_host
from doorward.errors import HostError, UsageError
from doorward.model import Port, Protocol
from tests.support.errors import raises

MINE = """\
# my machines

[home]   # the old one
address = "192.0.2.7"
# a remark on the key
server_key = "k"
[home.doors]
ssh = [
  "7000/tcp",
]

# the office; do not touch
["gate.example".doors]
web = ["1/tcp"]
"""
TABLE = '[new]\naddress = "192.0.2.9"\nserver_key = "k"\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config" / "doorward" / "hosts.toml"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)


def test_first_host_creates_directory_and_file(path: Path) -> None:
    old_mask = os.umask(0)
    try:
        assert save_host(path, "new", TABLE, replace=False) is None
    finally:
        os.umask(old_mask)
    assert path.read_text() == TABLE
    assert [each.stat().st_mode & 0o777 for each in (path, path.parent, path.parent.parent)] == [0o600, 0o700, 0o700]
    assert [each.name for each in path.parent.iterdir()] == ["hosts.toml"]


@pytest.mark.parametrize("text", [MINE, MINE.rstrip("\n"), "", "# only a remark"])
def test_existing_text_is_preserved(path: Path, text: str) -> None:
    write(path, text)
    save_host(path, "new", TABLE, replace=False)
    assert path.read_text().startswith(text)
    assert path.read_text().endswith(TABLE)
    assert read_hosts(str(path)).keys() == parse_hosts(text.encode(), "f").keys() | {"new"}


def test_existing_host_is_rejected(path: Path) -> None:
    write(path, MINE)
    with raises(UsageError, "host-exists"):
        save_host(path, "home", TABLE.replace("new", "home"), replace=False)
    assert path.read_text() == MINE


def test_replacing_a_host_keeps_a_backup(path: Path) -> None:
    write(path, MINE)
    before = save_host(path, "home", '[home]\naddress = "x"\n', replace=True)
    assert before is not None
    assert before.read_text() == MINE
    assert before.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == (
        "# my machines\n\n\n# the office; do not touch\n"
        '["gate.example".doors]\nweb = ["1/tcp"]\n\n[home]\naddress = "x"\n'
    )


@pytest.mark.parametrize(
    "text",
    [
        'home = { address = "x" }\n',
        'home.address = "x"\n',
        '[other]\naddress = """\n[home]\n"""\n[home]\naddress = "x"\n',
        '[other]\naddress = """\n[home]\naddress"""\ngate = "a"\n[home]\naddress = "x"\n',
    ],
)
def test_unsupported_form_is_left_unchanged(path: Path, text: str) -> None:
    write(path, text)
    with raises(UsageError, "uneditable-host"):
        save_host(path, "home", '[home]\naddress = "y"\n', replace=True)
    assert path.read_text() == text


@pytest.mark.parametrize(("text", "code"), [("[broken", "not-toml"), ("[home]\ncolour = 1", "unknown-key")])
def test_invalid_file_is_left_unchanged(path: Path, text: str, code: str) -> None:
    write(path, text)
    with raises(UsageError, code):
        save_host(path, "new", TABLE, replace=False)
    assert path.read_text() == text


def test_symbolic_link_is_preserved(path: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles" / "hosts.toml"
    write(real, MINE)
    path.parent.mkdir(parents=True)
    path.symlink_to(real)
    save_host(path, "new", TABLE, replace=False)
    assert path.is_symlink()
    assert real.read_text() == f"{MINE}\n{TABLE}"


def test_leftover_of_a_crash_is_replaced(path: Path) -> None:
    write(path, MINE)
    path.with_name("hosts.toml.new").write_text("half")
    save_host(path, "new", TABLE, replace=False)
    assert "half" not in path.read_text()


def test_directory_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises(HostError, "unwritable-file"):
        save_host(tmp_path / "file" / "hosts.toml", "new", TABLE, replace=False)


def test_concurrent_writers_lose_nothing(path: Path) -> None:
    names = [f"host{number}" for number in range(8)]
    threads = [
        threading.Thread(target=save_host, args=(path, name, f'[{name}]\naddress = "x"\n'), kwargs={"replace": False})
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(read_hosts(str(path))) == names


anything = st.text(st.characters(codec="utf-8"), max_size=20)
texts = anything.filter(bool)
sequences = st.lists(st.builds(Port, st.sampled_from(Protocol), st.integers(1, 65535)), max_size=3).map(tuple)


@given(anything, texts, texts, st.dictionaries(st.from_regex("[a-z_-]{1,9}", fullmatch=True), sequences, max_size=3))
def test_any_host_is_read_back(name: str, address: str, key: str, doors: dict[str, tuple[Port, ...]]) -> None:
    text = host_table(name, {"address": address, "server_key": key, "for": "1h"}, doors)
    (host,) = parse_hosts(text.encode(), "f").values()
    assert (host.name, host.address, host.server_key, host.for_s, host.doors) == (name, address, key, 3600, doors)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=9), min_size=1, max_size=4, unique=True), st.data())
def test_removing_one_of_many_hosts(names: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(names))
    text = "# first\n" + "\n".join(host_table(name, {"server_key": "k"}, {"ssh": ()}) for name in names)
    left = remove_host(text, gone)
    assert parse_hosts(left.encode(), "f").keys() == set(names) - {gone}
    assert left.startswith("# first\n")
