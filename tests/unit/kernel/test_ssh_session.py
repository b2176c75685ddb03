"""The SSH connection of the current session."""

from __future__ import annotations

import os
import subprocess
import sys
from ipaddress import ip_address

import pytest

from doorward.kernel.sock_diag import Connection
from doorward.kernel.ssh_session import parse, ssh_connection

FOUND = Connection(ip_address("192.0.2.7"), 50000, ip_address("198.51.100.2"), 22)
ASK = "from doorward.kernel.ssh_session import ssh_connection; print(ssh_connection())"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("192.0.2.7 50000 198.51.100.2 22", FOUND),
        ("::ffff:192.0.2.7 50000 ::ffff:198.51.100.2 22", FOUND),
        ("fe80::1%eth0 50000 fe80::2%eth0 22", Connection(ip_address("fe80::1"), 50000, ip_address("fe80::2"), 22)),
        ("", None),
        ("192.0.2.7 50000 198.51.100.2", None),
        ("192.0.2.7 50000 host 22", None),
        ("192.0.2.7 50000 198.51.100.2 65536", None),
        ("192.0.2.7 0 198.51.100.2 22", None),
        (f"192.0.2.7 {'9' * 5000} 198.51.100.2 22", None),
    ],
)
def test_ssh_connection_variable(text: str, found: Connection | None) -> None:
    assert parse(text) == found


def test_own_environment_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.7 50000 198.51.100.2 22")
    assert ssh_connection() == FOUND


def test_environment_of_an_ancestor_is_read() -> None:
    """As with sudo, which has the environment itself but passes on a cleaned one."""
    cleaned = ["env", "-u", "SSH_CONNECTION", sys.executable, "-c", ASK]
    caller = f"import subprocess; subprocess.run({cleaned!r}, check=True)"
    environment = {**os.environ, "SSH_CONNECTION": "192.0.2.7 50000 198.51.100.2 22"}
    done = subprocess.run(
        [sys.executable, "-c", caller], env=environment, capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == f"{FOUND}\n"
