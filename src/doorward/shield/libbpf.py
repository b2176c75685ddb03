"""Load shield.bpf.o through libbpf (libbpf1 1.0 or newer), by ctypes, and fill its maps."""

from __future__ import annotations

import ctypes
import os
import secrets
import struct
import time
from array import array
from collections.abc import Collection, Mapping
from enum import IntEnum
from functools import cache
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from doorward.errors import HostError
from doorward.shield.report import COUNTERS
from doorward.shield.tables import PORTS, UDP_PORTS, ShieldTables, packed_address

# Compiled when the package is built. The kernel loads the first where it may ask conntrack.
ASKING, PLAIN = (Path(__file__).with_name(f"{name}.bpf.o") for name in ("shield_conntrack", "shield"))
OBJECTS = (ASKING, PLAIN)
SET_BYTES = 64
MAX_SOURCES_BYTES = 64 << 20  # 4.2 million sources
DEADLINE_S = 60
UDP_BUSY_S = 600  # at least so long after this host last sent from a UDP port, packets to it may be answers
_LOOPBACK = IPv6Address("::1").packed  # the kernel rejects packets to it from devices before the gate sees them
_OWN, _NONE = 4, IPv6Address("ff00::").packed  # as in config.h; no packet has the second
_SELDOM = b"\xfe\x80", b"\xff" * 12 + b"\x7f"  # link-local addresses, and 127.0.0.0/8
_LIBRARY = "libbpf.so.1"
_CONFIG, _SETTINGS = struct.Struct("<QQ11I64s4x"), struct.Struct("<Q5I4x64s")  # as in config.h


@cache
def library() -> Any:
    """Return libbpf. HostError: it is not installed."""
    try:
        found = ctypes.CDLL(_LIBRARY, use_errno=True)
    except OSError:
        raise HostError("no-libbpf", f"{_LIBRARY} is missing; install libbpf1 (apt install libbpf1)") from None
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, arguments in (
        ("libbpf_set_print", pointer, [pointer]),
        ("bpf_object__open_file", pointer, [text, pointer]),
        ("bpf_object__load", number, [pointer]),
        ("bpf_object__close", None, [pointer]),
        ("bpf_object__find_map_by_name", pointer, [pointer, text]),
        ("bpf_object__find_program_by_name", pointer, [pointer, text]),
        ("bpf_program__fd", number, [pointer]),
        ("bpf_program__set_autoload", number, [pointer, ctypes.c_bool]),
        ("bpf_map__fd", number, [pointer]),
        ("bpf_map__reuse_fd", number, [pointer, number]),
        ("bpf_map__set_max_entries", number, [pointer, ctypes.c_uint32]),
        ("bpf_map__initial_value", pointer, [pointer, ctypes.POINTER(ctypes.c_size_t)]),
        ("bpf_map_update_elem", number, [number, text, text, ctypes.c_uint64]),
        ("bpf_map_delete_elem", number, [number, text]),
        ("bpf_map_lookup_elem", number, [number, text, pointer]),
        ("bpf_map_update_batch", number, [number, text, text, ctypes.POINTER(ctypes.c_uint32), pointer]),
        ("bpf_link_create", number, [number, number, number, text]),
        ("bpf_link_update", number, [number, number, pointer]),
        ("bpf_prog_query", number, [number, number, ctypes.c_uint32, pointer, pointer, pointer]),
        ("bpf_obj_get_info_by_fd", number, [number, pointer, pointer]),
        ("libbpf_num_possible_cpus", number, []),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    found.libbpf_set_print(None)
    return found


def _checked(result: int | None, what: str) -> int:
    if result is None or result < 0:
        number = ctypes.get_errno()
        raise HostError("shield-not-loaded", f"{what}: {os.strerror(number)}; see doorward.toml(5), `shield`")
    return result


def source_sets(memory_bytes: int) -> int:
    """Return the number of sets of sources: a power of two, at most a 64th of the memory."""
    most = min(MAX_SOURCES_BYTES, memory_bytes // 64) // SET_BYTES
    return 1 << max(10, most.bit_length() - 1)


class Place(IntEnum):
    """Where a program is attached to an interface: the kernel's numbers (enum bpf_attach_type)."""

    XDP = 37
    INGRESS = 46
    EGRESS = 47


_NAMES = {Place.XDP: "shield_xdp", Place.INGRESS: "shield_ingress", Place.EGRESS: "shield_egress"}


class ShieldProgram:
    """The programs and their maps, loaded. The kernel frees them with the last descriptor.

    With `before`, counters, ports in use and, of the same automata, sources are those of an earlier program.
    `asks_conntrack`: it knows which packets are answers to this host; otherwise those to ports in use pass.
    `is_test`: it runs at the time `test_ms`, and hashes addresses the same each time.
    """

    is_test = False

    def __init__(self, tables: ShieldTables, sets: int, before: ShieldProgram | None = None) -> None:
        self.tables, self._targets = tables, frozenset(tables.targets)
        self._settings, self._bans, self._local = (0, 0, UDP_BUSY_S, True, False), set[bytes](), set[bytes]()
        is_same = before is not None and before.tables.digest == tables.digest
        drawn = bytes(range(16)) if self.is_test else secrets.token_bytes(16)
        self.seed: bytes = before.seed if before is not None and is_same else drawn
        for path in OBJECTS:
            self.asks_conntrack = path == ASKING
            if tables.needs_conntrack and not self.asks_conntrack:
                what = "doors have `flags` of established connections, and the kernel does not let it ask conntrack"
                raise HostError("shield-flags", f"{what}; leave out `flags`")
            self._object = _checked(library().bpf_object__open_file(str(path).encode(), None), str(path))
            try:
                if before is not None:
                    self._reuse(before, is_same=is_same)
                self._load(tables, sets)
                break
            except BaseException as error:
                self.close()
                if path == OBJECTS[-1] or not isinstance(error, HostError):
                    raise

    def _reuse(self, before: ShieldProgram, *, is_same: bool) -> None:
        for name in ("busy", "counters", "openings", *(["sources"] if is_same else [])):
            _checked(library().bpf_map__reuse_fd(self._map(name), before.map(name)), name)

    def _load(self, tables: ShieldTables, sets: int) -> None:
        edges, links = len(tables.edges) // 12, len(tables.links) // 8
        sizes = {"sources": sets, "ports": len(tables.machines) * PORTS, "edges": edges, "failure_links": links}
        for name, size in sizes.items():
            _checked(library().bpf_map__set_max_entries(self._map(name), max(size, 1)), name)
        masks = sets - 1, tables.state_mask, tables.token
        longest = max(within_ms for within_ms, _, _ in tables.machines)
        settings = (
            *(tables.root, longest, len(tables.machines), tables.known_only, tables.is_stealth, self.is_test),
            *(tables.open_s, tables.counted),
        )
        config = _CONFIG.pack(*struct.unpack("<QQ", self.seed), *masks, *settings, tables.machine_config())
        found = ctypes.c_size_t()
        where = library().bpf_map__initial_value(self._map(".rodata"), ctypes.byref(found))
        if found.value != len(config):
            raise HostError("shield-version", "the shield is of another version; install doorward again")
        ctypes.memmove(where, config, len(config))
        library().bpf_program__set_autoload(self._found(_NAMES[Place.XDP]), tables.wants_xdp)
        _checked(library().bpf_object__load(self._object), "the kernel does not load the shield")
        self._fill(tables)

    def _fill(self, tables: ShieldTables) -> None:
        for name, raw, key_words, value_words in (
            ("edges", tables.edges, 2, 1),
            ("failure_links", tables.links, 1, 1),
            ("ports", tables.ports, 1, 2),
        ):
            keys, values = _columns(raw, key_words, value_words)
            self._put(name, keys, values, len(values) // (4 * value_words))

    def expect_answers(self, ports: Collection[int] = range(UDP_PORTS)) -> None:
        """Treat UDP ports as in use, as if this host had sent from them a second ago: the next packet is looked up."""
        mark = int(time.monotonic()) << 1 | self.asks_conntrack
        indices = struct.pack(f"<{len(ports)}I", *(UDP_PORTS + port for port in ports))
        self._put("busy", indices, struct.pack("<I", mark) * len(ports), len(ports))

    def program(self, place: Place) -> int:
        """Return the descriptor of the program for a place; that for XDP is loaded only where it is wanted."""
        return _checked(library().bpf_program__fd(self._found(_NAMES[place])), _NAMES[place])

    def close(self) -> None:
        """Close the descriptors."""
        library().bpf_object__close(self._object)

    def set_local(self, address: bytes, *, is_local: bool) -> None:
        """Note whether an address, packed, is one of this host's. Packets to a door's `target` pass in any case."""
        key = packed_address(address)
        if is_local and key not in self._targets and key != _LOOPBACK:
            self._set("local", key, struct.pack("<I", 1))
            self._local.add(key)
        else:
            library().bpf_map_delete_elem(self.map("local"), key)
            self._local.discard(key)
        self._write_settings()

    def renew(
        self,
        until_ns: int,
        test_ms: int = 0,
        udp_busy_s: int = UDP_BUSY_S,
        *,
        drops: bool = True,
        forwards: bool = False,
    ) -> None:
        """Set the time, on CLOCK_MONOTONIC, from which on everything passes, and how long UDP ports are in use.

        `drops`: it drops packets that complete no knock; otherwise it leaves that to the gate, marked as counted.
        `forwards`: TCP packets that begin no connection pass.
        """
        self._settings = until_ns, test_ms, udp_busy_s, drops, forwards
        self._write_settings()

    def _write_settings(self) -> None:
        until_ns, test_ms, udp_busy_s, drops, forwards = self._settings
        own = sorted(self._local, key=lambda key: (key.startswith(_SELDOM), key))[:_OWN] + [_NONE] * _OWN
        packed = _SETTINGS.pack(until_ns, test_ms, udp_busy_s, bool(self._bans), drops, forwards, b"".join(own[:_OWN]))
        self._set(".bss", struct.pack("<I", 0), packed)

    def set_bans(self, ends_ns: Mapping[bytes, int]) -> None:
        """Set ends of bans (tables.parse_bans); knock packets of these sources do not count until then."""
        for key, end_ns in ends_ns.items():
            if end_ns:
                self._set("banned", key, struct.pack("<Q", end_ns))
                self._bans.add(key)
            else:
                library().bpf_map_delete_elem(self.map("banned"), key)
                self._bans.discard(key)
        self._write_settings()

    def counters(self) -> dict[str, int]:
        """Return the counters, which go on from those of an earlier program."""
        possible = _checked(library().libbpf_num_possible_cpus(), "the number of processors")
        values = ctypes.create_string_buffer(8 * possible)
        found = {}
        for index, name in enumerate(COUNTERS):
            library().bpf_map_lookup_elem(self.map("counters"), struct.pack("<I", index), values)
            found[name] = sum(struct.unpack(f"<{possible}Q", values.raw))
        return found

    def map(self, name: str) -> int:
        """Return the descriptor of a map."""
        return int(library().bpf_map__fd(self._map(name)))

    def _map(self, name: str) -> int:
        return _checked(library().bpf_object__find_map_by_name(self._object, name.encode()), name)

    def _found(self, name: str) -> int:
        return _checked(library().bpf_object__find_program_by_name(self._object, name.encode()), name)

    def _set(self, name: str, key: bytes, value: bytes) -> None:
        _checked(library().bpf_map_update_elem(self.map(name), key, value, 0), name)

    def _put(self, name: str, keys: bytes, values: bytes, count: int) -> None:
        if count:
            size = ctypes.c_uint32(count)
            _checked(library().bpf_map_update_batch(self.map(name), keys, values, ctypes.byref(size), None), name)


def _columns(records: bytes, key_words: int, value_words: int) -> tuple[bytes, bytes]:
    """Return the keys and the values of records that are 32-bit words, first those of the key."""
    size, words = key_words + value_words, memoryview(records).cast("I")

    def column(first: int, count: int) -> bytes:
        found = array("I", bytes(4 * count * (len(words) // size)))
        for word in range(count):
            memoryview(found)[word::count] = words[first + word :: size]
        return found.tobytes()

    return column(0, key_words), column(key_words, value_words)
