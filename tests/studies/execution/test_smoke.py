"""Every study of the catalogue, run in small: real training, in one session of Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest
import ray
from mlflow import MlflowClient
from study_helpers import assignments

from studies.definition.request import Machines
from studies.definition.study import SearchStudy
from studies.definition.study_file import catalogue, load
from studies.resources.connection import connect
from studies.run_study import main

# One process for both trials: to start a second one takes longer than they train.
HOW = ("--max-concurrent", "1")
# Without the widths: studies vary the heads', and the backbone, of which others than MobileNet have none. Nor
# the number of proposals, of which Cascade R-CNN has twice as many.
SMALL = [each for each in assignments() if "_width=" not in each and "post_nms_train=" not in each]


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with connect(Machines()):
        assert ray.is_initialized()
        yield


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_smoke_of_every_study(session: None, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in catalogue():
        status = main([name, "--smoke", *HOW, "--output", str(output), "--set", *SMALL])
        text, error = capsys.readouterr()
        assert status == 0, text + error
        assert "Results, AP × 100" in text
        assert " 0 failed" in text
        assert "could not be written" not in text
        _check_records(name, output)
    assert len(list(output.glob("trials/*/result.json"))) < 2 * len(catalogue()), "studies share trials"

    assert main(["table_10", "--smoke", "--output", str(output), "--set", *SMALL]) == 0
    assert "0 trained, 3 reused, 0 failed" in capsys.readouterr().out, (
        "neither the two detectors nor the evaluation is repeated"
    )
    before = (output / "search-smoke" / "results.parquet").read_bytes()
    assert main(["report", "search-smoke", "--output", str(output)]) == 0
    assert "Report: " in capsys.readouterr().out
    assert (output / "search-smoke" / "results.parquet").read_bytes() == before


def _check_records(name: str, output: Path) -> None:
    study = load(name)[1]
    folder = output / f"{name}-smoke"
    rows = pq.read_table(folder / "results.parquet").to_pylist()
    assert len(rows) >= 2
    assert {row["status"] for row in rows} == {"finished"}
    for row in rows:
        inside = f"{row['model_id']}/evaluations/" if row["model_id"] else ""
        trial = output / "trials" / inside / row["trial_id"]
        assert (trial / "detections.parquet").exists()
        assert (trial / "config.yaml").exists()
    assert any(row["model_id"] for row in rows) == (name in {"table_09", "table_10"})
    if isinstance(study, SearchStudy):
        storage = f"sqlite:///{folder / 'optuna.db'}"
        (summary,) = optuna.get_all_study_summaries(storage)
        assert summary.n_trials == 2
        assert optuna.load_study(study_name=summary.study_name, storage=storage).best_trials
        report = (folder / "report.md").read_text()
        assert ("### Confirmation" in report) == (study.confirm is not None)
        assert ({row["seed"] for row in rows} != {1}) == (study.confirm is not None)
        assert study.minimise is None or all(row[study.minimise] > 0 for row in rows)
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(f"{name}-smoke")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in found} == {"FINISHED"}
    assert len([run for run in found if "mlflow.parentRunId" not in run.data.tags]) == 1
    ids = [run.data.tags.get("drcnn.trial_id") for run in found]
    assert len(ids) == len(set(ids))
