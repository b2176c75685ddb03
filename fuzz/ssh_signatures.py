"""What `ssh-keygen -Y sign` prints, and bare signatures of SSH; the text that the corpus signs is TEXT."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from doorward.errors import MalformedError
from doorward.signed.ssh_keys import BadSignatureError, PublicKey, parse_public_key, verify
from doorward.signed.sshsig import parse_armored
from fuzz import faults

TEXT = b"what is signed"
_CORPUS = Path(__file__).parent / "corpus" / "ssh_signatures"


def one(data: bytes) -> None:
    """Read an armored signature and check it by its key; else try the bytes as a signature by each kind of key."""
    try:
        blob, signature = parse_armored(data.decode(errors="replace"))
        keys = [parse_public_key(blob)]
    except MalformedError as error:
        faults.check_message(error)
        keys, signature = _keys(), data
    for key in keys:
        try:
            verify(key, signature, TEXT)
        except BadSignatureError as error:
            faults.check_message(error)


@cache
def _keys() -> list[PublicKey]:
    seeds = (parse_armored(path.read_text())[0] for path in sorted(_CORPUS.glob("*-good")))
    return [parse_public_key(blob) for blob in seeds]
