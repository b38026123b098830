from __future__ import annotations

from collections.abc import Callable

import pytest

from studies.definition.errors import StudyError
from studies.definition.paper_tables import paper_rows, row_of
from studies.definition.plan import Plan, expand
from studies.definition.study import PaperTable


def test_the_trials_of_nms_sweep_have_their_rows_of_the_paper(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("nms_sweep")
    rows = paper_rows(plan.study.paper, plan.overrides.changes)
    found = [row_of(rows, trial.config) for trial in expand(plan, 1)]
    assert [row and row.figures["AP"] for row in found] == [55.0, 55.3, 56.0, 56.6, 56.5, 56.1, None, None]
    assert {row.table for row in found if row} == {"Table III"}


def test_a_cascade_is_not_compared_with_single_stage_rows(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("nms_sweep")
    config = plan.trial({"detector.nms_reg": 0.85, "detector.stages": 3}, 1).config
    assert row_of(paper_rows(plan.study.paper), config) is None


@pytest.mark.parametrize("profile", ["laptop", "paper"])
@pytest.mark.parametrize("number", range(1, 12))
def test_every_row_of_a_table_is_joined_to_its_own_trial(
    number: int, profile: str, make_plan: Callable[..., Plan]
) -> None:
    plan = make_plan(f"table_{number:02}", profile=profile)
    rows = paper_rows(plan.study.paper, plan.overrides.changes)
    found = [row_of(rows, trial.config) for trial in expand(plan, 1)]
    assert [row for row in rows if row not in found] == []
    assert len(found) == len(rows)


def test_an_unknown_table_is_told() -> None:
    with pytest.raises(StudyError, match=r"table_99\.csv.*table_03\.csv"):
        paper_rows([PaperTable(table="table_99.csv")])
