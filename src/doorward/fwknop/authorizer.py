"""Authorize fwknop's packets: from packet, source and time to a valid knock or a rejection. Pure.

Nothing in a packet names its key, so the HMAC of every key is tried, first the one that last verified a packet from the
same source. Nothing is decrypted before its HMAC is verified, unless a stanza has none. Where a packet may come from is
looked up last: of networks there may be many, and what a packet without a key costs must not depend on them.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from typing import NamedTuple

from doorward.config.schema import FwknopStanza, Hmac
from doorward.errors import MalformedError
from doorward.fwknop.cipher import Authenticator, decrypt
from doorward.fwknop.spa_packet import HMACS, SpaRequest, parse_plaintext, sealed_bytes, split_tag
from doorward.model import Door, Port, SecretBytes
from doorward.signed.authorize import FORBIDDEN, FWKNOP, KnockRejection, Reason, ValidKnock, Verdict, clock_offset
from doorward.signed.message import HASH_BYTES, NUMBER_BYTES

_MAX_SOURCES = 4096  # whose last key is remembered


class StanzaKeys(NamedTuple):
    """The shared keys of a stanza; without `hmac` its packets are not authenticated."""

    key: SecretBytes
    hmac: SecretBytes | None


class _Stanza(NamedTuple):
    settings: FwknopStanza
    key: SecretBytes
    doors: tuple[Door, ...]

    def allows(self, source: IPv4Address) -> bool:
        """Return whether a packet may come from there."""
        sources = self.settings.sources
        return not sources or any(source in network for network in sources)

    def requested(self, ports: Sequence[Port]) -> tuple[Door, ...]:
        """Return the doors that serve a request for exactly these ports; none: the stanza does not allow it."""
        doors = tuple(door for door in self.doors if set(door.all_opens).issubset(ports))
        served = {*self.settings.ports, *(port for door in doors for port in door.all_opens)}
        return doors if served.issuperset(ports) else ()


class _Group(NamedTuple):
    """The stanzas that share an HMAC key, in the order of the file; without `authenticator` their packets have none."""

    digest: Hmac
    authenticator: Authenticator | None
    stanzas: list[_Stanza]


class FwknopAuthorizer:
    """Authorizes packets by the stanzas; of those with the same key, the first that accepts a packet counts."""

    def __init__(
        self,
        stanzas: Iterable[tuple[FwknopStanza, StanzaKeys]],
        doors: Mapping[str, Door],
        window_ms: int,
        shared: frozenset[str] = frozenset(),
    ) -> None:
        """`shared`: the doors whose knocks are claimed for the whole fleet."""
        groups: dict[object, _Group] = {}
        for settings, (key, hmac) in stanzas:
            identity = (settings.hmac, bytes(hmac)) if hmac is not None else bytes(key)
            authenticator = Authenticator(hmac, settings.hmac) if hmac is not None else None
            group = groups.setdefault(identity, _Group(settings.hmac, authenticator, []))
            group.stanzas.append(_Stanza(settings, key, tuple(doors[name] for name in settings.doors)))
        self._groups = list(groups.values())
        self._window_ms, self._shared = window_ms, shared
        self._last = OrderedDict[IPv4Address, int]()  # the index of the group

    @property
    def stanzas(self) -> frozenset[str]:
        """Return the names of the stanzas."""
        return frozenset(stanza.settings.name for group in self._groups for stanza in group.stanzas)

    def authorize(self, packet: bytes, source: bytes, now_ms: int) -> Verdict:
        """Return the verdict on a candidate from `source` (packed IPv4) at `now_ms`, milliseconds since the epoch."""
        sender = IPv4Address(source)
        rejection: KnockRejection | None = None
        for index, stanza, sealed in self._matches(packet, sender):
            try:
                request = parse_plaintext(decrypt(sealed, stanza.key))
            except MalformedError as error:
                if self._groups[index].authenticator is None and error.code == "wrong-key":
                    continue  # nothing says that it was for this stanza
                verdict: Verdict = _rejected(stanza, FORBIDDEN, str(error))
            else:
                verdict = self._decide(stanza, request, sealed, sender, now_ms)
            if not stanza.allows(sender):
                continue
            self._remember(sender, index)
            if isinstance(verdict, ValidKnock):
                return verdict
            rejection = rejection or verdict
        return rejection or KnockRejection("fwknop", kind=FWKNOP)

    def _matches(self, packet: bytes, source: IPv4Address) -> Iterator[tuple[int, _Stanza, bytes]]:
        """Yield the stanzas whose key verifies a packet, each with the index of its group and what is sealed."""
        first = self._last.get(source)
        others = (index for index in range(len(self._groups)) if index != first)
        parts = {digest: _parts(packet, digest) for digest in HMACS}
        for index in others if first is None else (first, *others):
            digest, authenticator, stanzas = self._groups[index]
            found = (packet, b"") if authenticator is None else parts[digest]
            if found is None or not (authenticator is None or authenticator.verifies(*found)):
                continue
            with suppress(MalformedError):
                sealed = sealed_bytes(found[0])
                yield from ((index, stanza, sealed) for stanza in stanzas)

    def _remember(self, source: IPv4Address, index: int) -> None:
        self._last[source] = index
        self._last.move_to_end(source)
        if len(self._last) > _MAX_SOURCES:
            self._last.popitem(last=False)

    def _decide(self, stanza: _Stanza, request: SpaRequest, sealed: bytes, source: IPv4Address, now_ms: int) -> Verdict:
        settings, time_ms = stanza.settings, request.time_s * 1000
        behind_ms = now_ms - time_ms
        if abs(behind_ms) > self._window_ms:
            return _rejected(stanza, "clock", f"it is {clock_offset(behind_ms)}; correct the client's clock")
        if settings.expires_s is not None and now_ms >= settings.expires_s * 1000:
            return _rejected(stanza, FORBIDDEN, "the stanza has expired")
        if settings.username is not None and request.username != settings.username:
            return _rejected(stanza, FORBIDDEN, f"it names the user {request.username}, not {settings.username}")
        if request.source is None and settings.require_source_address:
            return _rejected(stanza, FORBIDDEN, "it names no address (fwknop -s); use -a or -R")
        doors = stanza.requested(request.ports)
        if not doors:
            ports = ", ".join(map(str, request.ports))
            return _rejected(stanza, FORBIDDEN, f"its doors do not open {ports}, or not without other ports")
        for_ms = min(request.for_s * 1000 if request.for_s else settings.for_ms, settings.for_max_ms)
        name, *others = (door.name for door in doors)
        return ValidKnock(
            name, request.source or source, for_ms, settings.name, _signer(settings.name), _number(sealed), time_ms,
            is_shared=not self._shared.isdisjoint([name, *others]), kind=FWKNOP, also=tuple(others),
        )  # fmt: skip


def _parts(packet: bytes, digest: str) -> tuple[bytes, bytes] | None:
    """Return text and HMAC of a packet with this hash, or None if it has no such form."""
    try:
        return split_tag(packet, digest)
    except MalformedError:
        return None


def _rejected(stanza: _Stanza, reason: Reason, words: str) -> KnockRejection:
    return KnockRejection(reason, f"packet for stanza {stanza.settings.name} rejected: {words}", kind=FWKNOP)


def _signer(name: str) -> bytes:
    """Return what identifies the holder of a shared key, where a signed knock has the hash of its key."""
    return hashlib.sha256(b"fwknop " + name.encode()).digest()[:HASH_BYTES]


def _number(sealed: bytes) -> bytes:
    """Return a packet's number for the replay cache: from its bytes, not from their spelling."""
    return hashlib.sha256(sealed).digest()[:NUMBER_BYTES]
