from __future__ import annotations

import contextlib
import io
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from drcnn.data.annotations import Annotations, Record
from drcnn.engine.coco_metric import coco_metrics
from drcnn.engine.voc_metric import voc07_metrics

Box = tuple[float, float, float, float]
# Image, box, label, ignored; and image, box, label, score.
Object = tuple[int, Box, int, bool]
Detection = tuple[int, Box, int, float]

NAMES = ("cat", "dog", "never")
A, B, FAR = (0, 0, 10, 10), (20, 20, 40, 40), (100, 100, 110, 110)


def split(objects: list[Object], images: int = 3) -> Annotations:
    records = []
    for image in range(images):
        mine = [entry[1:] for entry in objects if entry[0] == image]
        boxes, labels, ignore = zip(*mine, strict=True) if mine else ([], [], [])
        records.append(Record(f"i{image}", 200, 200, boxes, labels, ignore, path=f"{image}.jpg"))
    return Annotations.from_records(records, NAMES)


def table(detections: list[Detection]) -> pa.Table:
    return pa.table(
        {
            "image_id": pa.array([f"i{image}" for image, *_ in detections], pa.string()),
            "label": pa.array([label for _, _, label, _ in detections], pa.int32()),
            "score": pa.array([score for *_, score in detections], pa.float32()),
            **{
                name: pa.array([box[side] for _, box, _, _ in detections], pa.float32())
                for side, name in enumerate(("x1", "y1", "x2", "y2"))
            },
        }
    )


def ap50(objects: list[Object], detections: list[Detection]) -> float:
    return voc07_metrics(split(objects), table(detections)).summary["AP50"]


def test_perfect_detections_score_one_everywhere() -> None:
    objects = [(0, A, 0, False), (0, B, 1, False), (2, A, 0, False)]
    annotations, detections = split(objects), table([(i, box, label, 0.9) for i, box, label, _ in objects])
    metrics = voc07_metrics(annotations, detections)
    assert metrics.summary == pytest.approx(dict.fromkeys(metrics.summary, 1.0))
    assert metrics.per_class == pytest.approx({"cat": 1.0, "dog": 1.0})
    # The names of COCO's metric, less those of sizes.
    coco = coco_metrics(annotations, detections)
    assert list(metrics.summary) == [name for name in coco.summary if name[3:] not in ("small", "large")]
    assert set(metrics.per_class) == set(coco.per_class)


def test_eleven_points_by_hand() -> None:
    # Two objects; hit, miss, hit: precision 1 up to recall 1/2 (6 points), then 2/3 (5 points).
    objects = [(0, A, 0, False), (1, A, 0, False)]
    found = [(0, A, 0, 0.9), (0, FAR, 0, 0.8), (1, A, 0, 0.7)]
    assert ap50(objects, found) == pytest.approx((6 + 5 * 2 / 3) / 11)
    # Without the last, recall stops at 1/2.
    assert ap50(objects, found[:2]) == pytest.approx(6 / 11)
    # The order of the table does not matter where scores differ.
    assert ap50(objects, found[::-1]) == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_recall_points_are_mmdetections_floats() -> None:
    # 3 of 10 found: the points 0, 0.1 and 0.2, but not 0.30000000000000004.
    objects = [(0, (10 * x, 0, 10 * x + 10, 10), 0, False) for x in range(10)]
    found = [(image, box, label, 0.9) for image, box, label, _ in objects[:3]]
    assert ap50(objects, found) == pytest.approx(3 / 11)
    assert ap50(objects, [(i, box, label, 0.9) for i, box, label, _ in objects[:4]]) == pytest.approx(5 / 11)


def test_a_box_counts_from_its_own_iou_on_inclusive() -> None:
    summary = voc07_metrics(split([(0, A, 0, False)]), table([(0, (0, 0, 10, 7), 0, 0.9)])).summary
    assert [summary[k] for k in ("AP50", "AP60", "AP70", "AP75", "AP80", "AP90")] == [1, 1, 1, 0, 0, 0]
    assert summary["AP"] == pytest.approx(0.5)  # 0.50 to 0.70 of ten


def test_a_second_detection_of_an_object_counts_against() -> None:
    objects = [(0, A, 0, False), (1, A, 0, False)]
    twice = [(0, A, 0, 0.9), (0, A, 0, 0.8), (1, A, 0, 0.7)]
    assert ap50(objects, twice) == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_a_taken_object_is_not_exchanged_for_a_free_one() -> None:
    """Where COCO's metric takes the next best object, VOC's does not."""
    objects: list[Object] = [(0, (0, 0, 10, 10), 0, False), (0, (0, 0, 10, 14), 0, False)]
    both_nearest_the_first: list[Detection] = [(0, (0, 0, 10, 10), 0, 0.9), (0, (0, 0, 10, 11), 0, 0.8)]
    assert ap50(objects, both_nearest_the_first) == pytest.approx(6 / 11)
    assert coco_metrics(split(objects), table(both_nearest_the_first)).summary["AP50"] == pytest.approx(1)


def test_a_missed_threshold_leaves_the_object_to_a_later_detection() -> None:
    """At IoU 0.9 the first is no hit, and the second is no double."""
    objects = [(0, A, 0, False)]
    found: list[Detection] = [(0, (0, 0, 10, 8), 0, 0.9), (0, A, 0, 0.8)]
    summary = voc07_metrics(split(objects), table(found)).summary
    assert summary["AP80"] == 1
    assert summary["AP90"] == pytest.approx(1 / 2)


def test_difficult_objects_count_neither_way() -> None:
    difficult, easy = (0, B, 0, True), (0, A, 0, False)
    # Not finding it costs nothing, nor does finding it, nor finding it twice, first of all.
    assert ap50([easy, difficult], [(0, A, 0, 0.5)]) == 1
    assert ap50([easy, difficult], [(0, B, 0, 0.9), (0, B, 0, 0.8), (0, A, 0, 0.5)]) == 1
    # But a detection that is far from it, or too far for the threshold, is a false positive.
    loose = (20, 20, 40, 29)
    assert ap50([easy, difficult], [(0, loose, 0, 0.9), (0, A, 0, 0.5)]) == pytest.approx(1 / 2)
    # One of another class is no excuse.
    assert ap50([easy, (0, B, 1, True)], [(0, B, 0, 0.9), (0, A, 0, 0.5)]) == pytest.approx(1 / 2)


def test_of_equal_overlaps_the_object_that_counts_is_taken() -> None:
    assert ap50([(0, A, 0, True), (0, A, 0, False)], [(0, A, 0, 0.9)]) == 1


def test_the_object_overlapped_most_decides_even_if_difficult() -> None:
    objects: list[Object] = [(0, (0, 0, 10, 10), 0, False), (0, (0, 0, 10, 12), 0, True)]
    assert ap50(objects, [(0, (0, 0, 10, 12), 0, 0.9)]) == 0  # IoU 10/12 with the object that counts


def test_classes_are_apart_and_averaged() -> None:
    objects = [(0, A, 0, False), (0, B, 1, False)]
    metrics = voc07_metrics(split(objects), table([(0, A, 0, 0.9), (0, B, 0, 0.8), (0, FAR, 2, 0.9)]))
    assert metrics.per_class == {"cat": 1.0, "dog": 0.0}
    assert metrics.summary["AP"] == pytest.approx(0.5)


def test_nothing_detected_and_nothing_to_detect() -> None:
    assert set(voc07_metrics(split([(0, A, 0, False)]), table([])).summary.values()) == {0.0}
    for objects in ([], [(0, A, 0, True)]):
        metrics = voc07_metrics(split(objects), table([(0, A, 0, 0.9)]))
        assert (metrics.summary, metrics.per_class) == ({}, {})


@pytest.mark.parametrize("first_is_right", [True, False])
def test_equal_scores_rank_in_the_order_of_the_table(first_is_right: bool) -> None:
    found: list[Detection] = [(0, A, 0, 0.5), (1, FAR, 0, 0.5)]
    expected = 1 if first_is_right else 1 / 2
    assert ap50([(0, A, 0, False)], found if first_is_right else found[::-1]) == pytest.approx(expected)


def iou(left: Box, right: Box) -> Fraction:
    width = min(left[2], right[2]) - max(left[0], right[0])
    height = min(left[3], right[3]) - max(left[1], right[1])
    common = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (left, right)]
    return Fraction(common, sum(areas) - common)


def slow_ap(objects: list[Object], detections: list[Detection], label: int, threshold: Fraction) -> float:
    """The rules again, in exact fractions and plain loops, an image and a detection at a time."""
    # Those that count come first: of equal overlaps, max takes the first.
    mine = sorted((entry for entry in objects if entry[2] == label), key=lambda entry: entry[3])
    ranked = sorted((entry for entry in detections if entry[2] == label), key=lambda entry: -entry[3])
    count = sum(not ignored for *_, ignored in mine)
    taken: set[int] = set()
    hits = misses = 0
    curve: list[tuple[float, float]] = []
    for image, box, _, _ in ranked:
        overlap = {
            place: iou(box, other) for place, (where, other, _, _) in enumerate(mine) if where == image
        }
        best = max(overlap, key=lambda place: overlap[place], default=-1)
        if best == -1 or overlap[best] < threshold:
            misses += 1
        elif mine[best][3]:
            pass
        elif best in taken:
            misses += 1
        else:
            taken.add(best)
            hits += 1
        curve.append((hits / count, hits / max(hits + misses, 1)))
    points = [[precision for recall, precision in curve if recall >= tenth * 0.1] for tenth in range(11)]
    return sum(max(precisions, default=0) for precisions in points) / 11


# Few and small numbers: equal overlaps, overlaps on a threshold and equal scores are common.
LABELS = st.integers(0, 1)
BOXES = st.builds(
    lambda x, y, width, height: (x, y, x + width, y + height),
    st.integers(0, 4),
    st.integers(0, 4),
    st.integers(4, 10),
    st.integers(4, 10),
)
OBJECTS = st.lists(st.tuples(st.integers(0, 2), BOXES, LABELS, st.booleans()), max_size=12)
SCORES = st.sampled_from([0.25, 0.5, 0.75, 1.0])
DETECTIONS = st.lists(st.tuples(st.integers(0, 2), BOXES, LABELS, SCORES), max_size=25)


@settings(deadline=None)
@given(OBJECTS, DETECTIONS)
def test_the_plain_rules_give_the_same(objects: list[Object], detections: list[Detection]) -> None:
    metrics = voc07_metrics(split(objects), table(detections))
    present = [label for label in (0, 1) if any(o[2] == label and not o[3] for o in objects)]
    thresholds = [Fraction(percent, 100) for percent in range(50, 100, 5)]
    expected = np.array([[slow_ap(objects, detections, label, t) for label in present] for t in thresholds])
    assert set(metrics.per_class) == {NAMES[label] for label in present}
    for column, label in enumerate(present):
        assert metrics.per_class[NAMES[label]] == pytest.approx(expected[:, column].mean(), abs=1e-12)
    if present:
        assert metrics.summary["AP"] == pytest.approx(expected.mean(), abs=1e-12)
        for name, at in {"AP50": 0, "AP60": 2, "AP70": 4, "AP75": 5, "AP80": 6, "AP90": 8}.items():
            assert metrics.summary[name] == pytest.approx(expected[at].mean(), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_pycocotools_agrees_where_the_rules_do(seed: int) -> None:
    """Objects apart, one detection at most of each: the recall curves are COCO's, read at every tenth point.

    The number of objects is prime, so that no recall but 0 and 1 lies on one of the 11 points, where COCO's
    floats and ours could differ.
    """
    rng = np.random.default_rng(seed)
    objects: list[Object] = []
    detections: list[Detection] = []
    for number in range(2 * 13):
        x, y = 60 * (number % 3), 60 * (number // 3 % 3)
        box = np.array([x, y, x + rng.uniform(20, 50), y + rng.uniform(20, 50)])
        label = number % 2
        objects.append((number // 9, tuple(box.tolist()), label, False))
        if rng.random() < 0.9:
            shifted = box + rng.normal(0, 3, 4)
            detections.append((number // 9, tuple(shifted.tolist()), label, float(np.float32(rng.random()))))
        if rng.random() < 0.3:
            detections.append(
                (number // 9, (170.0, 170.0, 190.0, 190.0), label, float(np.float32(rng.random())))
            )

    def index(entries: list[tuple[int, Box, int, float]]) -> COCO:
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(3)],
            "categories": [{"id": label} for label in range(2)],
            "annotations": [
                {
                    "id": place,
                    "image_id": image,
                    "category_id": label,
                    "bbox": [
                        *np.float32(box[:2]).tolist(),
                        *(np.float32(box[2:]) - np.float32(box[:2])).tolist(),
                    ],
                    "area": 1000.0,
                    "iscrowd": 0,
                    "score": score,
                }
                for place, (image, box, label, score) in enumerate(entries, start=1)
            ],
        }
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(index(objects), index(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # [threshold, recall, class, area, max detections]
    expected = evaluation.eval["precision"][:, ::10, :, 0, -1].mean(axis=1)
    assert 0.1 < expected.mean() < 0.9
    summary = voc07_metrics(split(objects), table(detections)).summary
    assert summary["AP"] == pytest.approx(expected.mean(), abs=1e-9)
    assert summary["AP75"] == pytest.approx(expected[5].mean(), abs=1e-9)
    assert summary["AP90"] == pytest.approx(expected[8].mean(), abs=1e-9)
