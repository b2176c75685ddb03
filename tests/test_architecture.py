"""Imports point inward, the middle is pure, and files and functions stay small."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "doorward"
FILES = sorted(SOURCE.rglob("*.py"))
IMPURE = {
    "ctypes", "fcntl", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "selectors",
    "shutil", "signal", "socket", "sqlite3", "subprocess", "sys", "tempfile", "threading", "time",
}  # fmt: skip
PURE = [
    *(SOURCE / "automaton").glob("*.py"),
    *(path for path in (SOURCE / "config").glob("*.py") if path.name != "files.py"),
    *(SOURCE / "gate" / name for name in ("chains.py", "memory.py", "plan.py", "refusal.py", "ruleset.py")),
    SOURCE / "gate" / "tables.py",
    *(SOURCE / "daemon" / name for name in ("book.py", "bucket.py", "fights.py", "reconcile.py", "seccomp.py")),
    *(SOURCE / "capture" / name for name in ("packet.py", "bpf.py", "flow.py", "link_headers.py")),
    *(SOURCE / "capture" / name for name in ("pcap.py", "pcapng.py", "stream.py")),
    *(SOURCE / "explain").glob("*.py"),
    *(SOURCE / "signed").glob("*.py"),
    *(SOURCE / "knockd" / name for name in ("attempts.py", "doors.py", "stages.py")),
    *(
        SOURCE / "doctor" / name
        for name in ("bypasses.py", "finding.py", "firewalls.py", "frames.py", "host.py", "lockout.py")
    ),
    *(SOURCE / "doctor" / name for name in ("probes.py", "remedies.py", "rules.py", "running.py")),
    *(SOURCE / "fleet" / name for name in ("admission.py", "forms.py", "openings.py", "records.py", "talk.py")),
    *(SOURCE / "diag" / name for name in ("course.py", "drawing.py", "grid.py", "nmap_report.py", "port_list.py")),
    *(SOURCE / "diag" / name for name in ("automaton_picture.py", "svg.py", "verify.py", "verify_text.py")),
    *(SOURCE / "report").glob("*.py"),
    *(SOURCE / "setup" / name for name in ("choosing.py", "planning.py", "sharing.py")),
    SOURCE / "daemon" / "commands.py",
    SOURCE / "daemon" / "numbers.py",
    SOURCE / "watch" / "view.py",
    SOURCE / "daemon" / "seccomp.py",
    SOURCE / "escape.py",
    SOURCE / "model.py",
]
# What may be written to a terminal without `visible`: text of doorward's own, or of the call itself.
UNESCAPED = {
    ("cli/compile.py", "compile_configuration(configuration, memory_bytes()).whole()"),
    ("cli/completion.py", "(f'{name}\\n' for name in NAMES[args.what]())"),
    ("cli/completion.py", "script(args.what)"),
    ("cli/knock_compat.py", "done.err"),
    ("cli/knock_compat.py", "done.out"),
    ("cli/knock_compat.py", "f'knock: {error}\\n'"),
    ("cli/knock_compat.py", "f'hitting {port.protocol.name.lower()} {_named(target)}:{numbers[place - 1]}\\n'"),
    ("cli/knockd.py", "USAGE"),
    ("cli/knockd.py", "f'knockd 0.8 (doorward {__version__})\\n'"),
    ("cli/knockd.py", "f'knockd: {error.msg}\\n'"),
    ("cli/main.py", "overview()"),
    ("cli/main.py", "f'doorward {__version__}\\n'"),
    ("cli/main.py", "f'doorward: {word!r} is no command; {hint}\\n'"),
    ("cli/render.py", "text + '\\n'"),  # `drawing`
    ("cli/report.py", "raw"),  # a page, or JSON
    ("knockd/output.py", "f'warning: cannot open logfile: {error.strerror}\\n'"),
}
# Who may know whom: a module may import from its own rank and from the ranks before it.
RANKS = [
    {"errors", "escape"},
    {"model", "netlink", "session", "durable", "libraries", "owner_rights"},
    {"config", "automaton", "signed"},
    {"gate", "capture", "seen", "ledger", "fleet"},
    {"daemon", "client"},
    {"knockd", "doctor", "diag", "explain", "watch", "metrics", "report"},
    {"setup"},
    {"lab_host", "lab_greeter", "lab_signals", "lab", "lab_story", "cli", "__main__"},
]
RANK = {name: number for number, names in enumerate(RANKS) for name in names}
MOST_LINES_A_FILE, MEDIAN_LINES_A_FILE = 400, 170
MOST_LINES_A_FUNCTION, MEDIAN_LINES_A_FUNCTION = 60, 10


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(module: str) -> str:
    return module.split(".")[1] if module.startswith("doorward.") else ""


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_middle_is_pure(path: Path) -> None:
    roots = {module.split(".")[0] for module in imports(tree_of(path))}
    assert roots & IMPURE == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_inward(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for part in filter(None, map(part_of, imports(tree_of(path)))):
        if part in RANK:
            assert RANK[part] <= RANK[own], f"{own} imports {part}"


def test_every_part_has_a_rank() -> None:
    parts = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert parts == set(RANK)


def test_files_stay_small() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in FILES}
    assert {str(path): n for path, n in lengths.items() if n > MOST_LINES_A_FILE} == {}
    assert statistics.median(lengths.values()) <= MEDIAN_LINES_A_FILE


def test_functions_stay_small() -> None:
    lengths = {
        f"{path.name}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: n for name, n in lengths.items() if n > MOST_LINES_A_FUNCTION} == {}
    assert statistics.median(lengths.values()) <= MEDIAN_LINES_A_FUNCTION


def test_what_reaches_a_terminal_is_made_visible() -> None:
    calls = [
        (str(path.relative_to(SOURCE)), ast.unparse(node.func), node.args[0])
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and node.args
    ]
    writes = {f"sys.{stream}.{method}" for stream in ("stdout", "stderr") for method in ("write", "writelines")}
    written = {
        (path, ast.unparse(text))
        for path, call, text in calls
        if call.replace(".buffer", "") in writes and not isinstance(text, ast.Constant)
    }
    raw = {(path, text) for path, text in written if "visible(" not in text}
    assert raw == UNESCAPED


def test_nothing_runs_a_shell() -> None:
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call):
                assert not any(keyword.arg == "shell" for keyword in node.keywords), path
                assert ast.unparse(node.func) not in {"os.system", "os.popen"}, path


# Addresses of packets come as bytes, which have no scope id; text is read by model.py alone, which takes none.
OF_BYTES = {"connections.py", "engine.py", "judge.py", "message.py", "places.py", "ruleset.py", "verifier.py"}
OF_TEXT = {"ip_address", "ip_interface", "ip_network"}


@pytest.mark.parametrize("part", ["daemon", "fleet", "gate", "knockd", "signed", "ledger.py"])
def test_text_becomes_an_address_in_one_place(part: str) -> None:
    paths = [path for path in FILES if path.relative_to(SOURCE).parts[0] == part]
    readers = {path.name for path in paths if {f"ipaddress.{name}" for name in OF_TEXT} & set(imports(tree_of(path)))}
    assert paths
    assert readers <= OF_BYTES
