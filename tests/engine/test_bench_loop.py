from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from drcnn.config import Config
from drcnn.data.images import decode
from drcnn.detector.detector import build_detector
from drcnn.detector.postprocess import Detections
from drcnn.engine import bench_loop
from drcnn.engine.average_precision import coco_metrics
from drcnn.engine.bench_agreement import share_found
from drcnn.engine.bench_loop import measure_loop, scene_files
from drcnn.engine.bench_metric import coco_sized
from drcnn.engine.run_options import RunOptions

from .ap_oracles import pycocotools_metrics


def test_scene_files_hold_images_and_their_objects() -> None:
    annotations = scene_files(3, 192, 416)
    assert len(annotations) == 3
    for row in range(3):
        assert decode(annotations.source(row)).shape == (3, 192, 416)
        boxes = annotations.boxes(row)
        assert len(boxes) >= 2
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert boxes.max() <= 416


def test_a_split_to_time_a_metric_is_as_large_as_asked_for_and_judged_as_by_pycocotools() -> None:
    annotations, detections = coco_sized(images=40, objects=200, classes=5, detections=30)
    assert (len(annotations), len(annotations.all_labels), len(detections)) == (40, 200, 40 * 30)
    found = coco_metrics(annotations, detections)
    assert 0.05 < found.summary["AP"] < 0.95
    expected = pycocotools_metrics(annotations, detections)
    for name, value in expected.summary.items():
        np.testing.assert_allclose(found.summary[name], value, atol=1e-12, err_msg=name)


def test_every_part_of_the_loop_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_loop, "coco_sized", partial(coco_sized, 10, 40, 5, 20))
    changes = {"detector.backbone": "resnet18", "detector.fc_width": 32}
    config = Config().with_changes({**changes, "data.short_side": 96, "training.batch_size": 2})
    detector = build_detector(config.detector, 10, pretrained=False)
    rows = measure_loop(detector, config, tmp_path, RunOptions(), height=192, width=192, repeats=1)
    assert set(rows) == {"loader", "evaluation", "detect", "forward pass of training", "metric"}
    for row in rows.values():
        assert row["seconds"] > 0
        assert row["images_per_s"] > 0
    assert rows["metric"]["images_per_s"] * rows["metric"]["seconds"] == pytest.approx(10)
    assert list(tmp_path.glob("*.arrow"))


def found(*rows: tuple[int, list[float], int, float]) -> Detections:
    image, boxes, labels, scores = zip(*rows, strict=True) if rows else ((), torch.zeros(0, 4), (), ())
    return Detections(
        torch.tensor(image, dtype=torch.int64),
        torch.as_tensor(boxes, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(scores),
    )


def test_agreement_counts_detections_of_both_sides() -> None:
    box = [10.0, 10.0, 50.0, 50.0]
    one = found((0, box, 1, 0.9))
    assert share_found(one, one) == 1
    assert share_found(found(), found()) == 1
    assert share_found(one, found()) == 0
    for other in (
        (1, box, 1, 0.9),
        (0, box, 2, 0.9),
        (0, box, 1, 0.8),
        (0, [10.0, 10.0, 50.0, 40.0], 1, 0.9),
    ):
        assert share_found(one, found(other)) == 0
    assert share_found(one, found((0, box, 1, 0.88), (1, box, 1, 0.9))) == 2 / 3
