"""The benchmark of the driver, in small: real launches on simulated nodes, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

ROOT = Path(__file__).resolve().parents[2]
TRIALS, NODES, CHECKPOINT_MB = 12, 3, 40


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_all_trials_end_and_are_recorded_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.scale", "--trials", str(TRIALS), "--nodes", str(NODES)]
    done = subprocess.run(
        [*command, "--checkpoint-mb", str(CHECKPOINT_MB), "--output", str(tmp_path), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    found = json.loads(done.stdout)
    assert [found[launch]["finished"] for launch in ("whole", "again", "half")] == [TRIALS] * 3
    assert all(value > 0 for value in found["whole"].values())
    # With everything finished, nothing begins again.
    assert found["again"]["begun"] == 0 < found["half"]["begun"]
    assert found["early_cpu_ms"] > 0
    assert found["late_cpu_ms"] > 0
    before, first, last, most = found["memory_mib"]
    assert 0 < before <= most
    assert 0 < first <= most
    assert 0 < last <= most
    assert 0 < found["mlflow_share"] < 1
    # The head has the trials' records, and the weights of the best only.
    records, with_best = found["head_mib"]
    megabytes = CHECKPOINT_MB * 10**6 / 2**20
    assert 0 < records < megabytes
    assert megabytes <= with_best < 2 * megabytes

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("scale")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert (len(runs), len(children)) == (TRIALS + 1, TRIALS)
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in children:
        steps = [each.step for each in client.get_metric_history(run.info.run_id, "val/AP")]
        assert steps == list(range(1, found["epochs"] + 1))
    rows = pq.read_table(tmp_path / "scale" / "results.parquet").to_pylist()
    assert sorted(row["trial_id"] for row in rows) == sorted(
        run.data.tags["drcnn.trial_id"] for run in children
    )
    assert {row["status"] for row in rows} == {"finished"}
