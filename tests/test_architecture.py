"""Imports point inward, the middle is pure, and files and functions stay small."""

from __future__ import annotations

import ast
import statistics
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "doorward"
FILES = sorted(SOURCE.rglob("*.py"))
IMPURE = {
    "ctypes", "fcntl", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "selectors",
    "shutil", "signal", "socket", "sqlite3", "subprocess", "sys", "tempfile", "threading", "time",
}  # fmt: skip
PURE_PACKAGES = {"core", "explain", "fwknop", "importer", "lint", "packets", "page", "report", "signed"}
IMPURE_FILES = {  # of packages that are pure otherwise
    "config": {"files.py"},
    "doctor": {"fix.py", "host_state.py", "network.py", "replica.py", "rulesets.py", "trace.py"},
    "verify": {"nmap.py"},
}
PURE = [
    *(path for path in FILES if path.parent.name in PURE_PACKAGES),
    *(path for path in FILES if path.name not in IMPURE_FILES.get(path.parent.name, {path.name})),
    *(SOURCE / "nftables" / name for name in ("automaton_chains.py", "chains.py", "fake.py", "maps.py")),
    *(SOURCE / "nftables" / name for name in ("nft_error.py", "ruleset.py")),
    *(SOURCE / "fleet" / name for name in ("admission.py", "etcd_codec.py", "etcd_records.py")),
    *(SOURCE / "fleet" / name for name in ("protocol.py", "state.py")),
    *(SOURCE / "shield" / name for name in ("report.py", "tables.py")),
    *(SOURCE / "init" / name for name in ("client_setup.py", "config_writer.py", "random_sequence.py")),
    *(SOURCE / "kernel" / name for name in ("bpf.py", "seccomp.py")),
    SOURCE / "client" / "hold.py",
    SOURCE / "daemon" / "fwknop_users.py",
    SOURCE / "daemon" / "hook_commands.py",
    SOURCE / "daemon" / "verifier_report.py",
    SOURCE / "knockd" / "stages.py",
    SOURCE / "watch" / "view.py",
    SOURCE / "escape.py",
    SOURCE / "json_form.py",
    SOURCE / "model.py",
    SOURCE / "named_tuple.py",
    SOURCE / "port.py",
]  # fmt: skip
# What may be written to a terminal without `visible`: text of doorward's own, or of the call itself.
UNESCAPED = {
    ("cli/compile.py", "compile_configuration(configuration, memory_bytes()).full_text()"),
    ("cli/completion.py", "(f'{name}\\n' for name in NAMES[args.what]())"),
    ("cli/completion.py", "script(args.what)"),
    ("cli/knockd_client.py", "request.err"),
    ("cli/knockd_client.py", "request.out"),
    ("cli/knockd_client.py", "f'knock: {error}\\n'"),
    ("cli/knockd_client.py", "f'hitting {port.protocol.name.lower()} {_address_text(target)}:{numbers[index - 1]}\\n'"),
    ("cli/knockd.py", "USAGE"),
    ("cli/knockd.py", "f'knockd 0.8 (doorward {__version__})\\n'"),
    ("cli/knockd.py", "f'knockd: {error.msg}\\n'"),
    ("cli/main.py", "overview()"),
    ("cli/main.py", "f'doorward {__version__}\\n'"),
    ("cli/main.py", "f'doorward: unknown command {word!r}; {hint}\\n'"),
    ("cli/output.py", "text + '\\n'"),  # `colored_line`
    ("cli/report.py", "raw"),  # a page, or JSON
    ("cli/share.py", "_page(args, configuration, doors, path)"),
    ("cli/share.py", "files('doorward.page').joinpath('worker.js').read_text(encoding='utf-8')"),
    ("knockd/knockd_log.py", "f'warning: cannot open logfile: {error.strerror}\\n'"),
}
# Who may know whom: a module may import from its own rank and from the ranks before it.
RANKS = [
    {"errors", "escape", "json_form", "named_tuple"},
    {"model", "libraries", "port"},
    {"config", "fwknop", "packets", "signed"},
    {"core", "kernel", "lint", "importer"},
    {"nftables", "fleet", "shield"},
    {"daemon", "client"},
    {"knockd", "doctor", "verify", "explain", "watch", "report"},
    {"init", "page"},
    {"lab", "cli", "__main__"},
]
RANK = {name: number for number, names in enumerate(RANKS) for name in names}
MOST_LINES_A_FILE, MEDIAN_LINES_A_FILE = 400, 170
MOST_LINES_A_FUNCTION, MEDIAN_LINES_A_FUNCTION = 60, 10


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> frozenset[str]:
    return frozenset(_imports(tree_of(path)))


def _imports(tree: ast.Module) -> Iterator[str]:
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
    roots = {module.split(".")[0] for module in imports(path)}
    assert roots & IMPURE == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_inward(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for part in filter(None, map(part_of, imports(path))):
        if part in RANK:
            assert RANK[part] <= RANK[own], f"{own} imports {part}"


def test_no_modules_import_each_other() -> None:
    """Imports under TYPE_CHECKING and inside functions count too."""
    names = {module_name(path): path for path in FILES}
    graph = {name: {found for found in imports(path) if found in names} - {name} for name, path in names.items()}
    assert cycles(graph) == []


def test_the_clients_package_has_what_its_modules_import() -> None:
    """Imports inside functions count too."""
    lines = (SOURCE.parents[1] / "debian/doorward-client.install").read_text().splitlines()
    installed = [SOURCE / line.partition("dist-packages/doorward/")[2] for line in lines if "/doorward/" in line]
    files = {file for path in installed for file in (path, *path.rglob("*.py")) if file.suffix == ".py"}
    names = {module_name(path): path for path in FILES} | {"doorward": SOURCE / "__init__.py"}
    assert {names[found] for path in files for found in imports(path) if found in names} - files == set()


def module_name(path: Path) -> str:
    parts = ("doorward", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the sets of modules each of which reaches the others: what is left when leaves and roots are taken off."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        found, waiting = set[str](), [start]
        while waiting:
            for following in graph[waiting.pop()] - found:
                found.add(following)
                waiting.append(following)
        reached[start] = found
    together = {frozenset(b for b in reached[a] if a in reached[b]) for a in graph if a in reached[a]}
    return [sorted(each) for each in together]


def test_each_file_has_a_name_of_its_own() -> None:
    """In `cli` a file is named after its command."""
    names = Counter(path.name for path in FILES if path.parent.name != "cli" and not path.name.startswith("__"))
    assert [name for name, count in names.items() if count > 1] == []


def test_each_public_class_has_a_name_of_its_own() -> None:
    names = Counter(
        node.name
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


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
OF_BYTES = {
    "address_patterns.py",
    "automaton_chains.py",
    "authorize.py",
    "engine.py",
    "message.py",
    "ruleset.py",
    "sock_diag.py",
    "ssh_session.py",
    "verifier.py",
}
OF_TEXT = {"ip_address", "ip_interface", "ip_network"}


@pytest.mark.parametrize("part", ["daemon", "fleet", "kernel", "knockd", "nftables", "signed"])
def test_text_becomes_an_address_in_one_place(part: str) -> None:
    paths = [path for path in FILES if path.relative_to(SOURCE).parts[0] == part]
    readers = {path.name for path in paths if {f"ipaddress.{name}" for name in OF_TEXT} & set(imports(path))}
    assert paths
    assert readers <= OF_BYTES
