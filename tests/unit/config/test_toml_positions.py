import time

import pytest

from doorward.config.toml_positions import Keys, find_lines, line_of

CASES: dict[str, tuple[str, dict[Keys, int]]] = {
    "nothing": ("", {}),
    "tables and keys": (
        "[a]\nb = 1\n\nc = 'x'\n[a.d]\ne = true",
        {("a",): 1, ("a", "b"): 2, ("a", "c"): 4, ("a", "d"): 5, ("a", "d", "e"): 6},
    ),
    "comments": ("# [no]\n[a] # [b]\nk = 1 # l = 2\n  # m = 3\n", {("a",): 2, ("a", "k"): 3}),
    "spaces": (" [ a . b ]\n\t c  =  1\n", {("a",): 1, ("a", "b"): 1, ("a", "b", "c"): 2}),
    "windows": ("[a]\r\nb = 1\r\nc = [\r\n2]\r\n", {("a",): 1, ("a", "b"): 2, ("a", "c"): 3, ("a", "c", "0"): 4}),
    "quoted and dotted keys": (
        '["a.b"]\n"c d".e = 1\n\'f"\' = 2\n"\\u0041" = 3\n',
        {("a.b",): 1, ("a.b", "c d"): 2, ("a.b", "c d", "e"): 2, ("a.b", 'f"'): 3, ("a.b", "A"): 4},
    ),
    "strings that look like more": ('a = \'b = 1\'\nc = "[d] # \\" x"\ne = 1\n', {("a",): 1, ("c",): 2, ("e",): 3}),
    "strings of many lines": (
        'a = """\nx = 1\n[y]\n\\""" """"\nb = \'\'\'\nz = 2\n\'\'\'\'\'\nc = 3\n',
        {("a",): 1, ("b",): 5, ("c",): 8},
    ),
    "a list on one line": ('a = ["1", "2"] # ]\nb = []\n', {("a",): 1, ("b",): 2}),
    "a list of many lines": (
        'a = [ # first\n "x", "]", # second\n\n 3,\n]\nb = 1\n',
        {("a",): 1, ("a", "0"): 2, ("a", "1"): 2, ("a", "2"): 4, ("b",): 6},
    ),
    "lists in lists": (
        "a = [\n[1],\n[\n2]\n]\nb = 1\n",
        {("a",): 1, ("a", "0"): 2, ("a", "0", "0"): 2, ("a", "1"): 3, ("a", "1", "0"): 4, ("b",): 6},
    ),
    "inline tables": (
        "a = {b = 1, c.d = [\n2]}\ne = 1\n",
        {("a",): 1, ("a", "b"): 1, ("a", "c"): 1, ("a", "c", "d"): 1, ("a", "c", "d", "0"): 2, ("e",): 3},
    ),
    "arrays of tables": (
        "[[a]]\nb = 1\n[a.c]\nd = 2\n[[a]]\nb = 3\n",
        {
            ("a",): 1,
            ("a", "0"): 1,
            ("a", "0", "b"): 2,
            ("a", "0", "c"): 3,
            ("a", "0", "c", "d"): 4,
            ("a", "1"): 5,
            ("a", "1", "b"): 6,
        },
    ),
    "dates": ("a = 1979-05-27T07:32:00.5\nb = 1979-05-27 07:32:00\nc = 1.5e3\n", {("a",): 1, ("b",): 2, ("c",): 3}),
}


@pytest.mark.parametrize(("text", "lines"), CASES.values(), ids=CASES)
def test_finds_lines(text: str, lines: dict[Keys, int]) -> None:
    assert find_lines(text) == lines


@pytest.mark.parametrize(
    ("path", "line"), [(("a", "b"), 2), (("a", "b", "0"), 2), (("a", "x"), 1), (("x",), 1), ((), 1)]
)
def test_falls_back_to_the_enclosing_line(path: Keys, line: int) -> None:
    assert line_of({("a",): 1, ("a", "b"): 2}, path) == line


@pytest.mark.parametrize(
    "opening", ['"', "'", '"""', "'''", "[", "{", "a = [", "a = {", "a.", "a = {a = [", '\\"', "]", "=", "\n="]
)
def test_scans_any_text_in_linear_time(opening: str) -> None:
    before_s = time.process_time()
    find_lines(opening * 20_000)
    assert time.process_time() - before_s < 5


def test_scans_twenty_thousand_doors_in_time() -> None:
    door = '[doors.d{}]\nknock = ["7000/tcp", "8000/udp"]\nwithin = "15s"\nopens = ["22/tcp"]\nfor = "30s"\n\n'
    text = "".join(map(door.format, range(20_000)))
    before_s = time.process_time()
    lines = find_lines(text)
    assert time.process_time() - before_s < 5  # 0.4 s on the machine that it was written on
    assert lines["doors", "d19999", "for"] == 20_000 * 6 - 1
