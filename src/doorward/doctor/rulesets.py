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
from doorward.doctor.host import BaseChain
from doorward.doctor.replica import UncheckedError, has_module
from doorward.doctor.rules import ForeignRuleset, first_difference, rejected_line
from doorward.errors import HostError
from doorward.kernel import netlink
from doorward.kernel.privileges import exit_with_parent
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


def read_rulesets() -> list[ForeignRuleset]:
    """Return the rulesets of this network namespace except doorward's own; HostError if that is not permitted."""
    nft = NftFirewall()
    listed = {
        (family, table): nft.run(f"list table {family} {table}", _HANDLES)
        for family, table in _tables(nft)
        if family in _FAMILIES and f"{family} {table}" != TABLE
    }
    families = {match[1] for text in listed.values() if (match := _IPTABLES.match(text)) and "hook" in text}
    saved: list[ForeignRuleset] = []
    for family in sorted(families):
        with suppress(UncheckedError):  # without that program nft prints them, or fails to load them
            saved += _run_save(family, _NFT[family])
    by_iptables = {(ruleset.family, ruleset.table) for ruleset in saved}
    own = [ForeignRuleset("nft", *key, text) for key, text in listed.items() if key not in by_iptables]
    legacy = [ruleset for family in _legacy_families() for ruleset in _run_save(family, _LEGACY[family])]
    for ruleset in legacy:
        if (ruleset.family, ruleset.table) in listed:
            raise UncheckedError(
                "two-rulesets",
                f"{ruleset.name} and the table {ruleset.family} {ruleset.table} of nftables are both in use",
            )
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


def _run_save(family: str, program: str) -> Iterator[ForeignRuleset]:
    """Run iptables-save and yield its tables, without those that other programs created."""
    text = _run(f"{program}-save", "")
    for part in re.findall(r"^\*.*?^COMMIT$", text, re.MULTILINE | re.DOTALL):
        yield ForeignRuleset(program, family, part.partition("\n")[0][1:].strip(), part + "\n")


def find_program(program: str) -> str:
    """Return the path of a program; UncheckedError if it is missing."""
    path = shutil.which(program) or shutil.which(program, path=_SBIN)
    if path is None:
        raise UncheckedError("missing-program", f"{program} is not installed; without it its rules cannot be read")
    return path


def _run(program: str, text: str) -> str:
    done = subprocess.run(
        [find_program(program)],
        input=text.encode(errors="surrogateescape"),
        capture_output=True,
        check=False,
        preexec_fn=lambda: exit_with_parent(signal.SIGKILL),
    )
    if done.returncode:
        raise _ProgramError("program-failed", done.stderr.decode(errors="replace"))
    return os.fsdecode(done.stdout)


class _ProgramError(HostError):
    """The message of a failed iptables program."""


Handles = dict[tuple[str, str, str], list[int]]


def read_handles() -> Handles:
    """Return the chains of nf_tables (family, table, name) with their rules' handles in order."""
    handles: Handles = {}
    for request_type, (table, chain, handle) in ((_GET_CHAIN, (1, 3, 2)), (_GET_RULE, (1, 2, 3))):
        with netlink.open_socket(netlink.NETFILTER, "nf_tables") as sock:
            for reply in netlink.dump(sock, netlink.message(request_type, netlink.REQUEST | netlink.DUMP, bytes(4))):
                parts = netlink.attributes(reply.body[4:])
                table_name, name = (os.fsdecode(bytes(parts[attribute]).rstrip(b"\0")) for attribute in (table, chain))
                rules = handles.setdefault((FAMILIES.get(reply.body[0], ""), table_name, name), [])
                if request_type == _GET_RULE:
                    rules.append(int.from_bytes(parts[handle], "big"))
    return handles


class LoadedRulesets:
    """The rulesets in the copy. `unchecked` lists those that could not be loaded, with the line that failed."""

    def __init__(self, rulesets: Iterable[ForeignRuleset], host_handles: Handles) -> None:
        self._nft = NftFirewall()
        self.unchecked: list[str] = []
        self.rulesets = [ruleset for ruleset in rulesets if self._try_load(ruleset)]
        self._handles = read_handles()
        for ruleset in [ruleset for ruleset in self.rulesets if not ruleset.is_legacy]:
            if (chain := self._differing_chain(ruleset, host_handles)) is not None:
                self.unchecked.append(f"{ruleset.name}, chain {chain}")
                self._unload(ruleset)
        self.bases = dict(self._bases())
        self.has_rates = any(ruleset.has_rates for ruleset in self.rulesets)

    def reset_limits(self) -> None:
        """Reload the rulesets with rate limits, which resets the limits and the lists of recent packets."""
        limiting = [ruleset for ruleset in self.rulesets if ruleset.has_rates]
        self.run("\n".join(f"delete table {ruleset.family} {ruleset.table}" for ruleset in limiting))
        for ruleset in limiting:
            self._load(ruleset)

    def run(self, commands: str) -> None:
        """Run nft commands in the copy."""
        self._nft.run(commands)

    def describe_rule(self, family: str, table: str, chain: str, handle: int) -> str:
        """Return the rule as the host's program prints it; for handle 0 the chain's policy."""
        ruleset = self.ruleset(family, table)
        if not handle:
            return f"{ruleset.name}, chain {chain}: its policy drops"
        try:
            place = self._handles[family, table, chain].index(handle)
            text = ruleset.chains[chain][place][1]
        except (KeyError, ValueError, IndexError):
            text = f"handle {handle}"
        return ruleset.describe_rule(chain, text)

    def ruleset(self, family: str, table: str) -> ForeignRuleset:
        """Return the ruleset that has this table."""
        return next(ruleset for ruleset in self.rulesets if (ruleset.family, ruleset.table) == (family, table))

    def _try_load(self, ruleset: ForeignRuleset) -> bool:
        """Load a ruleset; return whether the copy equals the original."""
        try:
            self._load(ruleset)
            copy = self._list_table(ruleset) if ruleset.owner == "nft" else self._save_table(ruleset)
        except (NftError, _ProgramError, UncheckedError) as error:
            message = error.text if isinstance(error, NftError) else str(error)
            self.unchecked.append(f"{ruleset.name}: {rejected_line(ruleset.text, message)}")
        else:
            line = first_difference(ruleset, copy)
            if line is None:
                return True
            self.unchecked.append(f"{ruleset.name}: {line}")
        with suppress(NftError):
            self.run(f"delete table {ruleset.family} {ruleset.table}")
        return False

    def _differing_chain(self, ruleset: ForeignRuleset, host_handles: Handles) -> str | None:
        """Return a chain whose rule count differs from the host's, since iptables-save omits rules it does not know."""
        counts, others = (
            {chain: len(rules) for (*table, chain), rules in found.items() if table == [ruleset.family, ruleset.table]}
            for found in (host_handles, self._handles)
        )
        return next((chain for chain, count in counts.items() if others.get(chain) != count), None)

    def _unload(self, ruleset: ForeignRuleset) -> None:
        self.rulesets.remove(ruleset)
        self.run(f"delete table {ruleset.family} {ruleset.table}")

    def _load(self, ruleset: ForeignRuleset) -> None:
        if ruleset.owner == "nft":
            file = os.memfd_create("ruleset")  # for a file nft reports the line of an error
            with os.fdopen(file, "wb") as written:
                written.write(ruleset.text.encode(errors="surrogateescape"))
                written.flush()
                self.run(f'include "/proc/self/fd/{file}"')
            return
        for module in ("nft_compat", *(("nft_chain_nat",) if ruleset.table == "nat" else ())):
            if not has_module(module):
                raise UncheckedError("module-missing", f"the kernel module {module} is not loaded")
        _run(f"{_NFT[ruleset.family]}-restore", ruleset.text)

    def _list_table(self, ruleset: ForeignRuleset) -> str:
        return self._nft.run(f"list table {ruleset.family} {ruleset.table}", _HANDLES)

    def _save_table(self, ruleset: ForeignRuleset) -> str:
        saved = _run_save(ruleset.family, _NFT[ruleset.family])
        return next((found.text for found in saved if found.table == ruleset.table), "")

    def _bases(self) -> Iterator[tuple[tuple[str, str, str], BaseChain]]:
        for item in json.loads(self._nft.run("list chains", _JSON))["nftables"]:
            chain = item.get("chain", {})
            if "hook" in chain:
                base = BaseChain(chain["name"], chain["hook"], chain["prio"])
                yield (chain["family"], chain["table"], chain["name"]), base
