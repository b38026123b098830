from __future__ import annotations

from collections.abc import Callable

import pyarrow.parquet as pq

from drcnn.engine.record import write_failed
from studies.definition.plan import Plan, expand
from studies.record.results import ranked, write_results


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
    assert ranked(trials, "val/AP") == [trials[1], trials[0]]
