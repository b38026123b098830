from __future__ import annotations

import json

import numpy as np
import pytest

from drcnn.engine.average_precision import coco_metrics
from drcnn.engine.diagnosis import best_score, confusion_matrix, diagnose, rank_images
from drcnn.engine.judged_detections import judge

from .diagnosis_helpers import found, split

A, B, C = (0, 0, 40, 40), (50, 50, 90, 90), (0, 60, 30, 90)
SPLIT = split([("cat", A), ("dog", B)], [("cat", A), ("cat", C)])
FOUND = found(
    (0, "cat", 0.9, A),
    (0, "cat", 0.8, B),  # a dog
    (1, "cat", 0.7, (0, 0, 40, 25)),  # IoU 0.625
    (1, "dog", 0.6, (60, 0, 90, 30)),  # nothing
    (1, "cat", 0.1, C),
)


def test_figures_of_classes_are_those_of_the_metric() -> None:
    diagnosis = diagnose(SPLIT, judge(SPLIT, FOUND))
    metrics = coco_metrics(SPLIT, FOUND)
    ap = dict(zip(diagnosis.classes, diagnosis.ap, strict=True))
    assert {name: ap[name] for name in metrics.per_class} == pytest.approx(metrics.per_class)
    assert np.isnan(ap["owl"])
    assert np.nanmean(diagnosis.ap50) == pytest.approx(metrics.summary["AP50"])
    assert diagnosis.objects.tolist() == [3, 1, 0]


def test_precision_is_the_best_from_each_recall_on() -> None:
    """Cats: right, wrong, right (at IoU 0.5 only), right."""
    cat = {iou: rows[0] for iou, rows in diagnose(SPLIT, judge(SPLIT, FOUND)).precision.items()}
    third = 34  # recalls 0 ... 0.33
    assert cat[0.5][:third] == pytest.approx(1)
    assert cat[0.5][third:] == pytest.approx(3 / 4)
    assert cat[0.75][third:67] == pytest.approx(2 / 4)
    assert cat[0.75][67:] == pytest.approx(0)
    assert cat[0.5].mean() == pytest.approx(diagnose(SPLIT, judge(SPLIT, FOUND)).ap50[0])


def test_confusion_counts_what_is_drawn() -> None:
    judged = judge(SPLIT, FOUND)
    # Columns: cat, dog, owl, missed.
    assert confusion_matrix(judged, 0.5).tolist() == [[2, 0, 0, 1], [1, 0, 0, 0], [0] * 4, [0, 1, 0, 0]]
    assert confusion_matrix(judged, 0.85).tolist() == [[1, 0, 0, 2], [0, 0, 0, 1], [0] * 4, [0] * 4]


def test_an_object_is_confused_once() -> None:
    """The dog is taken by the better of two false cats; the other is on background, as a duplicate is."""
    twice = found((0, "cat", 0.9, B), (0, "owl", 0.8, B), (0, "dog", 0.7, B), (0, "dog", 0.6, B))
    matrix = confusion_matrix(judge(split([("dog", B)]), twice), 0.5)
    assert matrix.tolist() == [[0] * 4, [0, 1, 0, 0], [0] * 4, [1, 1, 1, 0]]
    matrix = confusion_matrix(judge(split([("dog", B)]), twice.slice(0, 2)), 0.5)
    assert matrix.tolist() == [[0] * 4, [1, 0, 0, 0], [0] * 4, [0, 0, 1, 0]]


def test_the_score_is_that_of_the_highest_f1() -> None:
    # Right 1, 1, 2, 2, 3 of 1 ... 5 detections and 4 objects: 2/5, 2/6, 4/7, 4/8, 6/9.
    assert best_score(judge(SPLIT, FOUND)) == (0.1, pytest.approx(6 / 9))
    assert best_score(judge(SPLIT, FOUND.slice(0, 4))) == (0.7, pytest.approx(4 / 7))
    assert best_score(judge(SPLIT, FOUND.slice(3, 1))) == (0.5, 0)
    assert best_score(judge(SPLIT, FOUND.slice(0, 0))) == (0.5, 0)


def test_images_are_ranked_by_their_own_ap() -> None:
    rows, curves = rank_images(SPLIT, judge(SPLIT, FOUND))
    assert sorted(rows) == [0, 1]
    assert curves.mean(axis=1).tolist() == sorted(curves.mean(axis=1), reverse=True)


def test_everything_is_in_json() -> None:
    content = json.loads(json.dumps(diagnose(SPLIT, judge(SPLIT, FOUND)).to_json(), allow_nan=False))
    assert content["classes"]["owl"] == {"objects": 0, "AP": None, "AP50": None}
    assert content["confusion"]["score"] == 0.1
    assert content["errors"]["class"]["count"] == 1
    assert len(content["precision_at_recall"]["iou"]["0.75"]["cat"]) == 101


def test_no_object_says_nothing() -> None:
    annotations = split([("cat", A)], ignored=[0])
    with pytest.raises(ValueError, match="no object"):
        diagnose(annotations, judge(annotations, FOUND.slice(0, 1)))
