"""Linear soft-NMS against the greedy loop of Bodla et al., one class of one image at a time."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from drcnn.detector.boxes import pairwise_iou
from drcnn.detector.postprocess import postprocess
from drcnn.detector.soft_nms import soft_nms

IMAGES, CLASSES = 3, 3
Boxes = tuple[Tensor, Tensor, Tensor, Tensor]


def crowd(seed: int, count: int) -> Boxes:
    """Image, boxes, class and score of boxes that overlap a lot; scores are all different."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 20
    boxes = torch.cat((corners, corners + 10 + torch.rand(count, 2, generator=generator) * 15), dim=1)
    image = torch.randint(0, IMAGES, (count,), generator=generator)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    # From 0.002, where a single decay goes below the least score, up to 1.
    scores = (torch.randperm(count, generator=generator) + 1.0) / count
    return image, boxes, labels, (scores**3 * 0.998 + 0.002)


def plain_soft_nms(
    boxes: list[list[float]], scores: list[float], threshold: float
) -> list[tuple[int, float]]:
    """(Position, score) as they are taken from one class of one image: Bodla et al., Fig. 3, linear."""
    waiting, taken = dict(enumerate(scores)), []
    while waiting:
        best = max(waiting, key=lambda index: waiting[index])
        score = waiting.pop(best)
        if score < 0.001:
            break
        taken.append((best, score))
        x1, y1, x2, y2 = boxes[best]
        for index in waiting:
            a1, b1, a2, b2 = boxes[index]
            shared = max(0.0, min(x2, a2) - max(x1, a1)) * max(0.0, min(y2, b2) - max(y1, b1))
            iou = shared / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - shared)
            if iou > threshold:
                waiting[index] *= 1 - iou
    return taken


def expected_of(found: Boxes, threshold: float, most: int) -> list[list[tuple[int, float]]]:
    """Position and score of each image's detections, by falling score."""
    image, boxes, labels, scores = found
    result = []
    for number in range(IMAGES):
        everything = []
        for label in range(CLASSES):
            rows = ((image == number) & (labels == label)).nonzero().squeeze(1).tolist()
            taken = plain_soft_nms(boxes[rows].tolist(), scores[rows].tolist(), threshold)
            everything += [(rows[index], score) for index, score in taken]
        result.append(sorted(everything, key=lambda entry: -entry[1])[:most])
    return result


@given(
    st.integers(0, 10**6),
    st.integers(0, 60),
    st.sampled_from([0.0, 0.3, 0.5, 0.9]),
    st.sampled_from([3, 20, 100]),
)
@settings(deadline=None)
def test_soft_nms_equals_a_greedy_loop(seed: int, count: int, threshold: float, most: int) -> None:
    """For several images and classes at once, with fewer and with more detections than are wanted."""
    found = crowd(seed, count)
    image, boxes, labels, scores = found
    kept, decayed = soft_nms(
        image, boxes, labels, scores, images=IMAGES, threshold=threshold, max_detections=most
    )
    expected = expected_of(found, threshold, most)
    assert len(kept) == sum(len(each) for each in expected)
    for number, each in enumerate(expected):
        mine = image[kept] == number
        # By score: two that decayed to the same number but for rounding may change places.
        torch.testing.assert_close(
            decayed[mine], torch.tensor([score for _, score in each]), rtol=1e-4, atol=1e-6
        )
        by_position = dict(zip(kept[mine].tolist(), decayed[mine].tolist(), strict=True))
        assert len(by_position) == len(each)
        if len(each) < most:
            assert by_position.keys() == {position for position, _ in each}


def test_a_box_is_taken_at_its_decayed_score() -> None:
    """Two boxes of IoU 0.6: the second one's score becomes 0.4 times what it was; a third class is left."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 6], [0.0, 0, 10, 10]])
    kept, scores = soft_nms(
        torch.zeros(3, dtype=torch.int64),
        boxes,
        torch.tensor([0, 0, 1]),
        torch.tensor([0.9, 0.8, 0.5]),
        images=1,
        threshold=0.5,
        max_detections=10,
    )
    assert kept.tolist() == [0, 2, 1]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.5, 0.32]))


def test_overlap_up_to_the_threshold_and_other_images_lower_nothing() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 5], [0.0, 0, 10, 10]])
    kept, scores = soft_nms(
        torch.tensor([0, 0, 1]),
        boxes,
        torch.zeros(3, dtype=torch.int64),
        torch.tensor([0.9, 0.8, 0.7]),
        images=2,
        threshold=0.5,
        max_detections=10,
    )
    assert kept.tolist() == [0, 1, 2]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.8, 0.7]))


def test_what_decays_below_a_thousandth_is_dropped() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 9.9], [0.0, 0, 10, 10]])
    kept, _ = soft_nms(
        torch.zeros(3, dtype=torch.int64),
        boxes,
        torch.zeros(3, dtype=torch.int64),
        torch.tensor([0.9, 0.09, 0.8]),
        images=1,
        threshold=0.5,
        max_detections=10,
    )
    assert kept.tolist() == [0]


def test_no_boxes_give_no_detections() -> None:
    image, boxes, labels, scores = crowd(0, 0)
    kept, decayed = soft_nms(image, boxes, labels, scores, images=2, threshold=0.5, max_detections=10)
    assert kept.shape == decayed.shape == (0,)
    assert kept.dtype == torch.int64


@given(st.integers(0, 10**6), st.integers(0, 60))
@settings(deadline=None)
def test_without_overlap_above_the_threshold_soft_is_hard(seed: int, count: int) -> None:
    """Their detections have the same form and order; scores fall within each image."""
    image, boxes, labels, scores = crowd(seed, count)
    same = (image[:, None] == image) & (labels[:, None] == labels) & ~torch.eye(count, dtype=torch.bool)
    alone = ~((pairwise_iou(boxes, boxes) > 0.4) & same).any(dim=1)
    arguments = image[alone], boxes[alone], labels[alone], scores[alone]
    soft, hard = (
        postprocess(*arguments, images=IMAGES, nms_threshold=0.4, max_detections=7, soft=soft)
        for soft in (True, False)
    )
    for number in range(IMAGES):
        mine, other = soft.image == number, hard.image == number
        for name in ("boxes", "labels", "scores"):
            assert torch.equal(getattr(soft, name)[mine], getattr(hard, name)[other])
        assert (soft.scores[mine].diff() <= 0).all()
