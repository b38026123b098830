from __future__ import annotations

from pathlib import Path

import pytest

from studies.analysis.looks import Look, note, read_looks, warning


def look(trials: int, planned: int) -> Look:
    return Look(frozenset(map(str, range(trials))), planned)


def test_looks_are_kept_once_each(tmp_path: Path) -> None:
    assert read_looks(tmp_path) == []
    for each in (look(4, 6), look(4, 6), look(6, 6), look(4, 6)):
        note(tmp_path, each)
    assert read_looks(tmp_path) == [look(4, 6), look(6, 6)]


@pytest.mark.parametrize("content", ["", "{}", '{"looks": [3]}', '{"looks": "many"}', None])
def test_a_damaged_file_is_no_dead_end(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "looks.json"
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    assert read_looks(tmp_path) == []
    assert path.exists(), "who reads changes nothing"
    note(tmp_path, look(4, 6))
    assert read_looks(tmp_path) == [look(4, 6)]
    assert path.with_name("looks.json.damaged").exists()


@pytest.mark.parametrize(
    ("earlier", "now", "words"),
    [
        ([], look(6, 6), ""),
        ([look(6, 6)], look(6, 6), ""),
        # It ends as it was planned: no look decided anything.
        ([look(4, 6)], look(6, 6), ""),
        # Its budget was raised, and may be again.
        ([look(4, 9)], look(6, 9), "compared once before"),
        # Seeds were added to what had ended, whatever was noted on the way.
        ([look(6, 6)], look(9, 9), "compared once before"),
        ([look(6, 6), look(6, 9)], look(9, 9), "compared once before"),
        # It was cut short.
        ([look(4, 9)], look(6, 6), "compared once before"),
        ([look(4, 9), look(6, 9), look(8, 9)], look(8, 9), "compared 2 times before"),
        # Of other trials, as before --fresh or with other data.
        ([Look(frozenset("ab"), 9)], look(6, 9), ""),
    ],
)
def test_only_looks_that_may_have_decided_are_warned_of(earlier: list[Look], now: Look, words: str) -> None:
    text = warning(earlier, now, is_complete=len(now.trials) == now.planned)
    assert words in text
    assert bool(text) is bool(words)


def test_a_trial_that_failed_leaves_nothing_to_decide() -> None:
    assert warning([look(4, 6)], look(5, 6), is_complete=True) == ""
