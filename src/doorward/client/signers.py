"""Signers: the agent, a key in a file, a security key through ssh-keygen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from doorward.client import keyfile
from doorward.client.keyfile import PrivateKeyFile, key_kind
from doorward.client.passphrase import ask_passphrase
from doorward.client.ssh_agent import AgentKey, open_agent
from doorward.errors import HostError, MalformedError, NegativeResult, UsageError
from doorward.signed.ssh_wire import SshReader
from doorward.signed.sshsig import NAMESPACE, parse_armored, signed_data

# Maximum signature length by kind (RFC 4253 section 6.6), framing included; an RSA signature is as long as its modulus.
_SIGNATURE_BYTES = {
    "ssh-ed25519": 83,
    "ecdsa-sha2-nistp256": 101,
    "ecdsa-sha2-nistp384": 133,
    "ecdsa-sha2-nistp521": 167,
    "sk-ssh-ed25519@openssh.com": 103,
    "sk-ecdsa-sha2-nistp256@openssh.com": 121,
}
_SECURITY_KEY = "sk-"  # prefix of their kinds


class Signer(NamedTuple):
    """A key that can sign: `sign(text)` returns the signature (RFC 4253 section 6.6) over the SSHSIG form of the text.

    `unlock` asks for the passphrase if one is needed and was not asked for yet.
    """

    blob: bytes
    name: str  # for users: the key's path or comment
    sign: Callable[[bytes], bytes]
    certificate: bytes | None = None
    unlock: Callable[[], object] = bool  # nothing to ask

    @property
    def kind(self) -> str:
        """OpenSSH's name for the kind of key."""
        return key_kind(self.blob)

    @property
    def needs_touch(self) -> bool:
        """Whether each signature takes a touch of a security key."""
        return self.kind.startswith(_SECURITY_KEY)


def signature_bytes(blob: bytes) -> int:
    """Return the maximum length in bytes of a signature by this key; 0 for an unknown kind."""
    kind = key_kind(blob)
    if kind != "ssh-rsa":
        return _SIGNATURE_BYTES.get(kind, 0)
    reader = SshReader(blob, "the key")
    try:
        _, _, modulus = (reader.string() for _ in range(3))
    except MalformedError:
        return 0
    return 20 + len(modulus.lstrip(b"\0"))


def agent_signer(key: AgentKey, blob: bytes) -> Signer:
    """Return a signer for a key in the agent; `blob` is the key itself, even if the agent has only its certificate."""
    return Signer(blob, f"{key.comment or 'a key'} in the agent", partial(_ask_agent, key, key_kind(blob)))


def _ask_agent(key: AgentKey, kind: str, text: bytes) -> bytes:
    with open_agent() as agent:
        signature = agent.sign(key, signed_data(text))
    expected = "rsa-sha2-512" if kind == "ssh-rsa" else kind
    if (found := key_kind(signature)) != expected:
        raise HostError(
            "unexpected-signature",
            f"the agent signed with {found} where {expected} was asked for; use another agent or key",
        )
    return signature


def file_signer(path: str, raw: bytes) -> Signer:
    """Return a signer for the private key file at `path` with contents `raw`."""
    blob = keyfile.public_blob(path, raw)
    if blob is not None and not signature_bytes(blob):
        raise UsageError(
            "unsupported-key-kind",
            f"{path}: unsupported key kind {key_kind(blob)}; make one with `ssh-keygen -t ed25519`",
        )
    if blob is not None and key_kind(blob).startswith(_SECURITY_KEY):
        return Signer(blob, path, partial(_ask_token, path))
    if blob is None or not keyfile.is_encrypted(raw):
        loaded = keyfile.load(raw, path, ask_passphrase)
        return Signer(loaded.blob, path, lambda text: loaded.sign(signed_data(text)))
    locked = _LockedKey(path, raw, blob)
    return Signer(blob, path, locked.sign, unlock=locked.unlock)


class _LockedKey:
    """A private key whose passphrase is asked for once, at first use."""

    def __init__(self, path: str, raw: bytes, blob: bytes) -> None:
        self._path, self._raw, self._blob = path, raw, blob
        self._loaded: PrivateKeyFile | None = None

    def unlock(self) -> PrivateKeyFile:
        if self._loaded is None:
            loaded = keyfile.load(self._raw, self._path, ask_passphrase)
            if loaded.blob != self._blob:
                raise UsageError(
                    "public-key-mismatch", f"{self._path}.pub belongs to another key; recreate it with `ssh-keygen -y`"
                )
            self._loaded = loaded
        return self._loaded

    def sign(self, text: bytes) -> bytes:
        return self.unlock().sign(signed_data(text))


def _ask_token(path: str, text: bytes) -> bytes:
    """Sign with a security key through ssh-keygen, which asks for PIN and touch."""
    import subprocess

    command = ["ssh-keygen", "-q", "-Y", "sign", "-f", path, "-n", NAMESPACE]
    try:
        process = subprocess.run(command, input=text, stdout=subprocess.PIPE, check=False)
    except FileNotFoundError:
        raise HostError(
            "no-ssh-keygen", f"{path} is a security key, which needs ssh-keygen; install openssh-client"
        ) from None
    if process.returncode:
        raise NegativeResult(
            "not-signed", f"{path}: ssh-keygen did not sign; is the security key plugged in, and was it touched?"
        )
    try:
        return parse_armored(process.stdout.decode("ascii", errors="replace"))[1]
    except MalformedError as error:
        raise HostError(
            "no-signature", f"{path}: ssh-keygen returned no signature: {error}; update openssh-client"
        ) from None
