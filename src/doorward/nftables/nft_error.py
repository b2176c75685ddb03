"""Errors of nftables, and their remedies. Pure."""

from __future__ import annotations

import errno

from doorward.errors import HostError

# Errors about one element: nothing else is wrong, and reading the sets back would not help.
_OF_ENTRIES = {
    errno.ENFILE: "the set of openings is full",
    errno.EEXIST: "it overlaps an open network",
    errno.ENOTEMPTY: "it overlaps an open network",
}


class NftError(HostError):
    """An error of nftables; `text` is its own message, `number` the kernel's errno, 0 if unknown."""

    def __init__(self, text: str, number: int = 0) -> None:
        self.text, self.number = text, number
        super().__init__(*_explain(text))

    def __reduce__(self) -> tuple[type[NftError], tuple[str, int]]:
        return NftError, (self.text, self.number)

    @property
    def is_of_entries(self) -> bool:
        """Return whether only the new elements are at fault: a full set, or overlapping networks."""
        return self.number in _OF_ENTRIES

    @property
    def is_full(self) -> bool:
        """Return whether the set had no room."""
        return self.number == errno.ENFILE


def element_error(error: OSError) -> NftError:
    """Return the error for the kernel's answer to an element transaction."""
    number = error.errno or 0
    return NftError(f"Error: {_OF_ENTRIES.get(number) or error.strerror}", number)


def _explain(text: str) -> tuple[str, str]:
    """Return a code, what nft's message means, and what to do."""
    errors = "; ".join(dict.fromkeys(line.split("Error: ", 1)[1] for line in text.splitlines() if "Error: " in line))
    if "Operation not permitted" in text:
        return "no-net-admin", "changing nftables needs CAP_NET_ADMIN; run doorward as root or give it that capability"
    if "Protocol not supported" in text or "Operation not supported" in text:
        return (
            "no-nf-tables",
            f"this kernel lacks nf_tables or a part of it that doorward needs (Linux 5.11 or newer): {errors or text}",
        )
    return "nft-rejected", f"nftables rejected the change: {errors or text.strip()}"
