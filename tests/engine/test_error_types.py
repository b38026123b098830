from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from drcnn.data.annotations import Annotations
from drcnn.engine.average_precision import Protocol, score_split
from drcnn.engine.error_types import ERROR_TYPES, ErrorType, ErrorTypes, find_errors
from drcnn.engine.judged_detections import judge
from drcnn.engine.metrics import mean_of_present

from .diagnosis_helpers import CLASSES, found, split

A, B = (0, 0, 40, 40), (50, 50, 90, 90)
SHIFTED = (20, 0, 60, 40)  # IoU 1/3 with A
NOWHERE = (60, 0, 95, 30)
HALF = 51 / 101  # the precision is 1 at recalls 0, 0.01 ... 0.50 of 101


def errors(annotations: Annotations, detections: pa.Table, protocol: Protocol = "coco") -> ErrorTypes:
    return find_errors(judge(annotations, detections, protocol))


@pytest.mark.parametrize("protocol", ["coco", "voc07"])
@pytest.mark.parametrize(
    ("kind", "objects", "detections", "ap50"),
    [
        # The cat is called a dog, and the dog is found: cats have AP 0, dogs a false one at first, 1/2.
        ("class", [("cat", A), ("dog", B)], [("dog", 0.9, A), ("dog", 0.8, B)], 1 / 4),
        # At its place is a box of IoU 1/3.
        ("localisation", [("cat", A)], [("cat", 0.9, SHIFTED)], 0),
        # Wrong in both; the cat itself is found, but the false dog is first among dogs.
        (
            "both",
            [("cat", A), ("dog", B)],
            [("cat", 0.9, A), ("dog", 0.9, SHIFTED), ("dog", 0.8, B)],
            3 / 4,
        ),
        # A second box on the first cat comes before the second cat: precision 1 to recall 1/2, then 2/3.
        (
            "duplicate",
            [("cat", A), ("cat", B)],
            [("cat", 0.9, A), ("cat", 0.8, (0, 0, 40, 38)), ("cat", 0.7, B)],
            None,
        ),
        ("background", [("cat", A)], [("cat", 0.9, NOWHERE), ("cat", 0.8, A)], 1 / 2),
        ("missed", [("cat", A), ("cat", B)], [("cat", 0.9, A)], None),
    ],
)
def test_each_type_alone_costs_what_is_lost(
    kind: ErrorType,
    objects: list[tuple[str, tuple[float, ...]]],
    detections: list[tuple[str, float, tuple[float, ...]]],
    ap50: float | None,
    protocol: Protocol,
) -> None:
    """With the one error corrected AP is 1, and no other type costs anything."""
    if ap50 is None:
        half = 6 / 11 if protocol == "voc07" else HALF
        ap50 = half + (1 - half) * 2 / 3 if kind == "duplicate" else half
    sorted_errors = errors(split(objects), found(*((0, *detection) for detection in detections)), protocol)
    assert sorted_errors.counts == {**dict.fromkeys(ERROR_TYPES, 0), kind: 1}
    assert sorted_errors.ap50_without([]) == pytest.approx(ap50)
    expected = {**dict.fromkeys(ERROR_TYPES, 0.0), kind: 1 - ap50}
    assert sorted_errors.lost() == pytest.approx(expected)


def test_only_the_best_of_several_errors_of_an_object_becomes_right() -> None:
    """Two boxes beside one cat: the better is corrected, the other removed, so that AP is 1."""
    two = found((0, "cat", 0.9, SHIFTED), (0, "cat", 0.8, (0, 20, 40, 60)), (0, "cat", 0.7, NOWHERE))
    sorted_errors = errors(split([("cat", A)]), two)
    assert sorted_errors.counts["localisation"] == 2
    assert sorted_errors.lost()["localisation"] == pytest.approx(1)
    # An object that is found already makes no second detection right: it is removed.
    with_found = found((0, "cat", 0.9, SHIFTED), (0, "cat", 0.8, A))
    sorted_errors = errors(split([("cat", A)]), with_found)
    assert sorted_errors.lost()["localisation"] == pytest.approx(1 / 2)


def test_an_object_that_is_meant_is_not_missed() -> None:
    sorted_errors = errors(split([("cat", A), ("cat", B)]), found((0, "cat", 0.9, SHIFTED)))
    assert sorted_errors.counts["missed"] == 1
    # Nothing is left to find of owls; a false owl remains, and owls stay at 0.
    annotations = split([("cat", A), ("owl", B)])
    sorted_errors = errors(annotations, found((0, "cat", 0.9, A), (0, "owl", 0.9, NOWHERE)))
    assert sorted_errors.lost()["missed"] == pytest.approx(0)
    assert sorted_errors.ap50_without(["missed", "background"]) == pytest.approx(1)


def test_ignored_objects_are_neither_errors_nor_missed() -> None:
    annotations = split([("cat", A), ("dog", B)], ignored=[0])
    sorted_errors = errors(annotations, found((0, "cat", 0.9, A), (0, "dog", 0.9, B)))
    assert set(sorted_errors.counts.values()) == {0}
    assert sorted_errors.ap50_without([]) == 1
    sorted_errors = errors(annotations, found((0, "dog", 0.95, A), (0, "dog", 0.9, B)))
    assert sorted_errors.counts["background"] == 1


@pytest.mark.parametrize("protocol", ["coco", "voc07"])
@pytest.mark.parametrize("seed", range(6))
def test_with_every_error_corrected_ap_is_one(seed: int, protocol: Protocol) -> None:
    """And with none, it is that of the metric."""
    random = np.random.default_rng(seed)

    def box() -> tuple[float, ...]:
        x, y = random.uniform(0, 60, 2)
        return (x, y, x + random.uniform(10, 40), y + random.uniform(10, 40))

    images = [[(CLASSES[random.integers(3)], box()) for _ in range(3)] for _ in range(8)]
    annotations = split(*images, ignored=[1])
    guesses = [
        (number, name if random.random() < 0.6 else "owl", random.random(), tuple(random.normal(place, 5)))
        for number, objects in enumerate(images)
        for name, place in objects * 3
    ]
    guesses = [
        (number, name, score, (x, y, max(x, w), max(y, h))) for number, name, score, (x, y, w, h) in guesses
    ]
    detections = found(*guesses, *((0, "cat", random.random(), box()) for _ in range(8)))
    sorted_errors = errors(annotations, detections, protocol)
    ap50 = mean_of_present(score_split(annotations, detections, protocol).class_ap()[0])
    assert sorted_errors.ap50_without([]) == pytest.approx(ap50)
    assert 0 < ap50 < 1
    assert sorted_errors.ap50_without(ERROR_TYPES) == pytest.approx(1)
    assert all(lost >= -1e-12 for lost in sorted_errors.lost().values())
    assert sum(map(len, sorted_errors.of_detection.values())) == sorted_errors.judged.is_wrong.sum()
