"""Every fuzz target holds over its corpus, and over some inputs made from it; `scripts/fuzz` makes more."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fuzz
from fuzz.__main__ import CORPUS
from tests.support.effort import EFFORT

SEEDS = {target: sorted((CORPUS / target).iterdir()) for target in fuzz.TARGETS}


@pytest.mark.parametrize(
    "path", [path for paths in SEEDS.values() for path in paths], ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_the_corpus(path: Path) -> None:
    import_module(f"fuzz.{path.parent.name}").one(path.read_bytes())


def damaged(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Seeds cut into pieces, some left out, some doubled, other bytes between them."""
    piece = st.tuples(st.sampled_from(seeds), st.integers(0, 4096), st.integers(0, 300)).map(
        lambda cut: cut[0][cut[1] % (len(cut[0]) + 1) :][: cut[2]]
    )
    begun = st.tuples(st.sampled_from(seeds), st.integers(0, 4096)).map(lambda cut: cut[0][: cut[1]])
    ended = st.tuples(st.sampled_from(seeds), st.integers(0, 4096)).map(lambda cut: cut[0][cut[1] :])
    return st.tuples(begun, st.lists(piece | st.binary(max_size=8), max_size=4).map(b"".join), ended).map(b"".join)


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_what_is_made_from_the_corpus(target: str) -> None:
    one = import_module(f"fuzz.{target}").one

    @settings(max_examples=50 * EFFORT, suppress_health_check=[HealthCheck.too_slow])
    @given(st.binary(max_size=200) | damaged([path.read_bytes() for path in SEEDS[target]]))
    def holds(data: bytes) -> None:
        one(data)

    holds()


def test_every_corpus_has_its_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(fuzz.TARGETS)
    assert all(SEEDS.values())
