from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from drcnn.config import EvaluationConfig
from drcnn.data.annotations import Annotations, Record
from drcnn.engine.evaluate import coco_metrics, make_metric, voc07_metrics


def table(rows: list[tuple[str, list[float], int, float]]) -> pa.Table:
    return pa.table(
        {
            "image_id": pa.array([row[0] for row in rows], pa.string()),
            "label": pa.array([row[2] for row in rows], pa.int32()),
            "score": pa.array([row[3] for row in rows], pa.float32()),
            **{
                name: pa.array([row[1][side] for row in rows], pa.float32())
                for side, name in enumerate(("x1", "y1", "x2", "y2"))
            },
        }
    )


def two_images(ignore: list[bool] | None = None) -> Annotations:
    return Annotations.from_records(
        [
            Record(
                id="a",
                width=200,
                height=200,
                boxes=[(0, 0, 10, 10), (50, 50, 100, 100)],
                labels=[0, 1],
                ignore=ignore,
                path="a.jpg",
            ),
            Record(id="b", width=200, height=200, boxes=[(0, 0, 150, 150)], labels=[0], path="b.jpg"),
        ],
        classes=["cat", "dog", "never"],
    )


def perfect(annotations: Annotations) -> list[tuple[str, list[float], int, float]]:
    return [
        (annotations.ids[row], box.tolist(), int(label), 0.9)
        for row in range(len(annotations))
        for box, label in zip(annotations.boxes(row), annotations.labels(row), strict=True)
    ]


def test_perfect_detections_score_one_everywhere() -> None:
    metrics = coco_metrics(two_images(), table(perfect(two_images())))
    assert set(metrics.summary) >= {
        "AP",
        "AP50",
        "AP60",
        "AP70",
        "AP75",
        "AP80",
        "AP90",
        "AP_small",
        "AP_large",
    }
    assert all(value == pytest.approx(1.0) for value in metrics.summary.values())
    assert metrics.per_class == pytest.approx({"cat": 1.0, "dog": 1.0})  # no object of the third class


def test_no_detections_score_zero() -> None:
    metrics = coco_metrics(two_images(), table([]))
    assert metrics.summary["AP"] == 0


def test_a_box_counts_up_to_its_own_iou() -> None:
    annotations = Annotations.from_records(
        [Record(id="a", width=200, height=200, boxes=[(0, 0, 100, 100)], labels=[0], path="a.jpg")],
        classes=["cat"],
    )
    summary = coco_metrics(annotations, table([("a", [0.0, 0.0, 100.0, 82.0], 0, 0.9)])).summary  # IoU 0.82
    figures = [summary[k] for k in ("AP50", "AP60", "AP70", "AP75", "AP80", "AP90")]
    assert figures == pytest.approx([1, 1, 1, 1, 1, 0])
    assert summary["AP"] == pytest.approx(0.7)  # 0.50 to 0.80 of ten


def test_detections_on_ignored_objects_do_not_count() -> None:
    rows = perfect(two_images())
    with_ignored = coco_metrics(two_images(ignore=[False, True]), table(rows))
    assert with_ignored.summary["AP"] == pytest.approx(1.0)
    assert set(with_ignored.per_class) == {"cat"}


def test_a_metric_serves_every_epoch() -> None:
    """The detections of one epoch leave no trace in the metrics of the next."""
    annotations = two_images(ignore=[False, True])
    metric = make_metric(EvaluationConfig(), annotations)
    detections = perfect(annotations)
    for rows in (detections, [], detections[:1], detections):
        assert metric(table(rows)) == coco_metrics(annotations, table(rows))


def test_the_configured_metric_judges() -> None:
    annotations = two_images()
    rows = [*perfect(annotations)[:1], ("b", [0.0, 0.0, 1.0, 1.0], 0, 0.1)]  # one of two cats, at once
    voc = make_metric(EvaluationConfig(metric="voc07"), annotations)(table(rows))
    assert voc == voc07_metrics(annotations, table(rows))
    assert voc.per_class["cat"] == pytest.approx(6 / 11)
    coco = make_metric(EvaluationConfig(metric="coco"), annotations)(table(rows))
    assert coco.per_class["cat"] == pytest.approx(51 / 101)


def test_figures_are_pycocotools_own_summary(tmp_path: Path) -> None:
    """The same annotations and detections through COCO's files and ``summarize``."""
    rng = np.random.default_rng(0)
    records, rows = [], []
    for number in range(30):
        corners = rng.uniform(0, 100, size=(rng.integers(1, 6), 2))
        boxes = np.concatenate([corners, corners + rng.uniform(5, 120, size=corners.shape)], axis=1)
        labels = rng.integers(0, 3, size=len(boxes))
        records.append(
            Record(
                id=f"i{number}",
                width=400,
                height=400,
                boxes=boxes.tolist(),
                labels=labels.tolist(),
                path=f"{number}.jpg",
            )
        )
        for box, label in zip(boxes, labels, strict=True):
            for _ in range(3):
                rows.append(
                    (f"i{number}", (box + rng.normal(0, 4, 4)).tolist(), int(label), float(rng.random()))
                )
    annotations = Annotations.from_records(records, classes=["a", "b", "c"])
    metrics = coco_metrics(annotations, table(rows)).summary

    truth = {
        "images": [{"id": n} for n in range(30)],
        "categories": [{"id": c} for c in range(3)],
        "annotations": [
            {
                "id": 1 + len(records) * 100 + n * 10 + k,
                "image_id": n,
                "category_id": int(label),
                "iscrowd": 0,
                "bbox": [float(b[0]), float(b[1]), float(b[2] - b[0]), float(b[3] - b[1])],
                "area": float((b[2] - b[0]) * (b[3] - b[1])),
            }
            for n in range(30)
            for k, (b, label) in enumerate(zip(annotations.boxes(n), annotations.labels(n), strict=True))
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    results = [
        {
            "image_id": int(i[1:]),
            "category_id": c,
            "score": s,
            "bbox": [
                *np.float32(b[:2]).tolist(),
                *(np.float32(b[2:]).astype(float) - np.float32(b[:2])).tolist(),
            ],
        }
        for i, b, c, s in rows
    ]
    coco = COCO(str(tmp_path / "truth.json"))
    evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    names = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
    expected = {name: value for name, value in zip(names, evaluation.stats, strict=False) if value >= 0}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)
