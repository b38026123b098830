from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from studies.analysis.claims import Effect, agreement_claim, agreements, effects_claim, join
from studies.analysis.replicates import group_by_setting
from studies.analysis.statistics import Difference, holm, kendall
from studies.definition.plan import Plan, expand
from studies.report.document import Document, Table, Text, literal
from studies.report.figures import changes
from studies.report.page import page


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


@pytest.mark.parametrize("name", ["table_03", "table_07", "table_08", "table_10", "table_11"])
def test_every_row_of_a_table_has_a_setting_of_its_own(make_plan: Callable[..., Plan], name: str) -> None:
    # On a laptop one backbone stands for several, with other widths.
    plan = make_plan(name)
    settings = group_by_setting(expand(plan, 1))
    (joined,) = join(plan, settings)
    assert len({setting.name for setting in settings}) == len(settings)
    assert [setting.name for _, setting in joined.rows] == [setting.name for setting in settings]


def test_all_rows_of_the_papers_highest_figure_are_its_best(make_plan: Callable[..., Plan]) -> None:
    (joined,) = join(plan := make_plan("table_02"), group_by_setting(expand(plan, 1)))
    assert [setting.name for _, setting in joined.best] == ["fpn_unshared", "decoupled"]
    (joined,) = join(plan := make_plan("table_03"), group_by_setting(expand(plan, 1)))
    assert [setting.name for _, setting in joined.best] == ["NMS_reg=0.85"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        # Of four rows each of 24 orders has a chance of 4 %, with its reverse 8 %.
        (
            "table_04",
            "With 4 settings no agreement beyond chance could be shown: .* p = 0.33, corrected for 4",
        ),
        (
            "table_03",
            r"An agreement beyond chance \(p below 0.05, corrected for 4 metrics\) is shown for AP, ",
        ),
    ],
)
def test_few_settings_cannot_agree_beyond_chance(
    make_plan: Callable[..., Plan], finish: Callable[..., None], name: str, said: str
) -> None:
    plan = make_plan(name)
    (joined,) = join(plan, group_by_setting(expand(plan, 1)))
    for row, setting in joined.rows:
        values = {f"val/{metric}": figure / 100 for metric, figure in row.figures.items()}
        finish(setting.first.folder, [0.5])
        record = json.loads((setting.first.folder / "result.json").read_text())
        record["history"][-1] |= values
        (setting.first.folder / "result.json").write_text(json.dumps(record))
    (joined,) = join(plan, group_by_setting(expand(plan, 1)))
    found = agreements(joined, ["AP", "AP50", "AP80", "AP90"])
    alone = [kendall(*[[row.figures[metric] for row, _ in joined.rows]] * 2).p for metric in found]
    assert [each.p for each in found.values()] == holm(alone)
    assert re.match(said, agreement_claim(found, len(joined.rows)))


def test_intervals_that_go_on_have_arrows(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, list[float]]] = []
    monkeypatch.setattr(
        "studies.report.figures._arrows", lambda *given: drawn.append((given[3], given[4].round(2).tolist()))
    )
    near, far = (
        effect(1.0, 0.02, 0.01, "AP"),
        replace(effect(1.0, 0.02, 0.5, "AP"), ours=Difference(0.02, -0.3, 0.25, 0.5)),
    )
    found = changes("Table III", {"AP": [near, far]})
    # Of the second row, at both ends; once a theme.
    assert drawn == [("<", [0.88]), (">", [0.88])] * 2
    assert "A filled circle is a change that is shown" in found.caption
    assert "there are 2" in found.caption


def test_an_interval_without_end_leaves_a_chart() -> None:
    endless = Effect("a", "b", "AP", 1.0, Difference(0.01, -math.inf, math.inf, 0.99), 0.99)
    unknown = Effect("c", "b", "AP", 1.0, Difference(0.01, math.nan, math.nan, 1.0), 1.0)
    found = changes("Table III", {"AP": [endless, effect(1.0, 0.02, 0.5, "AP"), unknown]})
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
