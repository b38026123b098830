from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_helpers import IMAGES, finish_detector

from drcnn.data.annotations import Annotations
from drcnn.report import samples as sample_images
from studies.definition.plan import Plan, expand
from studies.report.charts.samples import same_images

MINE = """
title: One threshold
kind: grid
grid: {detector.nms_reg: [0.7, 0.85]}
"""


def test_objects_are_named_and_those_not_drawn_are_told(
    planned: Callable[..., Plan],
    annotations: Annotations,
    write: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of three objects two are found; what lies beside the third scores too little to be drawn."""
    plan = planned(MINE)
    trials = expand(plan, 1)
    for trial in trials:
        finish_detector(trial, annotations, blur=0.1)
        table = pq.read_table(trial.folder / "detections.parquet").slice(0, 3 * IMAGES)
        scores = np.tile([0.9, 0.8, 0.2], IMAGES).astype(np.float32)
        table = table.set_column(table.column_names.index("score"), "score", pa.array(scores))
        right = table["x2"].to_numpy() + np.tile([0, 0, 100], IMAGES).astype(np.float32)
        table = table.set_column(table.column_names.index("x2"), "x2", pa.array(right))
        pq.write_table(table, trial.folder / "detections.parquet")
    names: list[tuple[str, bool]] = []
    draw = sample_images.write_name
    monkeypatch.setattr(
        sample_images,
        "write_name",
        lambda *given, is_below=False: names.append((given[1], is_below)) or draw(*given, is_below=is_below),
    )
    text = write(plan, trials)
    assert ": 2 of 3 objects found, 0 wrong; with weaker detections too, AP " in text
    assert "Only detections with a score from 0.80, at which F1 is highest on all validation images" in text
    assert {name for name, is_below in names if is_below} == {"cat", "dog"}
    assert sum(is_below for _, is_below in names) == 8 * 3
    assert sum(not is_below for _, is_below in names) == 8 * 2


def test_every_trial_gets_the_same_images(planned: Callable[..., Plan], annotations: Annotations) -> None:
    trials = expand(planned(MINE), 1)
    for trial, blur in zip(trials, (0.1, 4), strict=True):
        finish_detector(trial, annotations, blur=blur)
    first, second = map(same_images, trials)
    assert list(first) == list(second) == ["1.png", "2.png", "3.png"]
    assert first["1.png"].size == second["1.png"].size
    assert first["1.png"].tobytes() != second["1.png"].tobytes()
