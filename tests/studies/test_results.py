from __future__ import annotations

import io
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from studies.results import best, paper_rows, print_results, write_results
from studies.study import PaperTable, StudyError
from studies.trials import Plan, expand, write_verdict


def test_every_trial_of_nms_sweep_has_its_row_of_the_paper(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("nms_sweep")
    rows = paper_rows(plan.study.paper)
    found = [next(row for row in rows if row.is_for(trial.config)) for trial in expand(plan, 1)]
    assert [row.figures["AP"] for row in found] == [55.0, 55.3, 56.0, 56.6, 56.5, 56.1, 55.0, 54.8]
    assert [row.table for row in found] == ["Table III"] * 6 + ["Table I"] * 2


def test_a_cascade_is_not_compared_with_single_stage_rows(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("nms_sweep")
    config = plan.trial({"detector.nms_reg": 0.85, "detector.stages": 3}, 1).config
    assert not any(row.is_for(config) for row in paper_rows(plan.study.paper))


def test_an_unknown_table_is_told() -> None:
    with pytest.raises(StudyError, match=r"table_99\.csv.*table_03\.csv"):
        paper_rows([PaperTable(table="table_99.csv")])


def test_the_table_shows_ours_theirs_and_the_difference(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan("nms_sweep")
    trials = expand(plan, 1)
    finish(trials[0].folder, [0.3, 0.4])
    text = io.StringIO()
    print_results(Console(file=text, width=160), trials, plan.study.paper)
    assert "40.0 (55.0, -15.0)" in text.getvalue()
    assert "toy detector" in text.getvalue()


def test_results_parquet_has_one_row_a_trial(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan("nms_sweep")
    trials = expand(plan, 1)[:3]
    finish(trials[0].folder, [0.3, 0.4])
    finish(trials[1].folder, [0.3, 0.5])
    write_verdict(trials[2].folder, "failed", "TrainingDiverged: so it is")
    write_results(plan.folder / "results.parquet", trials)
    rows = pq.read_table(plan.folder / "results.parquet").to_pylist()
    assert [row["trial_id"] for row in rows] == [trial.id for trial in trials]
    assert [row["status"] for row in rows] == ["finished", "finished", "failed"]
    assert rows[1]["detector.nms_reg"] == 0.75
    assert rows[1]["val/AP"] == 0.5
    assert rows[2]["error"] == "TrainingDiverged: so it is"
    assert best(trials, "val/AP") == trials[1]
