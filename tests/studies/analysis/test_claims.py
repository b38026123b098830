from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from studies.analysis.bootstrap import Difference
from studies.analysis.claims import agreement_claim, effects_claim
from studies.analysis.comparisons import holm, kendall
from studies.analysis.paper import Effect, agreements, join_paper
from studies.analysis.replicates import group_by_setting
from studies.definition.plan import Plan, expand


def effect(paper: float, ours: float, p: float, metric: str = "AP90") -> Effect:
    return Effect(
        "NMS_reg=0.85", "NMS_reg=0.7", metric, paper, Difference(ours, ours - 0.01, ours + 0.01, p), p
    )


@pytest.mark.parametrize(
    ("paper", "ours", "p", "verdict"),
    [
        (3.7, 0.03, 0.01, "seen"),
        (3.7, 0.03, 0.2, "same direction, not significant"),
        (3.7, -0.03, 0.2, "not seen"),
        (3.7, -0.03, 0.01, "opposite direction, significant"),
        (-3.7, -0.03, 0.01, "seen"),
        (-0.3, 0.03, 0.01, "significant change; the paper has about none"),
        # Not "as in the paper": a change that is not significant may still exist.
        (0.7, 0.03, 0.2, "no significant change; the paper has about none"),
    ],
)
def test_whether_the_papers_effect_is_seen(paper: float, ours: float, p: float, verdict: str) -> None:
    assert effect(paper, ours, p).verdict == verdict


def test_effects_are_listed_by_verdict() -> None:
    effects = [effect(3.7, 0.03, 0.01), effect(3.3, 0.03, 0.01, "AP80"), effect(-0.3, 0.0, 1.0, "AP50")]
    claim = effects_claim(effects)
    assert "from NMS_reg=0.7 to NMS_reg=0.85" in claim
    assert "AP90, AP80: seen; AP50: no significant change" in claim


@pytest.mark.parametrize("name", ["table_03", "table_07", "table_08", "table_10", "table_11"])
def test_every_row_of_a_table_has_a_setting_of_its_own(make_plan: Callable[..., Plan], name: str) -> None:
    # On a laptop one backbone, in several widths, replaces those of the paper.
    plan = make_plan(name)
    settings = group_by_setting(expand(plan, 1))
    (comparison,) = join_paper(plan, settings)
    assert len({setting.label for setting in settings}) == len(settings)
    assert [setting.label for _, setting in comparison.rows] == [setting.label for setting in settings]


def test_all_rows_of_the_papers_highest_figure_are_its_best(make_plan: Callable[..., Plan]) -> None:
    (comparison,) = join_paper(plan := make_plan("table_02"), group_by_setting(expand(plan, 1)))
    assert [setting.label for _, setting in comparison.best] == ["fpn_unshared", "decoupled"]
    (comparison,) = join_paper(plan := make_plan("table_03"), group_by_setting(expand(plan, 1)))
    assert [setting.label for _, setting in comparison.best] == ["NMS_reg=0.85"]


@pytest.mark.parametrize(
    ("name", "claim"),
    [
        # Four rows have 24 orders: two-sided, complete agreement has a probability of 2 / 24.
        ("table_04", "With 4 settings no agreement can be significant: .* p = 0.33, corrected for 4"),
        ("table_03", r"The agreement is significant \(p below 0.05, corrected for 4 metrics\) for AP, "),
    ],
)
def test_the_agreement_of_few_settings_cannot_be_significant(
    make_plan: Callable[..., Plan], finish: Callable[..., None], name: str, claim: str
) -> None:
    plan = make_plan(name)
    (comparison,) = join_paper(plan, group_by_setting(expand(plan, 1)))
    for row, setting in comparison.rows:
        values = {f"val/{metric}": figure / 100 for metric, figure in row.figures.items()}
        finish(setting.first.folder, [0.5])
        record = json.loads((setting.first.folder / "result.json").read_text())
        record["history"][-1] |= values
        (setting.first.folder / "result.json").write_text(json.dumps(record))
    (comparison,) = join_paper(plan, group_by_setting(expand(plan, 1)))
    by_metric = agreements(comparison, ["AP", "AP50", "AP80", "AP90"])
    alone = [kendall(*[[row.figures[metric] for row, _ in comparison.rows]] * 2).p for metric in by_metric]
    assert [agreement.p for agreement in by_metric.values()] == holm(alone)
    assert re.match(claim, agreement_claim(by_metric, len(comparison.rows)))
