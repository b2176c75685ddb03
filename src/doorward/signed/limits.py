"""Lines of authorized_keys that let their keys do more than most: worth knowing, or a warning. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from doorward.config.duration import UNITS_MS, format_duration
from doorward.config.finding import Finding
from doorward.config.strength import LONG_MS
from doorward.signed.authorized import AuthorizedKeys
from doorward.signed.key_lines import Line
from doorward.signed.key_options import ANY
from doorward.signed.places import Network

# A shorter prefix is no place any more, but a good part of the Internet.
SHORTEST_PREFIX = {4: 8, 6: 16}


def remarks(keys: AuthorizedKeys, doors: int) -> Iterator[Finding]:
    """Judge the lines of a file, for a configuration with so many doors."""
    if not keys.lines:
        what = "no line holds a key, so no signed knock opens anything"
        yield Finding("note", 1, what, "write a public key of who may knock, a line each", keys.file)
    for line in keys.lines:
        for what, remedy in _too_much(line):
            yield Finding("warning", line.number, f"key {line.name}: {what}", remedy, keys.file)
        if line.options.principals is not None and ANY in line.options.principals:
            what = f"key {line.name}: whomever this authority ever signs a certificate for may knock"
            remedy = 'that is what principals="*" says; write names to limit it'
            yield Finding("note", line.number, what, remedy, keys.file)
    yield from _every_door(keys, doors)


def _too_much(line: Line) -> Iterator[tuple[str, str]]:
    wide = _wide(line)
    if wide is not None:
        yield f"may open doors for all of {wide}, not only for where it is", "write the networks that it is used from"
    for_max_ms = line.options.for_max_ms
    if for_max_ms is not None and for_max_ms > LONG_MS:
        remedy = f'write for-max="{LONG_MS // UNITS_MS["h"]}h" or less; connections that stand go on after it'
        yield f"may keep doors open for {format_duration(for_max_ms)}", remedy


def _wide(line: Line) -> Network | None:
    meant = line.options.addresses.meant if line.options.addresses is not None else ()
    networks = (place for place in meant if isinstance(place, Network))
    return next((place for place in networks if place.prefixlen < SHORTEST_PREFIX[place.version]), None)


def _every_door(keys: AuthorizedKeys, doors: int) -> Iterator[Finding]:
    """Tell once of keys without `doors=`, where there is a choice of doors and more than one key."""
    free = [line for line in keys.lines if line.options.doors is None]
    if doors > 1 and len(keys.lines) > 1 and free:
        whose = f"key {free[0].name}" if len(free) == 1 else f"{len(free):,} keys"
        what = f"{whose} may open every door, of {doors:,}"
        yield Finding("note", free[0].number, what, 'to limit a key, write doors="…" before it', keys.file)
