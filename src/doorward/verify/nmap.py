"""Run nmap on the ports of one address."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import IO, NamedTuple

from doorward.errors import HostError, MalformedError
from doorward.escape import printable
from doorward.model import Address, Port, Protocol
from doorward.verify.nmap_xml import NmapReader, PortResult
from doorward.verify.port_set import Ports, count_text, port_numbers, port_ranges

# A SYN takes 74 bytes on the wire, so this is below 2 Mbit/s, which nearly every link carries.
DEFAULT_RATE = 3000
CHUNK_BYTES = 1 << 16
MAX_ERROR_BYTES = 2000  # the end of nmap's error output
COMMON = ("nmap", "-n", "-Pn", "-T4", "--stats-every", "1s", "-oX", "-")  # -T4: initially waits 0.5 s for an answer

Progress = Callable[[float], object]  # called with 0 to 100, about once per second


class Scanner(NamedTuple):
    """The scanner of one address; `rate` is in TCP packets per second."""

    address: Address
    rate: int
    progress: Progress

    def scan(self, ports: Ports) -> dict[Port, PortResult]:
        """Scan every port, TCP and then UDP. HostError: nmap is missing or failed, or there is no such host."""
        seen: dict[Port, PortResult] = {}
        for protocol in Protocol:
            if numbers := port_numbers(ports, protocol):
                seen |= _scan(self.argv(protocol, numbers), self)
        if missing := ports - seen.keys():
            raise HostError("incomplete-scan", f"nmap reported nothing about {count_text(missing)}; run it again")
        return {port: seen[port] for port in ports}

    def argv(self, protocol: Protocol, numbers: list[int]) -> list[str]:
        """Return nmap's command line. A silent port is probed twice, since a packet may get lost."""
        version = ["-6"] if self.address.version == 6 else []
        if protocol is Protocol.UDP:
            # At nmap's own speed: hosts rate-limit their answers, and missing ones would look like silence.
            scan_type = ["-sU"]
        else:
            rate = str(self.rate)
            kind = "-sS" if may_send_raw() else "-sT"
            scan_type = [kind, "--max-retries", "1", "--min-rate", rate, "--max-rate", rate]
        return [*COMMON, *version, *scan_type, "-p", ",".join(port_ranges(numbers)), str(self.address)]


def may_send_raw() -> bool:
    """Return whether nmap may send raw packets, as SYN scans and all UDP scans need."""
    return os.geteuid() == 0 or "NMAP_PRIVILEGED" in os.environ  # nmap's own variable, for file capabilities


def _scan(argv: list[str], scanner: Scanner) -> dict[Port, PortResult]:
    with tempfile.TemporaryFile() as errors:
        try:
            nmap = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
        except FileNotFoundError:
            raise HostError("no-nmap", "the program `nmap` is missing; run `apt install nmap`") from None
        try:
            reader = NmapReader()
            assert nmap.stdout is not None  # noqa: S101 - a pipe, as requested
            while raw := os.read(nmap.stdout.fileno(), CHUNK_BYTES):
                reader.feed(raw)
                scanner.progress(reader.percent)
            status = nmap.wait()
        except MalformedError as error:
            raise HostError(error.code, str(error)) from None
        finally:
            with suppress(ProcessLookupError):
                nmap.kill()
            nmap.communicate()
        return _check_result(reader, status, errors, scanner.address)


def _check_result(reader: NmapReader, status: int, errors: IO[bytes], address: Address) -> dict[Port, PortResult]:
    if status:
        raise HostError("nmap-failed", f"nmap failed with status {status}: {_last_line(errors)}")
    try:
        result = reader.result()
    except MalformedError as error:
        raise HostError(error.code, f"{error} ({_last_line(errors)})") from None
    if not result.is_up:
        raise HostError(
            "no-such-host", f"{address}: no such host on this network (nothing answers for it); check the address"
        )
    return result.seen


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - MAX_ERROR_BYTES))
    text = errors.read().decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip() and line != "QUITTING!"]
    return printable(lines[-1]) if lines else "no reason given"
