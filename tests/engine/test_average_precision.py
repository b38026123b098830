from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drcnn.data.annotations import Annotations, Record
from drcnn.engine.average_precision import (
    METRICS,
    Protocol,
    ScoredSplit,
    coco_metrics,
    figures,
    score_split,
    voc07_metrics,
)

from .ap_oracles import exact_voc07_metrics, pycocotools_metrics

CLASSES = ["cat", "dog", "never"]
METRICS_OF = {"coco": coco_metrics, "voc07": voc07_metrics}
ORACLE_OF = {"coco": pycocotools_metrics, "voc07": exact_voc07_metrics}


def table(rows: list[tuple[str, int, float, list[float]]]) -> pa.Table:
    return pa.table(
        {
            "image_id": pa.array([row[0] for row in rows], pa.string()),
            "label": pa.array([row[1] for row in rows], pa.int32()),
            "score": pa.array([row[2] for row in rows], pa.float32()),
            **{
                name: pa.array([row[3][side] for row in rows], pa.float32())
                for side, name in enumerate(("x1", "y1", "x2", "y2"))
            },
        }
    )


def random_split(
    seed: int, images: int = 12, ignore: float = 0.2, tied: bool = True, detections: int = 8
) -> tuple[list[Record], list[tuple[str, int, float, list[float]]]]:
    """Crowded images whose boxes have whole sides and overlap much; some without objects or detections."""
    rng = np.random.default_rng(seed)
    records, rows = [], []
    for number in range(images):
        count = int(rng.integers(0, 6))
        corners = rng.integers(0, 12, size=(count, 2))
        boxes = np.concatenate([corners, corners + rng.integers(4, 11, size=corners.shape)], axis=1)
        labels = rng.integers(0, 2, size=count)
        records.append(
            Record(f"i{number}", 40, 40, boxes, labels, ignore=rng.random(count) < ignore, path="x.jpg")
        )
        for _ in range(int(rng.integers(0, detections))):
            source = boxes[rng.integers(count)] if count else np.array([0, 0, 5, 5])
            box = source + rng.integers(-1, 2, size=4)
            score = float(rng.integers(1, 6)) / 5 if tied else float(rng.random())
            rows.append((f"i{number}", int(rng.integers(0, 3)), score, [float(side) for side in box]))
    return records, rows


def build(seed: int, **options: Any) -> tuple[Annotations, pa.Table]:
    records, rows = random_split(seed, **options)
    return Annotations.from_records(records, classes=CLASSES), table(rows)


def expected(protocol: Protocol, annotations: Annotations, detections: pa.Table) -> dict[str, float]:
    return ORACLE_OF[protocol](annotations, detections).summary


@pytest.mark.parametrize("protocol", ["coco", "voc07"])
@given(seed=st.integers(0, 2**32 - 1), ignore=st.sampled_from([0.0, 0.3, 1.0]), tied=st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_image_once_gives_the_metric_itself(
    protocol: Protocol, seed: int, ignore: float, tied: bool
) -> None:
    annotations, detections = build(seed, ignore=ignore, tied=tied)
    summary = expected(protocol, annotations, detections)
    for name, value in figures(score_split(annotations, detections, protocol).ap()).items():
        assert value == pytest.approx(summary.get(name, np.nan), abs=1e-12, nan_ok=True), name


def test_more_than_100_detections_of_a_class_in_an_image() -> None:
    annotations, detections = build(3, images=3, ignore=0.1, tied=False, detections=800)
    assert detections.num_rows > 600
    for protocol in ("coco", "voc07"):
        ap = figures(score_split(annotations, detections, protocol).ap())  # type: ignore[arg-type]
        summary = expected(protocol, annotations, detections)  # type: ignore[arg-type]
        assert {name: float(value) for name, value in ap.items()} == pytest.approx(
            {name: summary[name] for name in METRICS}, abs=1e-12
        )


# On and beside the limits of the area ranges, 32² = 1024 and 96² = 9216.
SIDES = [(32, 32), (31, 33), (64, 16), (96, 96), (95, 97), (48, 192), (20, 24), (110, 90)]
LIMITS = np.float32([0, 1024, 9216, 1e10])
ANNOTATED_AREAS = np.concatenate([LIMITS, np.nextafter(LIMITS, np.float32(-1)), np.nextafter(LIMITS, np.inf)])


def sized_split(seed: int, detections: int, ignore: float, tied: bool) -> tuple[Annotations, pa.Table]:
    """Images of objects and detections of areas on the limits; annotated areas may differ from the boxes'."""
    rng = np.random.default_rng(seed)
    records, rows = [], []
    for number in range(8):
        count = int(rng.integers(0, 7))
        corners = rng.integers(0, 40, size=(count, 2))
        boxes = np.concatenate([corners, corners + rng.permuted(rng.choice(SIDES, count), axis=1)], axis=1)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        areas = np.where(rng.random(count) < 0.5, areas, rng.choice(ANNOTATED_AREAS, count))
        labels, ignored = rng.integers(0, 2, size=count), rng.random(count) < ignore
        records.append(Record(f"i{number}", 300, 300, boxes, labels, ignored, areas, path="x.jpg"))
        for _ in range(int(rng.integers(0, detections))):
            if count and rng.random() < 0.8:
                box = boxes[rng.integers(count)] + rng.choice([-3, 0, 0, 0, 2], size=4)
            else:
                box = np.tile(rng.integers(0, 150, size=2), 2)
                box[2:] += SIDES[rng.integers(len(SIDES))]
            score = float(rng.integers(1, 6)) / 5 if tied else float(rng.random())
            rows.append((f"i{number}", int(rng.integers(0, 2)), score, [float(side) for side in box]))
    order = rng.permutation(len(rows))
    return Annotations.from_records(records, classes=CLASSES), table([rows[place] for place in order])


def assert_is_pycocotools(annotations: Annotations, detections: pa.Table) -> None:
    metrics, expected = (f(annotations, detections) for f in (coco_metrics, pycocotools_metrics))
    assert list(metrics.summary) == list(expected.summary)
    assert metrics.summary == pytest.approx(expected.summary, abs=1e-12)
    assert metrics.per_class == pytest.approx(expected.per_class, abs=1e-12)


@given(
    seed=st.integers(0, 2**32 - 1),
    detections=st.sampled_from([3, 12, 40]),
    ignore=st.sampled_from([0.0, 0.3, 1.0]),
    tied=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_evaluation_is_pycocotools_for_every_area_and_class(
    seed: int, detections: int, ignore: float, tied: bool
) -> None:
    assert_is_pycocotools(*sized_split(seed, detections, ignore, tied))


@pytest.mark.parametrize("tied", [False, True])
def test_evaluation_of_more_than_100_detections_is_pycocotools(tied: bool) -> None:
    annotations, detections = sized_split(2, 700, 0.3, tied)
    assert detections.num_rows > 2000
    assert_is_pycocotools(annotations, detections)


@pytest.mark.parametrize("protocol", ["coco", "voc07"])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_every_protocol_evaluates_each_class(protocol: Protocol, seed: int) -> None:
    annotations, detections = build(seed)
    metrics = METRICS_OF[protocol](annotations, detections)
    assert metrics.per_class == pytest.approx(
        ORACLE_OF[protocol](annotations, detections).per_class, abs=1e-12
    )


@pytest.mark.parametrize(("crowd", "ap_large"), [(False, 0.5), (True, 1.0)])
def test_an_object_outside_the_area_range_takes_one_detection_only(crowd: bool, ap_large: float) -> None:
    """Its second detection is wrong. A crowd takes both."""
    boxes = [[0, 0, 100, 100], [200, 200, 299, 299]]
    record = Record("a", 300, 300, boxes, [0, 0], [crowd, False], areas=[50, 99**2], path="a.jpg")
    annotations = Annotations.from_records([record], classes=CLASSES)
    # Two of the first object, which only its annotated area makes small.
    detections = table([("a", 0, 0.9, boxes[0]), ("a", 0, 0.8, boxes[0]), ("a", 0, 0.7, boxes[1])])
    summary = coco_metrics(annotations, detections).summary
    assert summary["AP_large"] == pytest.approx(ap_large)
    assert_is_pycocotools(annotations, detections)


def test_pairs_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    annotations, detections = sized_split(7, 60, 0.3, False)
    metrics = [METRICS_OF[protocol](annotations, detections) for protocol in ("coco", "voc07")]
    monkeypatch.setattr("drcnn.engine.ap_matching.PAIRS", 5)
    assert metrics == [METRICS_OF[protocol](annotations, detections) for protocol in ("coco", "voc07")]


@pytest.mark.parametrize("protocol", ["coco", "voc07"])
@given(seed=st.integers(0, 2**32 - 1), tied=st.booleans(), detections=st.sampled_from([8, 25]))
@settings(max_examples=60, deadline=None)
def test_a_weight_is_so_many_copies_of_the_image(
    protocol: Protocol, seed: int, tied: bool, detections: int
) -> None:
    """Of equal scores the copies of an image rank one after the other, each with its own detections."""
    records, rows = random_split(seed, tied=tied, detections=detections)
    weights = np.random.default_rng(seed).integers(0, 4, size=len(records))
    copies, copied_rows = [], []
    for number, (record, weight) in enumerate(zip(records, weights, strict=True)):
        for copy in range(weight):
            name = f"i{number}-{copy}"
            copies.append(
                Record(name, 40, 40, record.boxes, record.labels, ignore=record.ignore, path="x.jpg")
            )
            copied_rows += [(name, *row[1:]) for row in rows if row[0] == record.id]
    if not copies:
        return
    annotations = Annotations.from_records(copies, classes=CLASSES)
    summary = expected(protocol, annotations, table(copied_rows))
    split = score_split(Annotations.from_records(records, classes=CLASSES), table(rows), protocol)
    for name, value in figures(split.ap(weights)).items():
        assert value == pytest.approx(summary.get(name, np.nan), abs=1e-12, nan_ok=True), name


@pytest.mark.parametrize("swapped", [False, True])
def test_a_detection_between_two_objects_takes_the_one_that_pycocotools_gives_it(swapped: bool) -> None:
    objects = [[0, 0, 10, 10], [10, 0, 20, 10]]
    annotations = Annotations.from_records(
        [Record("a", 40, 40, objects[::-1] if swapped else objects, [0, 0], path="a.jpg")], classes=CLASSES
    )
    detections = table([("a", 0, 0.9, [0, 0, 20, 10]), ("a", 0, 0.8, [0, 0, 10, 10])])
    ap50 = figures(score_split(annotations, detections).ap())["AP50"]
    assert ap50 == pytest.approx(expected("coco", annotations, detections)["AP50"])
    assert (ap50 > 0.9) == (not swapped)


def test_copies_of_tied_detections_rank_copy_by_copy() -> None:
    """An image with a right and a wrong detection of one score, twice: right, wrong, right, wrong."""
    box, far = [0, 0, 9, 9], [20, 20, 29, 29]
    annotations = Annotations.from_records([Record("a", 40, 40, [box], [0], path="a.jpg")], classes=CLASSES)
    tied = score_split(annotations, table([("a", 0, 0.5, box), ("a", 0, 0.5, far)]))
    # Recall 0 to 0.5 at precision 1, the rest at 2/3: 51 and 50 of 101 points.
    assert tied.ap([2]) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert score_split(annotations, table([("a", 0, 0.5, box), ("a", 0, 0.4, far)])).ap([2]) == pytest.approx(
        1
    )


def test_many_weights_at_once_are_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    split = score_split(*build(5, images=40))
    weights = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), size=30)
    one_by_one = np.stack([split.ap(row) for row in weights])
    assert split.ap(weights).shape == (30, 10)
    np.testing.assert_array_equal(split.ap(weights), one_by_one)
    monkeypatch.setattr("drcnn.engine.average_precision.BLOCK", 700)  # a few rows at a time
    np.testing.assert_array_equal(split.ap(weights), one_by_one)


def test_a_class_without_weight_is_left_out_of_the_mean() -> None:
    annotations = Annotations.from_records(
        [
            Record("a", 40, 40, [[0, 0, 9, 9]], [0], path="a.jpg"),
            Record("b", 40, 40, [[0, 0, 9, 9]], [1], path="b.jpg"),
        ],
        classes=CLASSES,
    )
    split = score_split(annotations, table([("a", 0, 0.9, [0, 0, 9, 9]), ("b", 0, 0.95, [0, 0, 9, 9])]))
    assert split.ap([1, 1]) == pytest.approx(0.25)  # (1/2 + 0) / 2
    assert split.ap([1, 0]) == pytest.approx(1.0)
    assert split.ap([3, 1]) == pytest.approx(0.375)  # (3/4 + 0) / 2
    assert np.isnan(split.ap([0, 0])).all()


def test_no_detections_at_all() -> None:
    annotations, _ = build(1)
    np.testing.assert_array_equal(score_split(annotations, table([])).ap(), np.zeros(10))


def test_detections_of_another_split_are_refused() -> None:
    annotations, _ = build(1)
    with pytest.raises(ValueError, match="another split: image 'elsewhere'"):
        score_split(annotations, table([("elsewhere", 0, 0.5, [0, 0, 1, 1])]))


def test_weights_of_another_length_are_refused() -> None:
    split = score_split(*build(1, images=12))
    with pytest.raises(ValueError, match=r"\(11,\); expected one for each of 12 images"):
        split.ap(np.ones(11))
    for weight in (0.5, -1.0, np.nan):
        with pytest.raises(ValueError, match="whole numbers from 0"):
            split.ap(np.full(12, weight))


def test_a_thousand_resamples_at_once_are_each_alone() -> None:
    """A tenth of COCO's size, 500 images and 8 classes: more than fits one block of the computation."""
    rng = np.random.default_rng(0)
    records, rows = [], []
    for number in range(500):
        corners = rng.uniform(0, 400, (7, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(20, 150, (7, 2))], axis=1)
        labels = rng.integers(0, 8, 7)
        records.append(Record(f"i{number}", 600, 600, boxes, labels, path="x.jpg"))
        names = [f"i{number}"] * 42
        jittered = np.repeat(boxes, 6, axis=0) + rng.normal(0, 8, (42, 4))
        rows += list(
            zip(names, np.repeat(labels, 6).tolist(), rng.random(42).tolist(), jittered.tolist(), strict=True)
        )
    split: ScoredSplit = score_split(
        Annotations.from_records(records, classes=[str(label) for label in range(8)]), table(rows)
    )
    weights = rng.multinomial(500, np.full(500, 1 / 500), size=1000)
    together = split.ap(weights)
    assert together.shape == (1000, 10)
    for draw in (0, 1, 499, 998, 999):
        np.testing.assert_allclose(together[draw], split.ap(weights[draw]), rtol=0, atol=1e-12)
