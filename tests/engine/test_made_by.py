"""What is written down of a trial that launches of several commits have trained."""

from __future__ import annotations

import pytest

from drcnn.engine.made_by import merged


@pytest.mark.parametrize(
    ("launches", "commit"),
    [
        (["a", "a"], "a"),
        (["a", "b"], "a, then b"),
        (["a", "", ""], "a, then unknown"),
        (["", "a"], "unknown, then a"),
        (["a", "", "b"], "a, then unknown, then b"),
        (["", ""], None),
    ],
)
def test_commits_are_listed_in_turn(launches: list[str], commit: str | None) -> None:
    made: dict[str, str] = {}
    for each in launches:
        made = merged(made, {"torch": "2.11"} | ({"commit": each} if each else {}))
    assert made == {"torch": "2.11"} | ({"commit": commit} if commit else {})
