"""Find interfaces and programs that this host lacks, ports that it uses, and unknown placeholders. Pure.

None of these keeps the daemon from starting: an interface may appear later, and a hook fails only when it runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from doorward.config.schema import ADDRESS_PLACEHOLDER, REASON_PLACEHOLDER, Configuration
from doorward.config.toml_positions import Keys, line_of
from doorward.lint.finding import Finding, LocatedFinding
from doorward.model import Port

# Letters, as in %IP% or %ip%; not `date +%H%M%S`, and not the bytes of a URL, as in %C3%A4.
_PLACEHOLDER = re.compile(r"%(?![0-9A-Fa-f]{2}%)[A-Za-z][A-Za-z_]+%")


class HostFacts(NamedTuple):
    """The interfaces of this host, the faults of hook programs by their name in the file, and signed ports in use."""

    interfaces: frozenset[str]
    programs: Mapping[str, str]
    bound: frozenset[Port] = frozenset()


class Hook(NamedTuple):
    """A command of the configuration: its path of keys, its words, and the placeholders that are replaced in it."""

    path: Keys
    words: tuple[str, ...]
    placeholders: tuple[str, ...]


def hooks(configuration: Configuration) -> Iterator[Hook]:
    """Yield the commands of a configuration."""
    for door in configuration.doors:
        for key, words in (("on_open", door.on_open), ("on_close", door.on_close)):
            if words:
                yield Hook(("doors", door.name, key), words, (ADDRESS_PLACEHOLDER,))
    if configuration.gate.on_refuse:
        yield Hook(("gate", "on_refuse"), configuration.gate.on_refuse, (ADDRESS_PLACEHOLDER, REASON_PLACEHOLDER))


def host_findings(configuration: Configuration, lines: Mapping[Keys, int], host: HostFacts) -> list[Finding]:
    """Return the warnings (`lines` is `find_lines` of the same text)."""
    findings = [
        *_interfaces(configuration, host),
        *_programs(configuration, host),
        *_placeholders(configuration),
        *_bound_ports(configuration, host),
    ]
    return [Finding(item.code, item.level, line_of(lines, item.path), item.what, item.remedy) for item in findings]


def _interfaces(configuration: Configuration, host: HostFacts) -> Iterator[LocatedFinding]:
    for index, name in enumerate(configuration.gate.interfaces):
        exists = (
            any(item.startswith(name[:-1]) for item in host.interfaces)
            if name.endswith("*")
            else name in host.interfaces
        )
        if not exists:
            what = f"this host has no interface {name!r}: nothing is watched there"
            remedy = "write a name that `ip link` shows, unless this one appears later"
            yield LocatedFinding("unknown-interface", "warning", ("gate", "interfaces", str(index)), what, remedy)


def _programs(configuration: Configuration, host: HostFacts) -> Iterator[LocatedFinding]:
    for hook in hooks(configuration):
        if trouble := host.programs.get(hook.words[0]):
            what = f"{hook.path[-1]}: {hook.words[0]} {trouble}, so the command will fail"
            yield LocatedFinding(
                "unusable-program", "warning", hook.path, what, "install it and make it executable, or correct its path"
            )


def _placeholders(configuration: Configuration) -> Iterator[LocatedFinding]:
    for hook in hooks(configuration):
        for word in dict.fromkeys(_PLACEHOLDER.findall(" ".join(hook.words))):
            if word in hook.placeholders:
                continue
            placeholder = next((item for item in hook.placeholders if item == word.upper()), None)
            remedy = f"write {placeholder}" if placeholder else f"write {' or '.join(hook.placeholders)}, or remove it"
            what = f"{hook.path[-1]}: unknown placeholder {word}: the command gets it unchanged"
            yield LocatedFinding("unknown-placeholder", "warning", hook.path, what, remedy)


def _bound_ports(configuration: Configuration, host: HostFacts) -> Iterator[LocatedFinding]:
    """Yield a warning for each signed port in use; with `confirm` it is an error (daemon/requirements.py)."""
    for index, port in enumerate(() if configuration.confirming_ports else configuration.signed_ports):
        if port in host.bound:
            what = f"a service is bound to {port}, where it receives nothing: that port is for signed knocks"
            yield LocatedFinding(
                "signed-port-bound",
                "warning",
                ("signed", "port", str(index)),
                what,
                "use another port for signed knocks, or stop that service",
            )
