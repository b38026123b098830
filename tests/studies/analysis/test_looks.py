from __future__ import annotations

from pathlib import Path

import pytest

from studies.analysis.looks import Look, note, read_looks, warning


def test_looks_are_kept_once_each(tmp_path: Path) -> None:
    assert read_looks(tmp_path) == []
    for look in (Look(4, 6), Look(4, 6), Look(6, 6)):
        note(tmp_path, look)
    assert read_looks(tmp_path) == [Look(4, 6), Look(6, 6)]


@pytest.mark.parametrize("content", ["", "{}", '{"looks": [3]}', '{"looks": "many"}', None])
def test_a_damaged_file_is_no_dead_end(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "looks.json"
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    assert read_looks(tmp_path) == []
    note(tmp_path, Look(4, 6))
    assert read_looks(tmp_path) == [Look(4, 6)]


@pytest.mark.parametrize(
    ("earlier", "now", "words"),
    [
        ([], Look(6, 6), ""),
        ([Look(6, 6)], Look(6, 6), ""),
        # It ends as it was planned: no look decided anything.
        ([Look(4, 6)], Look(6, 6), ""),
        # Its budget was raised, and may be again.
        ([Look(4, 9)], Look(6, 9), "compared once before"),
        # Seeds were added to what had ended.
        ([Look(6, 6)], Look(9, 9), "compared once before"),
        ([Look(4, 9), Look(6, 9), Look(8, 9), Look(8, 9)], Look(8, 9), "compared 2 times before"),
    ],
)
def test_only_looks_that_may_have_decided_are_warned_of(earlier: list[Look], now: Look, words: str) -> None:
    text = warning(earlier, now)
    assert words in text
    assert bool(text) is bool(words)
