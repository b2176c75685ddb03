"""The client's start: whole processes, from exec to exit, beside `python3 -c pass` by the same interpreter."""

from __future__ import annotations

import compileall
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.table import Bound, Row, alternate
from doorward.signed.server_key import X25519, generate_private_text, parse_private_key

RUNS = 20  # for each of the runs asked for: a process takes a few hundredths of a second
HOST = "127.0.0.1"
# The program as the Debian package has it; an entry point that pip writes imports `re` too.
PROGRAM = "import sys\n\nfrom doorward.cli.{} import main\n\nsys.exit(main())\n"
MOST = {"doorward knock, a sequence": 2.0, "knock, a sequence": 2.0, "doorward knock, signed with a key file": 6.0}


def rows(runs: int) -> list[Row]:
    """Measure wall time and processor time; the latter is what a machine with other work can tell."""
    with TemporaryDirectory(prefix="doorward-start-") as directory:
        commands = _commands(Path(directory))
        environment = {"PATH": os.environ["PATH"], "HOME": directory, "PYTHONPATH": f"{directory}/lib"}
        walls: dict[str, list[float]] = {name: [] for name in commands}

        def measure(name: str) -> Callable[[], float]:
            def once() -> float:
                began_s, used_s = time.perf_counter(), _children_s()
                subprocess.run([sys.executable, *commands[name]], env=environment, check=True)
                walls[name].append((time.perf_counter() - began_s) * 1000)
                return (_children_s() - used_s) * 1000

            return once

        used = alternate({name: measure(name) for name in commands}, runs * RUNS)
    table = []
    for what, times in (("wall time", walls), ("processor time", used)):
        bare = median(times["python3 -c pass"])
        table.append(Row(f"python3 -c pass, {what}", "ms", "lower", bare))
        for name, most in MOST.items():
            must = Bound("value", "<=", most)
            table.append(Row(f"{name}, {what}", "x python3", "lower", median(times[name]) / bare, None, must))
    return table


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _commands(directory: Path) -> dict[str, list[str]]:
    """Write the program with compiled modules, a key, and return what to run."""
    source = Path(__file__).parents[1] / "src" / "doorward"
    shutil.copytree(source, directory / "lib" / "doorward", ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(directory / "lib", quiet=2)
    for name, module in (("doorward", "main"), ("knock", "knockd_client")):
        (directory / name).write_text(PROGRAM.format(module))
    identity = str(directory / "id")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", identity], check=True)
    server_key = str(parse_private_key(generate_private_text(X25519)).public)
    doorward, knock = str(directory / "doorward"), str(directory / "knock")
    signed = ["--server-key", server_key, "--identity", identity]
    lines = [
        [doorward, "knock", HOST, "7000", "8000/udp", "--delay", "1ms"],
        [knock, "-d", "1", HOST, "7000", "8000:udp"],
        [doorward, "knock", HOST, "ssh", *signed],
    ]
    return {"python3 -c pass": ["-c", "pass"], **dict(zip(MOST, lines, strict=True))}
