"""Keys, signatures and certificates by the real ssh-keygen."""

from __future__ import annotations

import atexit
import base64
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from doorward.signed import sshsig
from tests.conftest import unavailable

KINDS = {  # our name of a kind: the arguments of ssh-keygen
    "ed25519": ("-t", "ed25519"),
    "ecdsa256": ("-t", "ecdsa", "-b", "256"),
    "ecdsa384": ("-t", "ecdsa", "-b", "384"),
    "ecdsa521": ("-t", "ecdsa", "-b", "521"),
    "rsa2048": ("-t", "rsa", "-b", "2048"),
    "rsa3072": ("-t", "rsa", "-b", "3072"),
}


def ssh_keygen(*words: str, given: str = "") -> str:
    """Run it; gives what it prints."""
    if shutil.which("ssh-keygen") is None:
        unavailable("not installed: ssh-keygen (openssh-client)")
    done = subprocess.run(["ssh-keygen", *words], input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def folder() -> Path:
    """A folder for the keys of this process; it goes with it."""
    whole = TemporaryDirectory(prefix="doorward-keys-")
    atexit.register(whole.cleanup)
    return Path(whole.name)


def key(kind: str, number: int = 0) -> Path:
    """Make a private key, once for each kind and number; the public one lies beside it."""
    path = folder() / f"{kind}-{number}"
    if not path.exists():
        ssh_keygen("-q", *KINDS[kind], "-N", "", "-C", f"{kind} number {number}", "-f", str(path))
    return path


def public_line(private: Path) -> str:
    """Return the line of the public key: kind, bytes in base64, comment."""
    return private.with_name(private.name + ".pub").read_text().strip()


def blob(line: str) -> bytes:
    """Return the bytes of a key's or certificate's line."""
    return base64.b64decode(line.split()[1])


def sign(private: Path, text: bytes, *options: str, namespace: str = "doorward") -> str:
    """Sign as a user does; gives the armored signature."""
    words = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(private), "-n", namespace, *options]
    return subprocess.run(words, input=text, capture_output=True, check=True, timeout=60).stdout.decode()


def signature(private: Path, text: bytes, *options: str) -> bytes:
    """Sign; gives the signature's blob alone."""
    return sshsig.parse_armored(sign(private, text, *options))[1]


def certify(authority: Path, public: str, *options: str, name: str = "alice@laptop") -> bytes:
    """Have a public key's line signed by an authority; gives the certificate's bytes. Without -V it holds always."""
    path = folder() / "subject.pub"
    path.write_text(public + "\n")
    period = () if "-V" in options else ("-V", "always:forever")
    ssh_keygen("-q", "-s", str(authority), "-I", name, *period, *options, str(path))
    return blob(path.with_name("subject-cert.pub").read_text())
