from __future__ import annotations

import json
import math
import re
from collections.abc import Callable

import pytest

from drcnn.engine.bootstrap import Difference
from studies.analysis.claims import agreement_claim, effects_claim
from studies.analysis.comparisons import Agreement, holm, kendall
from studies.analysis.paper import Effect, RowAndSetting, agreements, join_paper
from studies.analysis.replicates import group_by_setting
from studies.definition.plan import Plan, expand
from studies.report.comparison_tables import agreement_table


def effect(paper: float, ours: float, p: float, metric: str = "AP90") -> Effect:
    change = Difference(ours, ours - 0.004, ours + 0.004, p)
    return Effect("NMS_reg=0.85", "NMS_reg=0.7", metric, paper, change, p, 0.005)


@pytest.mark.parametrize(
    ("paper", "ours", "p", "verdict"),
    [
        (3.7, 0.03, 0.01, "seen"),
        # Not "not seen": a change that is not significant may still exist.
        (3.7, 0.03, 0.2, "undecided"),
        (3.7, -0.03, 0.2, "undecided"),
        (3.7, 0.0005, 0.7, "not seen: equivalent within ±0.5"),
        (3.7, -0.03, 0.01, "not seen: the opposite is significant"),
        (-3.7, -0.03, 0.01, "seen"),
        (-0.3, 0.03, 0.01, "significant change; the paper has about none"),
        (0.7, 0.0005, 0.7, "equivalent within ±0.5; the paper has about none"),
        (0.7, 0.03, 0.2, "undecided"),
        # With one seed a setting.
        (3.7, 0.03, math.nan, ""),
    ],
)
def test_whether_the_papers_effect_is_seen(paper: float, ours: float, p: float, verdict: str) -> None:
    assert effect(paper, ours, p).verdict == verdict


def test_effects_are_listed_by_verdict() -> None:
    effects = [effect(3.7, 0.03, 0.01), effect(3.3, 0.03, 0.01, "AP80"), effect(-0.3, 0.0, 1.0, "AP50")]
    assert effects_claim([*effects, effect(3.7, 0.03, math.nan, "AP70")]) == ""
    claim = effects_claim(effects)
    assert "from NMS_reg=0.7 to NMS_reg=0.85" in claim
    assert "AP90, AP80: seen; AP50: equivalent within ±0.5; the paper" in claim


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
    by_metric, settings = as_in_the_paper(plan, finish, seeds=2)
    alone = [kendall(*[[row.figures[metric] for row, _ in settings]] * 2).p for metric in by_metric]
    assert [agreement.p for agreement in by_metric.values()] == holm(alone)
    assert re.match(claim, agreement_claim(by_metric, len(settings)))


def test_ties_in_the_paper_give_each_metric_its_own_least_p() -> None:
    by_metric = {
        name: kendall([1, 2, 3, 4], theirs) for name, theirs in (("AP", [1, 2, 3, 4]), ("AP70", [1, 2, 2, 3]))
    }
    assert by_metric["AP"].least > by_metric["AP70"].least > 0.05
    claim = agreement_claim(by_metric, 4)
    assert f"would have p = {by_metric['AP70'].least:.2f} or more, corrected" in claim


def test_the_order_of_single_runs_agrees_with_nothing(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    by_metric, settings = as_in_the_paper(make_plan("table_03"), finish, seeds=1)
    assert [agreement.tau for agreement in by_metric.values()] == pytest.approx([1, 1, 1, 1])
    assert all(math.isnan(agreement.p) for agreement in by_metric.values())
    claim = agreement_claim(by_metric, len(settings))
    assert claim == "With one seed a setting nothing can be said about the settings' order."
    table = agreement_table(by_metric, len(settings))
    assert [row[0] for row in table.rows] == ["τ"]


def as_in_the_paper(
    plan: Plan, finish: Callable[..., None], seeds: int
) -> tuple[dict[str, Agreement], tuple[RowAndSetting, ...]]:
    """The agreement of settings whose figures are the paper's."""
    (comparison,) = join_paper(plan, group_by_setting(expand(plan, seeds)))
    for row, setting in comparison.rows:
        values = {f"val/{metric}": figure / 100 for metric, figure in row.figures.items()}
        for replicate in setting.replicates:
            finish(replicate.trial.folder, [0.5])
            record = json.loads((replicate.trial.folder / "result.json").read_text())
            record["history"][-1] |= values
            (replicate.trial.folder / "result.json").write_text(json.dumps(record))
    (comparison,) = join_paper(plan, group_by_setting(expand(plan, seeds)))
    return agreements(comparison, ["AP", "AP50", "AP80", "AP90"]), comparison.rows
