"""Prompt for a passphrase as OpenSSH does: on the terminal, or through the SSH_ASKPASS program."""

from __future__ import annotations

import os

from doorward.errors import HostError, NegativeResult


def ask_passphrase(path: str) -> bytes:
    """Return the passphrase of a key file. HostError: no way to prompt; NegativeResult: none was entered."""
    prompt = f"Enter passphrase for key '{path}': "
    program = os.environ.get("SSH_ASKPASS", "")
    require = os.environ.get("SSH_ASKPASS_REQUIRE", "")
    has_display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if program and (require == "force" or (require == "prefer" and has_display)):
        return _from_program(program, prompt)
    if _has_terminal():
        return _from_terminal(prompt)
    if program and has_display and require != "never":
        return _from_program(program, prompt)
    raise HostError(
        "no-terminal",
        f"{path} needs its passphrase, and there is no terminal to ask for it; "
        f"run `ssh-add {path}` once, so that the agent signs",
    )


def _has_terminal() -> bool:
    from importlib.util import find_spec  # most knocks need no passphrase

    if find_spec("termios") is None:
        return True  # Windows: getpass asks at the console
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        return False
    return True


def _from_terminal(prompt: str) -> bytes:
    from getpass import getpass

    try:
        return getpass(prompt).encode()  # opens /dev/tty itself: standard input may be a connection
    except EOFError:
        raise NegativeResult("no-passphrase", "no passphrase entered; nothing was sent") from None


def _from_program(program: str, prompt: str) -> bytes:
    import subprocess

    try:
        process = subprocess.run([program, prompt], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    except OSError as error:
        raise HostError(
            "askpass-failed", f"SSH_ASKPASS names {program}, which cannot be run: {error.strerror}; fix or unset it"
        ) from None
    if process.returncode:
        raise NegativeResult("no-passphrase", f"{program} returned no passphrase; nothing was sent")
    return process.stdout.split(b"\n")[0]
