"""The shells' completions in the shells themselves: half a word and a tab give the word."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.support.daemon import PATIENCE_S

CASES = [
    ("stat", "status"),
    ("open ss", "ssh"),  # a door of the configuration
    ("log --sin", "--since"),
    ("completion fi", "fish"),
    ("knock ho", "home"),  # a host of hosts.toml
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder with `doorward`, the scripts, a door and a host; nothing of the caller's shell."""
    tmp_path = tmp_path_factory.mktemp("home")
    program = Path(sys.executable).with_name("doorward")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "doorward").symlink_to(program)
    subprocess.run([sys.executable, "-m", "manual", tmp_path / "share"], check=True)
    (tmp_path / "doorward.toml").write_text('[doors.ssh]\nopens = ["22/tcp"]\n')
    (tmp_path / "doorward").mkdir()
    (tmp_path / "doorward" / "hosts.toml").write_text('[home]\naddress = "192.0.2.7"\n')
    if shutil.which("zsh") is not None:  # once, and not for each word
        subprocess.run(["zsh", "-f", "-c", f"{completing(tmp_path)} -u"], check=True)
    folders = {"CONFIGURATION_DIRECTORY": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    return {**folders, "PATH": f"{tmp_path}/bin:/usr/bin:/bin", "TERM": "vt100", "LC_ALL": "C.UTF-8"}


def completing(home: object) -> str:
    """Return zsh's commands that begin completion, without the option by which it finds the scripts."""
    folder, dump = f"{home}/share/zsh/site-functions", f"{home}/zcompdump"
    return f"fpath=({folder} $fpath); autoload -Uz compinit; compinit -d {dump}"


def ask(shell: str, environment: dict[str, str], *words: str) -> str:
    if shutil.which(shell) is None:
        unavailable(f"not installed: {shell}")
    done = subprocess.run([shell, *words], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(("typed", "wanted"), CASES)
def test_bash(typed: str, wanted: str, environment: dict[str, str]) -> None:
    script = f"{environment['HOME']}/share/bash-completion/completions/doorward"
    words = ["doorward", *typed.split()]
    code = f"""
        . {script}
        COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}
        _shtab_doorward doorward {words[-1]} {words[-2]}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert ask("bash", environment, "--norc", "-c", code).splitlines() == [wanted]


@pytest.mark.parametrize(("typed", "wanted"), CASES)
def test_fish(typed: str, wanted: str, environment: dict[str, str]) -> None:
    script = f"{environment['HOME']}/share/fish/vendor_completions.d/doorward.fish"
    output = ask("fish", environment, "--no-config", "-c", f"source {script}; complete -C 'doorward {typed}'")
    assert [line.split("\t")[0] for line in output.splitlines()] == [wanted]


@pytest.mark.parametrize(("typed", "wanted"), CASES)
def test_zsh(typed: str, wanted: str, environment: dict[str, str]) -> None:
    if shutil.which("zsh") is None:
        unavailable("not installed: zsh")
    prepare = f"{completing(environment['HOME'])} -C; print -r rea''dy\n"
    master, terminal = pty.openpty()
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"], env=environment, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    try:
        os.write(master, prepare.encode())
        read_until(master, "ready")
        os.write(master, f"doorward {typed}\t".encode())
        read_until(master, f"doorward {typed}"[: -len(typed.split()[-1])] + wanted)
    finally:
        shell.kill()
        shell.wait()
        os.close(master)


def read_until(terminal: int, wanted: str) -> None:
    seen, deadline_s = "", time.monotonic() + PATIENCE_S
    while wanted not in seen:
        ready = select.select([terminal], [], [], max(0.0, deadline_s - time.monotonic()))[0]
        assert ready, f"no {wanted!r} in {seen!r}"
        seen += os.read(terminal, 65536).decode()
