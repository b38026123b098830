"""Halves of one setting's trainings, called different or not: made-up detectors, and a folder of some."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from study_helpers import assignments, epoch

from benchmarks.calibration import main
from benchmarks.seed_splits import METRICS, calibrate_on_seeds, splits
from drcnn.data.annotations import Annotations
from drcnn.data.prepare import prepare
from drcnn.engine.bootstrap import Resampled
from studies.definition.plan import Plan, Trial, expand
from studies.definition.request import Request, resolve
from studies.definition.trial import Inputs
from studies.record.launch_request import keep_request
from tests.engine.bootstrap_helpers import CURVE, IMAGES

STUDY = """
title: One setting, many seeds
kind: grid
grid: {detector.nms_reg: [0.85]}
"""


def test_all_halves_are_compared_once_and_of_many_threes_some() -> None:
    halves = splits(10, 5)
    assert len(halves) == len({frozenset(map(frozenset, split)) for split in halves}) == 126
    assert all(set(a) | set(b) == set(range(10)) for a, b in halves)
    threes = splits(10, 3)
    assert len(threes) == len({frozenset(map(frozenset, split)) for split in threes}) == 300
    assert all(len(set(a) | set(b)) == 6 for a, b in threes)
    # Eight into two times three: 8 · 7 / 2 are left out, 10 pairs each.
    assert len(splits(8, 3)) == 280


def trainings(rng: np.random.Generator, count: int, by_seed: float) -> list[Resampled]:
    common = 0.01 * rng.normal(size=200)
    detectors = []
    for _ in range(count):
        whole = 0.4 + by_seed * rng.normal()
        draws = whole + common + 0.002 * rng.normal(size=200)
        detectors.append(
            Resampled(IMAGES, 0, dict.fromkeys(METRICS, whole), dict.fromkeys(METRICS, draws), CURVE)
        )
    return detectors


def test_false_claims_are_as_rare_as_of_a_calibrated_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.seed_splits.METRICS", ("AP",))
    rng = np.random.default_rng(0)
    sets = [calibrate_on_seeds(trainings(rng, 10, 0.02), 0.005) for _ in range(8)]
    for size in (5, 3):
        rows = [row for rows in sets for row in rows if row.size == size and row.metric == "AP"]
        assert np.mean([row.significant for row in rows]) <= 0.06
        assert 0 <= rows[0].low < 0.05 < rows[0].high < 0.2


def test_seeds_that_hardly_matter_are_called_equivalent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.seed_splits.METRICS", ("AP",))
    rows = calibrate_on_seeds(trainings(np.random.default_rng(0), 8, 0.0005), 0.01)
    assert {row.size: row.splits for row in rows} == {4: 35, 3: 280}
    assert all(row.equivalent > 0.9 for row in rows if row.size == 4)
    assert not any(
        row.equivalent for row in calibrate_on_seeds(trainings(np.random.default_rng(0), 8, 0.05), 0.01)
    )


def test_few_trainings_are_refused() -> None:
    with pytest.raises(ValueError, match="5 trainings of one setting are too few; give 6 or more"):
        calibrate_on_seeds(trainings(np.random.default_rng(0), 5, 0.01), 0.005)


@pytest.fixture
def launched(tmp_path: Path) -> tuple[Plan, list[Trial]]:
    """Six finished trainings of one setting in an output folder, each with other detections."""
    study, output = tmp_path / "mine.yaml", tmp_path / "runs"
    study.write_text(STUDY)
    small = tuple(assignments(data__test_images=30))
    request = Request(str(study), output, assignments=small, seeds=6)
    plan = Plan(*resolve(request), output, Inputs(partial(prepare, cache=output / "data")))
    trials = expand(plan, 6)
    for trial in trials:
        finish_training(trial)
    plan.folder.mkdir()
    keep_request(plan, request)
    return plan, trials


def finish_training(trial: Trial) -> None:
    annotations = Annotations.load(trial.data.judged_table)
    random = np.random.default_rng(trial.config.seed)
    boxes = (annotations.all_boxes + random.normal(0, 2, annotations.all_boxes.shape)).astype(np.float32)
    columns = dict(zip(("x1", "y1", "x2", "y2"), boxes.T, strict=True))
    ids = np.repeat(annotations.ids, np.diff(annotations.offsets))
    scores = random.random(len(boxes)).astype(np.float32)
    table = pa.table({"image_id": ids, "label": annotations.all_labels, "score": scores} | columns)
    trial.folder.mkdir(parents=True)
    pq.write_table(table, trial.folder / "detections.parquet")
    record = {"status": "finished", "history": [epoch(1, 0.4)], "seconds": 1.0}
    (trial.folder / "result.json").write_text(json.dumps(record))


def test_a_folder_of_trainings_is_calibrated_on(
    launched: tuple[Plan, list[Trial]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, trials = launched
    monkeypatch.setattr("studies.analysis.replicates.RESAMPLES", 50)
    for more in ([], ["--json"]):
        monkeypatch.setattr("sys.argv", ["calibration", "--output", str(plan.output), *more])
        main()
    text, _, printed = capsys.readouterr().out.partition("{")
    assert "mine: the one setting: 6 trainings" in text
    assert "They share their trainings and are not independent" in text
    (rows,) = json.loads("{" + printed).values()
    assert [(row["metric"], row["size"], row["splits"]) for row in rows] == [(m, 3, 10) for m in METRICS]
    assert all(row["trainings"] == 6 for row in rows)
    (trials[0].folder / "result.json").unlink()
    with pytest.raises(SystemExit, match="holds no setting of 6 finished trainings or more"):
        main()
