"""Credentials: which doors a key may open, from where, for how long, until when. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from doorward.escape import printable
from doorward.model import Address, Source
from doorward.signed.address_patterns import AddressPatterns
from doorward.signed.key_options import KeyOptions
from doorward.signed.ssh_keys import Presence, PublicKey

MAX_NAME = 64  # characters of a comment or a certificate's ID, which appears in logs and tables


class Credential(NamedTuple):
    """A key that may knock, by its own line or by its authority's.

    Rejections continue a sentence about the key, as in "key laptop may not open the door db"; "" means none.
    """

    name: str
    key: PublicKey
    options: KeyOptions
    certified_sources: AddressPatterns | None = None  # a certificate's `source-address`, in addition to `from`
    certified_signer: bytes | None = None  # identifies the holder of a certificate, also of a renewed one

    def rejection(self, door: str, source: Address, asked: Source | None, now_s: float) -> str:
        """Return why the key may not open this door now, for this source or requested address; "" if it may."""
        options = self.options
        if options.expires_s is not None and now_s >= options.expires_s:
            return f"expired on {utc_text(options.expires_s)}"
        if options.doors is not None and door not in options.doors:
            return f"may not open the door {door}"
        for sources in (options.sources, self.certified_sources):
            if sources is not None and not sources.matches(source):
                return f"may not knock from {source}"
        if asked not in (None, source) and not (options.addresses is not None and options.addresses.matches(asked)):
            return f"may not request an opening for {asked}"
        return ""

    def presence_rejection(self, presence: Presence) -> str:
        """Return what the line requires of a security key and this signature lacks; "" if nothing."""
        if self.options.touch_required and not presence.touched:
            return "signed without touching the security key; touch it, or add no-touch-required to its line"
        if self.options.verify_required and not presence.verified:
            return "signed without PIN or fingerprint, but its line has verify-required"
        return ""

    def granted_ms(self, wanted_s: int | None, door_ms: int) -> int:
        """Return the opening time in ms: as requested, at most `for-max`, which defaults to the door's own time."""
        limit_ms = door_ms if self.options.for_max_ms is None else self.options.for_max_ms
        return min(door_ms if wanted_s is None else wanted_s * 1000, limit_ms)


def printable_name(text: str) -> str:
    """Return an untrusted name as printable text of limited length, fit for logs."""
    clean = printable(text[: MAX_NAME + 1].strip())
    return clean if len(clean) <= MAX_NAME else clean[: MAX_NAME - 1] + "…"


def utc_text(seconds: float) -> str:
    """Return a time as text in UTC; out-of-range times are written in seconds."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"second {seconds:.0f} after 1970-01-01"
