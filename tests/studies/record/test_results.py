from __future__ import annotations

import io
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from drcnn.engine.record import write_failed
from studies.definition.errors import StudyError
from studies.definition.paper_tables import paper_rows, row_of
from studies.definition.plan import Plan, expand
from studies.definition.study import PaperTable
from studies.record.results import best, print_results, write_results


def test_the_trials_of_nms_sweep_have_their_rows_of_the_paper(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("nms_sweep")
    rows = paper_rows(plan.study.paper, plan.overrides.changes)
    found = [row_of(rows, trial.config) for trial in expand(plan)]
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
    found = [row_of(rows, trial.config) for trial in expand(plan)]
    assert [row for row in rows if row not in found] == []
    assert len(found) == len(rows)


def test_an_unknown_table_is_told() -> None:
    with pytest.raises(StudyError, match=r"table_99\.csv.*table_03\.csv"):
        paper_rows([PaperTable(table="table_99.csv")])


def test_the_table_shows_ours_theirs_and_the_difference(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan("nms_sweep")
    trials = expand(plan)
    finish(trials[0].folder, [0.3, 0.4])
    text = io.StringIO()
    print_results(Console(file=text, width=160), plan, trials)
    assert "40.0 (55.0, -15.0)" in text.getvalue()
    assert "VOC07+12" in text.getvalue()


def test_several_seeds_are_shown_as_mean_and_interval(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan("nms_sweep")
    trials = expand(plan, 3)
    for trial, value in zip(trials[:3], [0.30, 0.32, 0.34], strict=True):
        finish(trial.folder, [value])
    text = io.StringIO()
    print_results(Console(file=text, width=160), plan, trials)
    assert "NMS_reg=0.7 NMS_cls=0.7 " in text.getvalue()
    assert "3 of 3" in text.getvalue()
    assert "32.0 ± 5.0 (55.0, -23.0)" in text.getvalue()


def test_results_parquet_has_one_row_a_trial(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan("nms_sweep")
    trials = expand(plan)[:3]
    finish(trials[0].folder, [0.3, 0.4])
    finish(trials[1].folder, [0.3, 0.5])
    write_failed(trials[2].folder, "TrainingDiverged: so it is")
    write_results(plan.folder / "results.parquet", trials)
    rows = pq.read_table(plan.folder / "results.parquet").to_pylist()
    assert [row["trial_id"] for row in rows] == [trial.id for trial in trials]
    assert [row["status"] for row in rows] == ["finished", "finished", "failed"]
    assert rows[1]["detector.nms_reg"] == 0.75
    assert rows[1]["val/AP"] == 0.5
    assert rows[2]["error"] == "TrainingDiverged: so it is"
    assert best(trials, "val/AP") == trials[1]
