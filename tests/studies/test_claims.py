from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from studies.claims import Effect, effects_claim, join
from studies.document import Document, Table, Text, literal
from studies.evidence import gather
from studies.figures import changes
from studies.report_html import page
from studies.statistics import Difference
from studies.trials import Plan, expand


def effect(paper: float, ours: float, p: float, metric: str = "AP90") -> Effect:
    return Effect(
        "NMS_reg=0.85", "NMS_reg=0.7", metric, paper, Difference(ours, ours - 0.01, ours + 0.01, p), p
    )


@pytest.mark.parametrize(
    ("paper", "ours", "p", "verdict"),
    [
        (3.7, 0.03, 0.01, "seen"),
        (3.7, 0.03, 0.2, "same direction, not shown"),
        (3.7, -0.03, 0.2, "not seen"),
        (3.7, -0.03, 0.01, "the opposite is shown"),
        (-3.7, -0.03, 0.01, "seen"),
        (-0.3, 0.03, 0.01, "a change is shown; the paper has about none"),
        # Not "as in the paper": that no change is shown does not show that there is none.
        (0.7, 0.03, 0.2, "none shown; the paper has about none"),
    ],
)
def test_whether_the_papers_effect_is_seen(paper: float, ours: float, p: float, verdict: str) -> None:
    assert effect(paper, ours, p).verdict == verdict


def test_effects_are_told_by_verdict() -> None:
    found = [effect(3.7, 0.03, 0.01, "AP90"), effect(3.3, 0.03, 0.01, "AP80"), effect(-0.3, 0.0, 1.0, "AP50")]
    said = effects_claim(found)
    assert "from NMS_reg=0.7 to NMS_reg=0.85" in said
    assert "AP90, AP80: seen; AP50: none shown" in said
    assert effects_claim([]) == ""


@pytest.mark.parametrize("name", ["table_03", "table_07", "table_08", "table_10", "table_11"])
def test_every_row_of_a_table_has_a_setting_of_its_own(make_plan: Callable[..., Plan], name: str) -> None:
    # On a laptop one backbone stands for several, with other widths.
    plan = make_plan(name)
    settings = gather(expand(plan, 1))
    (joined,) = join(plan, settings)
    assert len({setting.name for setting in settings}) == len(settings)
    assert [setting.name for _, setting in joined.rows] == [setting.name for setting in settings]


def test_an_interval_without_end_leaves_a_chart() -> None:
    endless = Effect("a", "b", "AP", 1.0, Difference(0.01, -math.inf, math.inf, 0.99), 0.99)
    found = changes("Table III", {"AP": [endless, effect(1.0, 0.02, 0.5, "AP")]})
    assert found.light.startswith(b"\x89PNG")
    assert found.dark is not None
    assert found.dark != found.light
    assert "a +1.0 here, +1.0 there" in found.alt


def test_what_others_wrote_is_shown_as_it_is() -> None:
    error = literal("cannot open <a href='x'> `y` | **z**")
    table = Table("Errors", ("trial", "error"), (("one|two", error),), words=("error",))
    document = Document("Title", "Line", (Text(f"It failed: {error}"), table))
    text = document.markdown()
    assert "| one\\|two | cannot open &lt;a href='x'> 'y' \\| * *z* * |" in text
    assert "<a " not in page(document)
    assert "<strong>" not in page(document)
