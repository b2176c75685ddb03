"""The documentation is true where a program can tell: configurations and command lines parse, links lead on."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward import __version__
from doorward.cli.main import COMMANDS, build_parser
from doorward.cli.main import parse as parse_words
from doorward.client.hosts import read_hosts
from doorward.config.toml import TABLES, parse
from doorward.errors import ConfigError
from tests.support.documents import PAGES, ROOT, Block, blocks, build_site, calls, name_of, without_blocks

TOML = [block for page in PAGES for block in blocks(page, "toml")]
OF_PARTS = {"no door is defined"}  # what may be said of a block that shows only a part of a file
LINK = re.compile(r"(?<!!)!?\[(?:[^][]|\[[^]]*\])*\]\(([^)\s]+)\)")
INLINE = re.compile(r"(?<!`)`doorward ([^`]+)`(?!`)")
README_LINES, PAGE_WORDS, MANUAL_WORDS = 120, 1200, 20_000
REFERENCE = (
    "docs/configuration.md",
    "docs/reference/",
    "docs/dev/",
)  # looked up, or for contributors
NOT_FOR_USERS = ("docs/dev/", "docs/reference/signed-knock.md")
NO_CALLS = {"COMMAND", "--version", "signed"}  # what else stands behind the name: `doorward signed knock 1` is a text


def faults_of(block: Block) -> list[str]:
    try:
        parse(block.text, str(block))
    except ConfigError as error:
        return [str(fault) for fault in error.faults if fault.what not in OF_PARTS]
    return []


@pytest.mark.parametrize("block", TOML, ids=str)
def test_a_configuration_parses(block: Block, tmp_path: Path) -> None:
    if tomllib.loads(block.text).keys() <= set(TABLES):
        assert faults_of(block) == []
    else:
        hosts = tmp_path / "hosts.toml"
        hosts.write_text(block.text)
        assert read_hosts(str(hosts))


def doorward_calls(line: str) -> Iterator[list[str]]:
    """Split a line as a shell does, and give the words behind each `doorward`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("&|;<>"):
            while words and words[0] in ("sudo", "ssh", "-t", "home"):
                words = words[1:]
            if words[:1] == ["doorward"] and words[1:]:  # the name alone is a file behind `>`
                yield words[1:]
            words = []
        else:
            words.append(word)


CALLS = [
    pytest.param(words, id=f"{name_of(page)}: {' '.join(words)}")
    for page in PAGES
    for language in ("console", "sh")
    for block in blocks(page, language)
    for call in calls(block)
    for words in doorward_calls(call.typed)
]


def status_of(words: list[str]) -> int | str | None:
    """Parse the words as the program does: None, or with what it would have ended."""
    try:
        parse_words(words[0], words[1:])
    except SystemExit as ended:
        return ended.code
    return None


@pytest.mark.parametrize("words", CALLS)
def test_a_command_line_parses(words: list[str]) -> None:
    if words[0] in NO_CALLS:
        return
    assert words[0] in COMMANDS
    assert status_of(words) == (0 if "--help" in words else None)


def test_there_are_command_lines_to_parse() -> None:
    assert len(CALLS) > 60


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_named_in_sentences_exist(page: Path) -> None:
    for found in INLINE.finditer(page.read_text()):
        command, *words = found[1].replace(",", " ").split()
        if command in NO_CALLS:
            continue
        assert command in COMMANDS, found[0]
        options = {option for action in build_parser(command)._actions for option in action.option_strings}
        named = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert named <= options, found[0]


@pytest.mark.parametrize("path", [*PAGES, *sorted((ROOT / "src").rglob("*.py"))], ids=name_of)
def test_nothing_is_installed_by_a_name_that_others_may_take(path: Path) -> None:
    """There is no release: pip and its kin get a directory, a wheel or the library that is missing."""
    by_name = r"(?:pip3?|pipx|uv tool) install (?:-[\w-]+ )*['\"]?doorward\b|doorward\[\w+\]"
    assert path == ROOT / "CHANGELOG.md" or re.findall(by_name, path.read_text()) == []


def anchors(page: Path) -> set[str]:
    """Give the anchors of a page's headings, as GitHub and the site make them."""
    text = without_blocks(page)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = without_blocks(page)
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name_of(page)} leads to {target}"
        assert not anchor or anchor in anchors(there), f"{name_of(page)} leads to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_tests_exist(page: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", page.read_text())
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=name_of)
def test_pages_are_short(page: Path) -> None:
    assert name_of(page).startswith(REFERENCE) or len(without_blocks(page).split()) <= PAGE_WORDS


def words_of(page: Path) -> int:
    """Count the words of sentences and tables: not code, and not where links lead."""
    text = re.sub(r"\]\([^)]*\)|`[^`]*`", " ", without_blocks(page))
    return sum(bool(re.search(r"\w", word)) for word in text.split())


def test_the_manual_of_users_is_short() -> None:
    """Not counted: what contributors read, and the specification of the packet, for authors of clients."""
    pages = (page for page in (ROOT / "docs").rglob("*.md") if not name_of(page).startswith(NOT_FOR_USERS))
    assert sum(map(words_of, pages)) <= MANUAL_WORDS


def test_every_page_is_led_to() -> None:
    linked = {target.partition("#")[0] for page in PAGES for target in LINK.findall(page.read_text())}
    names = {Path(target).name for target in linked}
    assert {page.name for page in PAGES if page.is_relative_to(ROOT / "docs")} - names <= {"index.md"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_site(tmp_path_factory.mktemp("site"))


def test_the_site_has_every_page(site: Path) -> None:
    pages = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")}
    assert pages <= {path.relative_to(site) for path in site.rglob("*.html")}


def test_the_site_has_search_version_and_repository(site: Path) -> None:
    page = (site / "reference/commands.html").read_text()
    assert re.search(
        rf'<a href="https://doorward.example.org/?" [^>]*class="md-source">.*?doorward {__version__}', page, re.DOTALL
    )
    assert 'data-md-component="search"' in page
    assert 'md-source" data-md-component' not in page  # which would ask the repository's host
    assert (site / "search/search_index.json").stat().st_size > 100_000


def test_the_site_asks_nobody_else_for_anything(site: Path) -> None:
    loads = re.compile(
        r"<(?:link|script|img|iframe|source|video|audio)\b[^>]*?(?:src|href)=[\"']?(https?:)?//", re.IGNORECASE
    )
    for page in site.rglob("*.html"):
        assert not loads.search(page.read_text()), page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", style.read_text()), style


def test_blocks_of_code_are_blocks_on_the_site_too(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert "```" not in page.read_text(), page


def test_numbered_lists_are_not_cut_by_their_contents(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        text = without_blocks(page)
        parts = re.split(r"^(?=\S)(?!\d+\. )", text, flags=re.MULTILINE)  # by what begins at the left and is no item
        lists = sum(bool(re.search(r"^\d+\. ", part, re.MULTILINE)) for part in parts)
        html = (site / page.relative_to(ROOT / "docs").with_suffix(".html")).read_text()
        article = html.partition("<article")[2].partition("</article>")[0]
        assert article.count("<ol") == lists, page
        assert article.count("<li>") == len(re.findall(r"^(?:\d+\.|-) ", text, re.MULTILINE)), page
