"""`doorward lab`."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from doorward.cli import output
from doorward.errors import HostError, UsageError
from doorward.lab.demo import Demo
from doorward.lab.topology import Lab, remove

EXAMPLE = """\
  # doorward lab
  …
  9. The access log shows who got in, and who tried.
  …
  # doorward lab --keep
  …
  The hosts, the daemon and the greeter keep running.
  …
  # doorward lab --remove doorward-4711-0a1b2c
needs root, nftables, iproute2 and nmap; touches nothing outside its namespaces"""
_PROGRAMS = {"ip": "iproute2", "nmap": "nmap"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command-line arguments."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--keep", action="store_true", help="leave the hosts running, and print how to enter them")
    which.add_argument("--remove", metavar="NAME", help="remove a lab that --keep left")


def run(args: argparse.Namespace) -> int:
    """Run the demo, or remove the lab of an earlier run."""
    if args.remove:
        return _remove(args.remove)
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            raise HostError("missing-program", f"the program {program!r} is missing; install the package {package}")
    lab = Lab()
    directory = Path(tempfile.gettempdir()) / lab.name
    done = False
    try:
        with lab:
            directory.mkdir(mode=0o700)
            Demo(lab, directory).run()
            done = True
            if args.keep:
                lab.keep()
                _print_enter_commands(lab, directory)
    finally:
        if not (done and args.keep):
            shutil.rmtree(directory, ignore_errors=True)
    return 0


def _print_enter_commands(lab: Lab, directory: Path) -> None:
    environment = Demo.environment(directory)
    words = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    output.line("", "The hosts, the daemon and the greeter keep running.")
    for host in lab.hosts:
        role = host.namespace.rpartition("-")[2]
        output.line(
            f"  {role:<9} ip netns exec {host.namespace} env {words} PATH={Path(sys.executable).parent}:$PATH bash"
        )
    output.line(f"  remove    {sys.argv[0] if os.sep in sys.argv[0] else 'doorward'} lab --remove {lab.name}")


def _remove(name: str) -> int:
    if not remove(name):
        raise UsageError("unknown-lab", f"no lab is named {name!r}; `ip netns list` shows those that exist")
    shutil.rmtree(Path(tempfile.gettempdir()) / name, ignore_errors=True)
    return 0
