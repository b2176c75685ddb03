"""Read other firewalls' rulesets on the host as their own programs print them; load them into the copy and compare."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from doorward.doctor.frames import FAMILIES
from doorward.doctor.host import Base
from doorward.doctor.replica import UncheckedError, has_module
from doorward.doctor.rules import ForeignRuleset, differing, line_of
from doorward.errors import HostError
from doorward.kernel import netlink
from doorward.kernel.privileges import end_with_parent
from doorward.nftables.libnftables import NftFirewall
from doorward.nftables.nft_error import NftError
from doorward.nftables.ruleset import TABLE

_HANDLES, _JSON = 1 << 3, 1 << 4  # NFT_CTX_OUTPUT_*
_GET_CHAIN, _GET_RULE = (10 << 8 | number for number in (4, 7))  # NFNL_SUBSYS_NFTABLES, NFT_MSG_*
_FAMILIES = ("ip", "ip6", "inet", "netdev")  # arp and bridge see no packet to a port of this host
_IPTABLES = re.compile(r"table (ip6?) (filter|nat|mangle|raw|security) \{")
_SBIN = "/usr/sbin:/sbin"  # not in PATH after a plain `su`
_LEGACY = {"ip": "iptables-legacy", "ip6": "ip6tables-legacy"}
_NFT = {"ip": "iptables-nft", "ip6": "ip6tables-nft"}


def read() -> list[ForeignRuleset]:
    """Return the rulesets of this network namespace except doorward's own; HostError if that is not permitted."""
    nft = NftFirewall()
    listed = {
        (family, table): nft.run(f"list table {family} {table}", _HANDLES)
        for family, table in _tables(nft)
        if family in _FAMILIES and f"{family} {table}" != TABLE
    }
    families = {found[1] for text in listed.values() if (found := _IPTABLES.match(text)) and "hook" in text}
    saved: list[ForeignRuleset] = []
    for family in sorted(families):
        with suppress(UncheckedError):  # without that program nft prints them, or fails to load them
            saved += _saved(family, _NFT[family])
    by_iptables = {(found.family, found.table) for found in saved}
    own = [ForeignRuleset("nft", *key, text) for key, text in listed.items() if key not in by_iptables]
    legacy = [found for family in _legacy_families() for found in _saved(family, _LEGACY[family])]
    for one in legacy:
        if (one.family, one.table) in listed:
            raise UncheckedError(f"{one.name} and the table {one.family} {one.table} of nftables are both in use")
    return [*own, *saved, *legacy]


def _tables(nft: NftFirewall) -> Iterator[tuple[str, str]]:
    for item in json.loads(nft.run("list tables", _JSON))["nftables"]:
        if "table" in item:
            yield item["table"]["family"], item["table"]["name"]


def _legacy_families() -> Iterator[str]:
    """Yield the families that iptables-legacy is used for; running the program itself would load its modules."""
    for family, names in (("ip", "ip_tables_names"), ("ip6", "ip6_tables_names")):
        with suppress(OSError):
            if Path("/proc/thread-self/net", names).read_text().strip():
                yield family


def _saved(family: str, program: str) -> Iterator[ForeignRuleset]:
    """Run iptables-save and yield its tables, without those that other programs created."""
    text = _run(f"{program}-save", "")
    for part in re.findall(r"^\*.*?^COMMIT$", text, re.MULTILINE | re.DOTALL):
        yield ForeignRuleset(program, family, part.partition("\n")[0][1:].strip(), part + "\n")


def _run(program: str, text: str) -> str:
    path = shutil.which(program) or shutil.which(program, path=_SBIN)
    if path is None:
        raise UncheckedError(f"{program} is not installed; without it its rules cannot be read")
    done = subprocess.run(
        [path],
        input=text.encode(errors="surrogateescape"),
        capture_output=True,
        check=False,
        preexec_fn=lambda: end_with_parent(signal.SIGKILL),
    )
    if done.returncode:
        raise _RefusedError(done.stderr.decode(errors="replace"))
    return os.fsdecode(done.stdout)


class _RefusedError(HostError):
    """The message of a failed iptables program."""


Handles = dict[tuple[str, str, str], list[int]]


def handles() -> Handles:
    """Return the chains of nf_tables (family, table, name) with their rules' handles in order."""
    found: Handles = {}
    for kind, (table, chain, handle) in ((_GET_CHAIN, (1, 3, 2)), (_GET_RULE, (1, 2, 3))):
        with netlink.open_socket(netlink.NETFILTER, "nf_tables") as sock:
            for reply in netlink.dump(sock, netlink.message(kind, netlink.REQUEST | netlink.DUMP, bytes(4))):
                parts = netlink.attributes(reply.body[4:])
                of, name = (os.fsdecode(bytes(parts[each]).rstrip(b"\0")) for each in (table, chain))
                rules = found.setdefault((FAMILIES.get(reply.body[0], ""), of, name), [])
                if kind == _GET_RULE:
                    rules.append(int.from_bytes(parts[handle], "big"))
    return found


class Loaded:
    """The rulesets in the copy. `unchecked` lists those that could not be loaded, with the line that failed."""

    def __init__(self, rulesets: Iterable[ForeignRuleset], there: Handles) -> None:
        self._nft = NftFirewall()
        self.unchecked: list[str] = []
        self.rulesets = [one for one in rulesets if self._takes(one)]
        self._handles = handles()
        for one in [one for one in self.rulesets if not one.is_legacy]:
            if (chain := self._unlike(one, there)) is not None:
                self.unchecked.append(f"{one.name}, chain {chain}")
                self._leave_out(one)
        self.bases = dict(self._bases())
        self.has_rates = any(one.has_rates for one in self.rulesets)

    def again(self) -> None:
        """Reload the rulesets with rate limits, which resets the limits and the lists of recent packets."""
        limiting = [one for one in self.rulesets if one.has_rates]
        self.run("\n".join(f"delete table {one.family} {one.table}" for one in limiting))
        for one in limiting:
            self._load(one)

    def run(self, commands: str) -> None:
        """Run nft commands in the copy."""
        self._nft.run(commands)

    def rule(self, family: str, table: str, chain: str, handle: int) -> str:
        """Return the rule as the host's program prints it; for handle 0 the chain's policy."""
        ruleset = self.ruleset(family, table)
        if not handle:
            return f"{ruleset.name}, chain {chain}: its policy drops"
        try:
            place = self._handles[family, table, chain].index(handle)
            text = ruleset.chains[chain][place][1]
        except (KeyError, ValueError, IndexError):
            text = f"handle {handle}"
        return ruleset.rule(chain, text)

    def ruleset(self, family: str, table: str) -> ForeignRuleset:
        """Return the ruleset that has this table."""
        return next(one for one in self.rulesets if (one.family, one.table) == (family, table))

    def _takes(self, one: ForeignRuleset) -> bool:
        """Load a ruleset; return whether the copy equals the original."""
        try:
            self._load(one)
            there = self._listed(one) if one.owner == "nft" else self._saved_again(one)
        except (NftError, _RefusedError, UncheckedError) as error:
            said = error.text if isinstance(error, NftError) else str(error)
            self.unchecked.append(f"{one.name}: {line_of(one.text, said)}")
        else:
            other = differing(one, there)
            if other is None:
                return True
            self.unchecked.append(f"{one.name}: {other}")
        with suppress(NftError):
            self.run(f"delete table {one.family} {one.table}")
        return False

    def _unlike(self, one: ForeignRuleset, there: Handles) -> str | None:
        """Return a chain whose rule count differs from the host's, since iptables-save omits rules it does not know."""
        counts, others = (
            {chain: len(rules) for (*table, chain), rules in found.items() if table == [one.family, one.table]}
            for found in (there, self._handles)
        )
        return next((chain for chain, count in counts.items() if others.get(chain) != count), None)

    def _leave_out(self, one: ForeignRuleset) -> None:
        self.rulesets.remove(one)
        self.run(f"delete table {one.family} {one.table}")

    def _load(self, one: ForeignRuleset) -> None:
        if one.owner == "nft":
            file = os.memfd_create("ruleset")  # for a file nft reports the line of an error
            with os.fdopen(file, "wb") as written:
                written.write(one.text.encode(errors="surrogateescape"))
                written.flush()
                self.run(f'include "/proc/self/fd/{file}"')
            return
        for module in ("nft_compat", *(("nft_chain_nat",) if one.table == "nat" else ())):
            if not has_module(module):
                raise UncheckedError(f"the kernel module {module} is not loaded")
        _run(f"{_NFT[one.family]}-restore", one.text)

    def _listed(self, one: ForeignRuleset) -> str:
        return self._nft.run(f"list table {one.family} {one.table}", _HANDLES)

    def _saved_again(self, one: ForeignRuleset) -> str:
        saved = _saved(one.family, _NFT[one.family])
        return next((found.text for found in saved if found.table == one.table), "")

    def _bases(self) -> Iterator[tuple[tuple[str, str, str], Base]]:
        for item in json.loads(self._nft.run("list chains", _JSON))["nftables"]:
            chain = item.get("chain", {})
            if "hook" in chain:
                base = Base(chain["name"], chain["hook"], chain["prio"])
                yield (chain["family"], chain["table"], chain["name"]), base
