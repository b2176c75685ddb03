"""`python -m fuzz`: targets one after the other, each for a bounded time; or an input again (`--repeat`)."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from fuzz import TARGETS

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "fuzz" / "corpus"
FOUND = ROOT / "build" / "fuzz"  # git knows to ignore it
IN_MEMORY = Path("/dev/shm")  # noqa: S108 - the ledger's targets make thousands of files
SECONDS = 60
HANGS_SECONDS = 10  # one input; the parsers answer in milliseconds
MEMORY_MB = 2048
LONGEST_BYTES = 16_384
WRITTEN = "Test unit written to "  # libFuzzer tells so


def fuzz(target: str, seconds: int) -> Path | None:
    """Look for an input that breaks a target; give it, or None."""
    grown, found = FOUND / target, FOUND / "found" / target
    grown.mkdir(parents=True, exist_ok=True)
    found.mkdir(parents=True, exist_ok=True)
    environment = os.environ | ({"TMPDIR": str(IN_MEMORY)} if IN_MEMORY.is_dir() else {})
    command = [
        *(sys.executable, "-m", "fuzz.engine", target),
        *(str(grown), str(CORPUS / target)),  # what is new and worth keeping goes to the first
        f"-max_total_time={seconds}",
        f"-timeout={HANGS_SECONDS}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-max_len={LONGEST_BYTES}",
        f"-artifact_prefix={found}/",
        "-print_final_stats=1",
    ]
    log = FOUND / f"{target}.log"
    with log.open("w") as output:
        status = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, check=False
        ).returncode
    lines = log.read_text(errors="replace").splitlines()
    runs = next((line.rpartition(" ")[2] for line in lines if "number_of_executed_units" in line), "0")
    print(f"{target}: {runs} inputs in {seconds} s, {'nothing found' if status == 0 else 'BROKEN'}", flush=True)
    if status == 0:
        return None
    print("\n".join(lines[-40:]))
    return next((Path(line.rpartition(WRITTEN)[2]) for line in lines if WRITTEN in line), log)


def main() -> int:
    """Run what the words say; 1 where something was found."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("targets", metavar="TARGET", nargs="*", help=f"default: all, {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"for each target (default: {SECONDS})")
    parser.add_argument("--repeat", metavar="FILE", type=Path, help="give this input to the target, without atheris")
    args = parser.parse_args()
    targets = args.targets or TARGETS
    if unknown := set(targets) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if args.repeat is not None:
        for target in targets:
            import_module(f"fuzz.{target}").one(args.repeat.read_bytes())
        return 0
    found = {target: path for target in targets if (path := fuzz(target, args.seconds)) is not None}
    for target, path in found.items():
        print(f"{target} breaks on {path}\n  again: scripts/fuzz {target} --repeat {path}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
