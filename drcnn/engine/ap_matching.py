"""Which detections of a class are correct, by COCO's rule and by VOC2007's.

Both rules visit the detections by falling score. If the object that a detection overlaps most is already
taken, COCO's rule gives the detection the next best free object; VOC2007's counts it as wrong.

Shape shorthand: A area ranges, T the ten IoU thresholds; of one class in the whole split: D detections,
G objects, P pairs of a detection and an object of the same image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from drcnn.engine.metrics import COCO_DETECTIONS, IOU_THRESHOLDS

__all__ = [
    "COCO_AREAS",
    "Boxes",
    "Detections",
    "Objects",
    "ScoredClass",
    "match_coco",
    "match_voc07",
    "near_pairs",
]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Positions = NDArray[np.intp]

# The very floats of pycocotools: the ninth is slightly below 0.9.
COCO_THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
# The smallest and the largest area of each range in square pixels; both belong to it.
COCO_AREAS: dict[str, tuple[float, float]] = {
    "all": (0, 1e10),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e10),
}
PAIRS = 1 << 18  # compared at a time: about 50 MiB
TURN = 1 << 10  # detections matched at a time: about 20 MiB where each has ten objects to choose from


@dataclass(frozen=True)
class Boxes:
    """N boxes of a split.

    Attributes:
        row: int[N], of the table of detections, or of all boxes of the annotations.
        label: int[N], class.
        image: int[N], row of the image.
        sides: float[N, 4], x1, y1, width and height in pixels.
        area: float[N], square pixels.
    """

    row: Positions
    label: NDArray[np.integer[Any]]
    image: Positions
    sides: Floats
    area: Floats

    def select(self, rows: Positions | Flags) -> Self:
        """Return some of the boxes."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Detections(Boxes):
    """Detected boxes of a split.

    Attributes:
        score: float[N].
    """

    score: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Objects(Boxes):
    """The annotated boxes of a split, with their annotated areas.

    Attributes:
        ignore: bool[N], VOC's difficult or COCO's crowd: neither a miss nor a detection of it counts.
    """

    ignore: Flags


@dataclass(frozen=True)
class ScoredClass:
    """The detections of one class, by falling score.

    Attributes:
        image: int[D], row of each detection's image.
        correct: bool[T, D], matches an object that no better detection matches.
        ignored: bool[T, D], counts neither for nor against; all others count as wrong.
        objects: int[number of objects to find], row of the image of each.
        score: float[D], never rising.
        row: int[D], of the table of detections.
        taken: int[D], the object that each finds at IoU 0.5, a row of the annotations' boxes; -1: none.
    """

    image: Positions
    correct: Flags
    ignored: Flags
    objects: Positions
    score: NDArray[np.floating[Any]]
    row: Positions
    taken: Positions


def match_coco(
    detections: Detections, objects: Objects, areas: Sequence[tuple[float, float]]
) -> list[ScoredClass]:
    """Match one class as ``COCOeval.evaluateImg`` does.

    - A detection matches the free object that it overlaps most. If none is near enough, it matches the
      ignored object that it overlaps most, and is ignored.
    - Objects marked ``ignore`` are crowds: each matches any number of detections, and a detection's overlap
      with it is the part of the detection that lies on it.
    - For each area range, objects outside it are ignored too, but match one detection each; detections
      outside it that match nothing are ignored.

    Args:
        detections: all of one class in the split, by falling score.
        objects: all of that class.
        areas: smallest and largest area of each range in square pixels, inclusive.

    Returns:
        The detections as scored for each area range.
    """
    detections = detections.select(_rank_in_image(detections.image) < COCO_DETECTIONS)
    # Of equal overlaps pycocotools takes the last object, argmax the first.
    objects = objects.select(np.arange(len(objects.image))[::-1])
    detection, target, overlap = near_pairs(detections, objects, objects.ignore)
    ignore = objects.ignore | _is_outside(objects.area, areas)
    is_near = overlap >= COCO_THRESHOLDS[:, None]
    # Overlaps are 0.5 to 1, so those with ignored objects come last. A quarter is exact: it keeps ties.
    preference = np.where(ignore[:, None, target], 0.25 * overlap, overlap)

    correct = np.zeros((len(areas), len(COCO_THRESHOLDS), len(detections.image)), dtype=np.bool_)
    ignored = np.zeros_like(correct)
    taken = np.full((len(areas), len(detections.image)), -1)
    free = np.ones((*correct.shape[:2], len(objects.image)), dtype=np.bool_)
    ranges, thresholds, _ = np.ogrid[: len(areas), : len(COCO_THRESHOLDS), :1]
    places, begins, counts = np.unique(detection, return_index=True, return_counts=True)
    for turn in _turns(detections.image[places]):
        place = places[turn]
        # Pairs [S, N] of S detections; rows are filled up with their last pair, which argmax never takes.
        nth = np.arange(counts[turn].max())
        pair = begins[turn, None] + np.minimum(nth, counts[turn, None] - 1)
        candidates = is_near[:, pair] & free[..., target[pair]]
        best = (candidates * preference[..., pair]).argmax(axis=3)
        is_matched = np.take_along_axis(candidates, best[..., None], axis=3)[..., 0]
        matched = target[pair[np.arange(len(turn)), best]]
        is_ignored = ignore[ranges, matched]
        correct[..., place] = is_matched & ~is_ignored
        ignored[..., place] = is_matched & is_ignored
        taken[:, place] = np.where(correct[:, 0, place], objects.row[matched[:, 0]], -1)
        free[ranges, thresholds, matched] &= ~is_matched | objects.ignore[matched]
    ignored |= ~correct & _is_outside(detections.area, areas)[:, None]
    return [
        ScoredClass(
            detections.image,
            correct[at],
            ignored[at],
            objects.image[~ignore[at]],
            detections.score,
            detections.row,
            taken[at],
        )
        for at in range(len(areas))
    ]


def match_voc07(detections: Detections, objects: Objects) -> ScoredClass:
    """Match one class as MMDetection 2.4 does (``tpfp_default``); arguments as for ``match_coco``.

    A detection looks only at the object that it overlaps most. It is wrong if that one is taken, even where
    another is free, and ignored if that one is marked ``ignore``.
    """
    # Of equal overlaps the first is taken: an object to find.
    objects = objects.select(np.argsort(objects.ignore, kind="stable"))
    detection, target, overlap = near_pairs(detections, objects, np.zeros_like(objects.ignore))
    order = np.lexsort((-overlap, detection))
    best = order[np.unique(detection[order], return_index=True)[1]]
    detection, target, overlap = detection[best], target[best], overlap[best]

    correct = np.zeros((len(IOU_THRESHOLDS), len(detections.image)), dtype=np.bool_)
    ignored = np.zeros_like(correct)
    is_near, ignore = overlap >= IOU_THRESHOLDS[:, None], objects.ignore[target]
    ignored[:, detection] = is_near & ignore
    for at, candidates in enumerate(is_near & ~ignore):
        # Of the detections near an object, the first takes it.
        first = np.unique(target[candidates], return_index=True)[1]
        correct[at, detection[candidates][first]] = True
    taken = np.full(len(detections.image), -1)
    taken[detection] = np.where(correct[0, detection], objects.row[target], -1)
    to_find = objects.image[~objects.ignore]
    return ScoredClass(detections.image, correct, ignored, to_find, detections.score, detections.row, taken)


def near_pairs(
    detections: Boxes, objects: Boxes, crowd: Flags, least: float = 0.5
) -> tuple[Positions, Positions, Floats]:
    """Return the pairs of an image that overlap enough, by detection and then in the order of objects.

    Args:
        detections: of whatever class.
        objects: likewise.
        crowd: bool[G], the objects of which any part may be overlapped.
        least: the lowest overlap, for matching the lowest IoU threshold.

    Returns:
        int[P], the detection; int[P], the object; float[P], their overlap.
    """
    by_image = np.argsort(objects.image, kind="stable")
    first = np.searchsorted(objects.image[by_image], detections.image, "left")
    count = np.searchsorted(objects.image[by_image], detections.image, "right") - first
    limits = np.searchsorted(count.cumsum(), np.arange(PAIRS, count.sum(), PAIRS))
    blocks = []
    for rows in np.split(np.arange(len(count)), limits):
        detection = np.repeat(rows, count[rows])
        offset = np.repeat(first[rows] - count[rows].cumsum() + count[rows], count[rows])
        target = by_image[np.arange(len(detection)) + offset]
        overlap = _overlap(detections.sides[detection], objects.sides[target], crowd[target])
        near = overlap >= least
        blocks.append((detection[near], target[near], overlap[near]))
    paired, targets, overlaps = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return paired, targets, overlaps


def _turns(image: Positions) -> Iterator[Positions]:
    """Yield positions of detections that are matched together: one of an image, its earlier ones before.

    Images share no objects, so a match in one changes nothing in another.

    Args:
        image: int[N], of detections by falling score.
    """
    rank = _rank_in_image(image)
    order = np.argsort(rank, kind="stable")
    starts = np.flatnonzero(np.diff(rank[order], prepend=-1))
    for turn in np.split(order, starts[1:]) if len(order) else []:
        yield from np.split(turn, range(TURN, len(turn), TURN))


def _overlap(left: Floats, right: Floats, crowd: Flags) -> Floats:
    """Return float[P], the IoU of boxes [P, 4]; for a crowd, the intersection over the left box's area."""
    start = np.maximum(left[:, :2], right[:, :2])
    stop = np.minimum(left[:, :2] + left[:, 2:], right[:, :2] + right[:, 2:])
    common = (stop - start).clip(min=0).prod(axis=1)
    area = left[:, 2:].prod(axis=1)
    union = np.where(crowd, area, area + right[:, 2:].prod(axis=1) - common)
    overlap: Floats = np.divide(common, union, out=np.zeros_like(common), where=common > 0)
    return overlap


def _is_outside(area: Floats, areas: Sequence[tuple[float, float]]) -> Flags:
    """bool[A, N], whether each area is outside each range."""
    smallest, largest = np.array(areas, dtype=float).T[:, :, None]
    outside: Flags = (area < smallest) | (area > largest)
    return outside


def _rank_in_image(image: Positions) -> Positions:
    """int[D], how many earlier detections are of the same image."""
    order = np.argsort(image, kind="stable")
    starts = np.flatnonzero(np.diff(image[order], prepend=-1))
    sizes = np.diff(starts, append=len(image))
    rank = np.empty_like(image)
    rank[order] = np.arange(len(image)) - np.repeat(starts, sizes)
    return rank
