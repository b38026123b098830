from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drcnn.data.annotations import Annotations, Record
from drcnn.engine.average_precision import coco_metrics, voc07_metrics

from .ap_oracles import exact_voc07_metrics, pycocotools_precision

Box = tuple[float, float, float, float]
# Image, box, label, ignored; and image, box, label, score.
Object = tuple[int, Box, int, bool]
Detection = tuple[int, Box, int, float]

NAMES = ("cat", "dog", "never")
A, B, FAR = (0, 0, 10, 10), (20, 20, 40, 40), (100, 100, 110, 110)


def split(objects: list[Object], images: int = 3) -> Annotations:
    records = []
    for image in range(images):
        entries = [entry[1:] for entry in objects if entry[0] == image]
        boxes, labels, ignore = zip(*entries, strict=True) if entries else ([], [], [])
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
def test_equal_scores_rank_by_image_then_in_the_order_of_the_table(first_is_right: bool) -> None:
    expected = 1 if first_is_right else 1 / 2
    found: list[Detection] = [(0, A, 0, 0.5), (0, FAR, 0, 0.5)]
    assert ap50([(0, A, 0, False)], found if first_is_right else found[::-1]) == pytest.approx(expected)
    # As MMDetection, which gathers detections image by image.
    image = 0 if first_is_right else 2
    for rows in ([(image, A, 0, 0.5), (1, FAR, 0, 0.5)], [(1, FAR, 0, 0.5), (image, A, 0, 0.5)]):
        assert ap50([(image, A, 0, False)], rows) == pytest.approx(expected)


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
    expected = exact_voc07_metrics(split(objects), table(detections))
    assert metrics.per_class == pytest.approx(expected.per_class, abs=1e-12)
    assert metrics.summary == pytest.approx(expected.summary, abs=1e-12)
    labels = {label for _, _, label, ignored in objects if not ignored}
    assert set(metrics.per_class) == {NAMES[label] for label in labels}


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

    precision = pycocotools_precision(split(objects), table(detections))
    expected = precision[:, ::10, :2, 0].mean(axis=1)
    assert 0.1 < expected.mean() < 0.9
    summary = voc07_metrics(split(objects), table(detections)).summary
    assert summary["AP"] == pytest.approx(expected.mean(), abs=1e-9)
    assert summary["AP75"] == pytest.approx(expected[5].mean(), abs=1e-9)
    assert summary["AP90"] == pytest.approx(expected[8].mean(), abs=1e-9)
