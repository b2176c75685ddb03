"""What nftables refuses, and what the operator can do about it. Pure."""

from __future__ import annotations

import errno

from doorward.errors import HostError

# What the kernel says of one entry alone: nothing else is wrong, and reading the sets back would not help.
_OF_ENTRIES = {
    errno.ENFILE: "the set of openings is full",
    errno.EEXIST: "it overlaps a network that is open",
    errno.ENOTEMPTY: "it overlaps a network that is open",
}


class NftError(HostError):
    """What nftables refused; `text` is its own words, `number` the kernel's errno, 0 where it is unknown."""

    def __init__(self, text: str, number: int = 0) -> None:
        self.text, self.number = text, number
        super().__init__(_explain(text))

    def __reduce__(self) -> tuple[type[NftError], tuple[str, int]]:
        return NftError, (self.text, self.number)

    @property
    def is_of_entries(self) -> bool:
        """Return whether only the new entries are at fault: a full set, or networks that overlap."""
        return self.number in _OF_ENTRIES

    @property
    def is_full(self) -> bool:
        """Return whether the set had no room."""
        return self.number == errno.ENFILE


def refused(error: OSError) -> NftError:
    """Return the error for what the kernel answered to entries."""
    number = error.errno or 0
    return NftError(f"Error: {_OF_ENTRIES.get(number) or error.strerror}", number)


def _explain(text: str) -> str:
    """Say what nft's refusal means, and what to do."""
    said = "; ".join(dict.fromkeys(line.split("Error: ", 1)[1] for line in text.splitlines() if "Error: " in line))
    if "Operation not permitted" in text:
        return "changing nftables needs CAP_NET_ADMIN; run doorward as root or give it that capability"
    if "Protocol not supported" in text or "Operation not supported" in text:
        return f"this kernel lacks nf_tables or a part of it that doorward needs (Linux 5.11 or newer): {said or text}"
    return f"nftables refused: {said or text.strip()}"
