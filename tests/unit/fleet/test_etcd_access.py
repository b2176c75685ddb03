"""The files of a fleet: what is refused of them, and TLS with a real etcd."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doorward.config.schema import Fleet
from doorward.errors import UsageError
from doorward.fleet import etcd_codec
from doorward.fleet.etcd import Etcd, EtcdRejectedError, EtcdUnavailableError, claim_access, read_access
from tests.support.authority import Authority
from tests.support.errors import raises
from tests.support.etcd import PATIENCE_S, Node, single


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def node(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    certificate, key = authority.issue("etcd")
    words = {"cert-file": certificate, "key-file": key, "trusted-ca-file": authority.ca}
    more = [part for name, path in words.items() for part in (f"--{name}", str(path))]
    folder = tmp_path_factory.mktemp("etcd")
    with single(folder, *more, "--client-cert-auth", scheme="https") as node:
        yield node


def puts(fleet: Fleet, folder: Path) -> None:
    etcd = Etcd(read_access(fleet, folder))
    try:
        etcd.put("/a", b"1")
    finally:
        etcd.close()


def test_tls_with_a_certificate_of_the_gate(authority: Authority, node: Node, tmp_path: Path) -> None:
    gate, key = authority.issue("gate")
    whole = Fleet("f", (node.client,), str(authority.ca), str(gate), str(key))
    puts(whole, tmp_path)
    with pytest.raises(EtcdUnavailableError):  # without its own
        puts(Fleet("f", (node.client,), str(authority.ca)), tmp_path)
    other = Authority(tmp_path, "other")
    with pytest.raises(EtcdUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        puts(Fleet("f", (node.client,), str(other.ca), str(gate), str(key)), tmp_path)
    by_name = (node.client.replace("127.0.0.1", "localhost"),)
    with pytest.raises(EtcdUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):  # by a name that it has not
        puts(Fleet("f", by_name, str(authority.ca), str(gate), str(key)), tmp_path)


def test_tls_with_certificate_user_and_password(authority: Authority, node: Node, tmp_path: Path) -> None:
    gate, key = authority.issue("with-password", has_common_name=False)
    named, its_key = authority.issue("named")
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_text("secret\n")
    patience_ms = round(1000 * PATIENCE_S)  # etcd hashes passwords with bcrypt, which is slow on a busy machine
    fleet = Fleet("f", (node.client,), str(authority.ca), str(gate), str(key), timeout_ms=patience_ms)
    root = Etcd(read_access(fleet, tmp_path))
    reach = {"permType": "READWRITE"} | etcd_codec.key_range("/doorward/f/", "/doorward/f0")
    steps: list[tuple[str, dict[str, Any]]] = [
        ("user/add", {"name": "root", "password": "root"}),
        ("role/add", {"name": "root"}),
        ("user/grant", {"user": "root", "role": "root"}),
        ("user/add", {"name": "edge-1", "password": "secret"}),
        ("role/add", {"name": "gates"}),
        ("user/grant", {"user": "edge-1", "role": "gates"}),
        ("role/grant", {"name": "gates", "perm": reach}),
        ("enable", {}),
    ]
    for path, body in steps:
        root.call(f"auth/{path}", body)
    root.close()
    etcd = Etcd(read_access(replace(fleet, user="edge-1", password="password"), tmp_path))  # noqa: S106
    etcd.put("/doorward/f/a", b"1")
    with etcd.watch([("/doorward/f/", "/doorward/f0", 1)]) as watch:
        assert watch.read().is_created
    with raises(EtcdRejectedError, "etcd-rejected"):
        etcd.put("/doorward/g/a", b"1")
    etcd.close()
    with pytest.raises(
        EtcdRejectedError, match=r"user name is empty|permission denied"
    ):  # the certificate alone is nobody
        puts(fleet, tmp_path)
    whole = replace(fleet, user="edge-1", password="password", certificate=str(named), key=str(its_key))  # noqa: S106
    with pytest.raises(EtcdRejectedError, match="CommonName"):  # which etcd's gateway takes for somebody else
        puts(whole, tmp_path)


def test_files_that_are_refused(authority: Authority, tmp_path: Path) -> None:
    gate, key = authority.issue("exposed")
    key.chmod(0o644)
    password = tmp_path / "password"
    password.write_text("secret\n")
    password.chmod(0o640)
    https = ("https://127.0.0.1:1",)
    cases = {
        "readable-by-others": Fleet("f", https, str(authority.ca), str(gate), str(key)),
        "invalid-ca": Fleet("f", https, "none.pem"),
        "unreadable-file": Fleet("f", https, str(authority.ca), str(gate), "none.key"),
        "invalid-certificate": Fleet("f", https, str(authority.ca), str(authority.ca), str(password)),
    }
    for code, fleet in cases.items():
        with raises(UsageError, code):
            read_access(fleet, tmp_path)
    access = read_access(Fleet("f", https, user="a", password="password"), tmp_path)  # noqa: S106
    assert (access.user, access.password) == ("a", "secret")
    assert "secret" not in repr(access)
    password.write_text("\n")
    with raises(UsageError, "invalid-password"):
        read_access(Fleet("f", https, user="a", password="password"), tmp_path)  # noqa: S106
    password.chmod(0o644)
    with raises(UsageError, "readable-by-others"):
        read_access(Fleet("f", https, user="a", password="password"), tmp_path)  # noqa: S106


def test_gates_begin_with_different_endpoints() -> None:
    fleet = Fleet("f", tuple(f"http://127.0.0.1:{port}" for port in (1, 2, 3)), timeout_ms=200)
    firsts = {read_access(fleet, Path(), f"edge-{number}").endpoints[0] for number in range(20)}
    assert firsts == set(fleet.endpoints)
    assert claim_access(read_access(fleet, Path()), fleet).timeout_s == 0.2
    assert read_access(fleet, Path()).timeout_s == 1.0
