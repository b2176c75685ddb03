"""What is measured: doorward's daemon and Debian's knockd, each on the server of a lab of its own."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from doorward.daemon.control_client import ask
from doorward.lab.topology import Lab
from doorward.model import Port

KNOCK = tuple(map(Port.parse, ("7000/tcp", "8000/udp", "9000/tcp")))
PATIENCE_S = 60.0


def doors_toml(count: int, mode: str, within: str = "15s", *, once: bool = False, shield: str = "off") -> str:
    """Return a configuration of `count` doors: the first is KNOCK, the others have sequences of their own."""
    others = range(1, count)
    doors = ["ssh", *(f"door{n}" for n in others)]
    knocks = [
        list(map(str, KNOCK)),
        *([f"{10000 + n % 50000}/tcp", f"{20000 + n % 40009}/udp", f"{30000 + n % 20011}/tcp"] for n in others),
    ]
    blocks = [
        f'[doors.{name}]\nknock = {json.dumps(knock)}\nopens = ["22/tcp"]\nwithin = "{within}"\n'
        f"once = {str(once).lower()}\n"
        for name, knock in zip(doors, knocks, strict=True)
    ]
    return f'[gate]\nmode = "{mode}"\nshield = "{shield}"\n\n' + "\n".join(blocks)


@contextmanager
def doorward(lab: Lab, configuration: str) -> Iterator[subprocess.Popen[str]]:
    """Run the daemon on the lab's server; it is ready inside."""
    with tempfile.TemporaryDirectory(prefix="doorward-bench-") as folder:
        Path(folder, "doorward.toml").write_text(configuration)
        with doorward_in(lab, Path(folder)) as daemon:
            if 'shield = "on"' in configuration:
                attached(Path(folder))
            yield daemon


def attached(folder: Path) -> None:
    """Wait until the shield of the daemon that keeps its files in `folder` is attached."""
    until_s = time.monotonic() + PATIENCE_S
    while not (shield := ask(folder / "control.sock", {"command": "status"})["shield"])["interfaces"]:
        if shield["trouble"] or time.monotonic() > until_s:
            raise RuntimeError(f"no shield: {shield}")
        time.sleep(0.01)


@contextmanager
def doorward_in(lab: Lab, folder: Path, ready_s: float = PATIENCE_S) -> Iterator[subprocess.Popen[str]]:
    """Run the daemon with what `folder` holds; it keeps its ledger and its socket there too."""
    names = ("CONFIGURATION_DIRECTORY", "RUNTIME_DIRECTORY", "STATE_DIRECTORY")
    env = dict.fromkeys(names, str(folder)) | {"NOTIFY_SOCKET": f"{folder}/notify"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, (folder / "log").open("w") as log:
        ready.bind(env["NOTIFY_SOCKET"])
        command = [sys.executable, "-m", "doorward", "run"]
        daemon = lab.server.popen(command, env=env, stdout=log, stderr=log)
        with os.fdopen(os.pidfd_open(daemon.pid)) as ended:
            first = select.select([ready.fileno(), ended.fileno()], [], [], ready_s)[0]
        if ready.fileno() not in first:
            raise RuntimeError(f"the daemon is not ready: {(folder / 'log').read_text()}")
    try:
        yield daemon
    finally:
        daemon.terminate()
        daemon.wait(PATIENCE_S)


@contextmanager
def knockd(lab: Lab) -> Iterator[subprocess.Popen[str]]:
    """Run Debian's knockd with one door beside a closed port 22; it captures inside."""
    lab.server.run(["iptables", "-w", "-A", "INPUT", "-p", "tcp", "--dport", "22", "-j", "DROP"])
    with tempfile.TemporaryDirectory(prefix="doorward-bench-") as folder:
        configuration, log = Path(folder, "knockd.conf"), Path(folder, "log")
        sequence = ",".join(f"{port.number}:{port.protocol.name.lower()}" for port in KNOCK)
        accept = "INPUT -s %IP% -p tcp --dport 22 -j ACCEPT"
        configuration.write_text(
            f"[options]\n LogFile = {log}\n Interface = {lab.server.interface}\n"
            f"[ssh]\n sequence = {sequence}\n seq_timeout = 15\n tcpflags = syn\n cmd_timeout = 30\n"
            f" start_command = /usr/sbin/iptables -w -I {accept}\n stop_command = /usr/sbin/iptables -w -D {accept}\n"
        )
        daemon = lab.server.popen(["/usr/sbin/knockd", "-c", configuration], stderr=subprocess.DEVNULL)
        until_s = time.monotonic() + PATIENCE_S
        while not (log.exists() and "listening" in log.read_text()):
            if time.monotonic() > until_s or daemon.poll() is not None:
                raise RuntimeError("knockd did not start")
            time.sleep(0.01)
        try:
            yield daemon
        finally:
            daemon.terminate()
            daemon.wait(PATIENCE_S)


def flood(
    lab: Lab, mode: str, ports: Sequence[int], *, seconds: float, cpu: int | None = 0, sources: int = 1_000_000
) -> subprocess.Popen[str]:
    """Start a flood from the lab's client to its server; `finished` gives its rate."""
    words = ["--interface", lab.client.interface, "--mac", lab.server.mac, "--destination", lab.server.ipv4]
    words += ["--mode", mode, "--ports", ",".join(map(str, ports)), "--seconds", seconds, "--sources", sources]
    pin = ["--cpu", cpu] if cpu is not None else []
    return lab.client.popen([sys.executable, "-m", "bench.flood", *words, *pin])


def finished(flooding: subprocess.Popen[str]) -> float:
    """Wait for a flood and give its packets a second: what the path let it send."""
    out, _ = flooding.communicate(timeout=PATIENCE_S + 60)
    return float(json.loads(out)["pps"])


def resident_mib(pid: int) -> float:
    """Return a process's resident memory, shared pages included."""
    [line] = [row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, in the kernel too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_s(pid: int) -> float:
    """Return the time that a process has run on a processor, to the nanosecond, its threads' too."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [pid]
    for each in found:  # it grows under way
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found
