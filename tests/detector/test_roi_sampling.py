"""Which RoIs the samplers choose, how often, and that the official padding changes nothing."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from drcnn.batch import Batch
from drcnn.detector.boxes import clip_boxes, decode, encode
from drcnn.detector.roi_sampling import RandomSampler, RoIs, sample_positives_only, to_proposals
from drcnn.detector.rpn import Proposals

from .head_helpers import (
    BATCH,
    CLASSES,
    STDS,
    PlainRoI,
    make_features,
    make_heads,
    make_proposals,
    pooled,
)
from .test_rpn import make_batch

ONE = make_batch([[[8.0, 8.0, 24.0, 24.0], [30.0, 12.0, 56.0, 40.0]]])


def many(batch: Batch, times: int) -> Batch:
    """One image many times, each with a key of its own."""
    values = {name: value.expand(times, *value.shape[1:]) for name, value in vars(batch).items()}
    return Batch(**{**values, "keys": torch.arange(times) * 104_729 + 17})


def candidates_of(proposals: Proposals, batch: Batch, image: int, *, ground_truth: bool) -> list[list[float]]:
    boxes = proposals.boxes[image, proposals.valid[image]].tolist()
    return boxes + (batch.boxes[image, batch.labels[image] >= 0].tolist() if ground_truth else [])


def is_positive(boxes: list[list[float]], batch: Batch, image: int, iou: float) -> list[bool]:
    gt = batch.boxes[image, batch.labels[image] >= 0]
    if len(gt) == 0 or not boxes:
        return [False] * len(boxes)
    return (box_iou(torch.tensor(boxes), gt).amax(dim=1) >= iou).tolist()


def check_assignment(rois: RoIs, batch: Batch, iou: float) -> None:
    """Each RoI has the class and the box of the object that it overlaps most, or the background's -1."""
    for image, box, gt, label in zip(
        rois.image.tolist(), rois.boxes, rois.gt, rois.labels.tolist(), strict=True
    ):
        there = batch.labels[image] >= 0
        overlaps = box_iou(box[None], batch.boxes[image, there])[0]
        if len(overlaps) and overlaps.max() >= iou:
            best = int(overlaps.argmax())
            assert label == int(batch.labels[image, best])
            assert torch.equal(gt, batch.boxes[image, best])
        else:
            assert label == -1


@given(
    st.integers(0, 10**6),
    st.integers(21, 70),
    st.sampled_from([4, 16, 400]),
    st.sampled_from([0.25, 0.5]),
    st.sampled_from([0.5, 0.7]),
)
@settings(deadline=None, max_examples=40)
def test_random_samples_are_positive_up_to_a_fraction_and_filled_with_negatives(
    seed: int, count: int, samples: int, fraction: float, iou: float
) -> None:
    batch = make_batch([[[8.0, 8.0, 24.0, 24.0], [30.0, 12.0, 56.0, 40.0]], []])
    proposals = make_proposals(batch, count=count, seed=seed)
    rois = RandomSampler(samples, fraction)(proposals, batch, iou=iou)
    check_assignment(rois, batch, iou)
    for image in range(len(batch)):
        mine = rois.at((rois.image == image).nonzero().squeeze(1))
        candidates = candidates_of(proposals, batch, image, ground_truth=True)
        positive = sum(is_positive(candidates, batch, image, iou))
        chosen = [tuple(box) for box in mine.boxes.tolist()]
        assert len(set(chosen)) == len(chosen)
        assert set(chosen) <= {tuple(box) for box in candidates}
        expected = min(positive, int(samples * fraction))
        assert int((mine.labels >= 0).sum()) == expected
        assert int((mine.labels < 0).sum()) == min(len(candidates) - positive, samples - expected)
        # A ground-truth box is known as one.
        gt = {tuple(box) for box in batch.boxes[image, batch.labels[image] >= 0].tolist()}
        assert [box in gt for box in chosen] == mine.is_gt.tolist()


def test_an_added_box_keeps_its_class_where_two_coincide() -> None:
    box = [8.0, 8.0, 24.0, 24.0]
    batch = make_batch([[[30.0, 12.0, 56.0, 40.0], box, box], []])
    nothing = Proposals(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool))
    rois = RandomSampler(16, 1.0)(nothing, batch, iou=0.5)
    assert sorted(rois.labels.tolist()) == [0, 1, 2]
    assert torch.equal(rois.gt, rois.boxes)
    assert rois.is_gt.all()


@given(st.integers(0, 10**6), st.integers(21, 70), st.sampled_from([3, 16, 400]))
@settings(deadline=None, max_examples=40)
def test_regression_samples_are_all_positives_up_to_the_cap_and_never_ground_truth(
    seed: int, count: int, samples: int
) -> None:
    batch = make_batch([[[8.0, 8.0, 24.0, 24.0], [30.0, 12.0, 56.0, 40.0]], []])
    proposals = make_proposals(batch, count=count, seed=seed)
    rois = sample_positives_only(proposals, batch, samples=samples, iou=0.5)
    check_assignment(rois, batch, 0.5)
    assert (rois.labels >= 0).all()
    assert not rois.is_gt.any()
    for image in range(len(batch)):
        candidates = candidates_of(proposals, batch, image, ground_truth=False)
        positive = is_positive(candidates, batch, image, 0.5)
        expected = {tuple(box) for box, yes in zip(candidates, positive, strict=True) if yes}
        chosen = [tuple(box) for box in rois.boxes[rois.image == image].tolist()]
        assert len(set(chosen)) == len(chosen) == min(len(expected), samples)
        assert set(chosen) <= expected  # with the line above: all of them where there is room


def counts_of(rois: RoIs, candidates: list[list[float]]) -> Tensor:
    """How often each candidate was chosen."""
    same = (rois.boxes[:, None] == torch.tensor(candidates)).all(dim=2)
    assert (same.sum(dim=1) == 1).all()
    return same.sum(dim=0).float()


def assert_equally_likely(counts: Tensor, images: int) -> None:
    """Chi-square below its mean by five standard deviations; without replacement it is smaller still."""
    share = counts.sum() / len(counts)
    assert share > 0
    variance = share * (1 - share / images)
    chi_square = ((counts - share) ** 2 / variance).sum()
    freedom = len(counts) - 1
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5
    # Neither does every image draw the same ones.
    assert chi_square > freedom - 5 * (2 * freedom) ** 0.5


def test_random_samples_take_each_positive_and_each_negative_as_often() -> None:
    images, proposals = 3000, make_proposals(ONE)
    batch, repeated = many(ONE, images), Proposals(*(v.expand(images, *v.shape[1:]) for v in proposals))
    candidates = candidates_of(proposals, ONE, 0, ground_truth=True)
    positive = is_positive(candidates, ONE, 0, 0.5)
    assert 8 < sum(positive) < len(positive) - 24
    for stage in (1, 2):
        rois = RandomSampler(24, 0.25)(repeated, batch, iou=0.5, stage=stage)
        for sign in (True, False):
            wanted = [box for box, yes in zip(candidates, positive, strict=True) if yes == sign]
            some = rois.at(((rois.labels >= 0) == sign).nonzero().squeeze(1))
            counts = counts_of(some, wanted)
            assert int(counts.sum()) == images * (6 if sign else 18)
            assert_equally_likely(counts, images)


def test_the_cap_takes_each_positive_as_often() -> None:
    """Not the best ones, nor one object's before another's."""
    images, proposals = 3000, make_proposals(ONE)
    batch, repeated = many(ONE, images), Proposals(*(v.expand(images, *v.shape[1:]) for v in proposals))
    candidates = candidates_of(proposals, ONE, 0, ground_truth=False)
    positive = is_positive(candidates, ONE, 0, 0.5)
    wanted = [box for box, yes in zip(candidates, positive, strict=True) if yes]
    rois = sample_positives_only(repeated, batch, samples=5, iou=0.5)
    counts = counts_of(rois, wanted)
    assert int(counts.sum()) == 5 * images
    assert len(wanted) > 10
    assert_equally_likely(counts, images)


def test_the_three_streams_are_independent() -> None:
    """How often two samplers agree on a positive is what chance gives."""
    images, proposals = 3000, make_proposals(ONE)
    batch, repeated = many(ONE, images), Proposals(*(v.expand(images, *v.shape[1:]) for v in proposals))
    positive = sum(is_positive(candidates_of(proposals, ONE, 0, ground_truth=False), ONE, 0, 0.5))
    first = RandomSampler(16, 0.25)(repeated, batch, iou=0.5)
    streams = {
        "classifier": first,
        "its next stage": RandomSampler(16, 0.25)(repeated, batch, iou=0.5, stage=2),
        "regressor": sample_positives_only(repeated, batch, samples=4, iou=0.5),
    }
    masks = {}
    for name, rois in streams.items():
        mask = torch.zeros(images, 60, dtype=torch.bool)
        some = rois.at(((rois.labels >= 0) & ~rois.is_gt).nonzero().squeeze(1))
        index = (some.boxes[:, None] == proposals.boxes[0]).all(dim=2).float().argmax(dim=1)
        mask[some.image, index] = True
        masks[name] = mask
    names = list(masks)
    for one, other in zip(names, names[1:] + names[:1], strict=True):
        p = masks[one].sum() / images / positive * masks[other].sum() / images / positive
        together = (masks[one] & masks[other]).sum()
        trials = images * positive
        assert abs(together - trials * p) < 5 * (trials * p * (1 - p)) ** 0.5, (one, other)


def test_padding_with_negatives_as_the_official_code_does_carries_no_loss() -> None:
    """Positives, then negatives up to 64, all regressed, padding masked and carried along (D8)."""
    samples, generator = 64, torch.Generator().manual_seed(4)
    heads, features = make_heads("decoupled", stages=3, roi_samples=samples), make_features(2)
    proposals = make_proposals(BATCH, count=90)
    losses = heads.losses(features, proposals, proposals, BATCH)
    padded: list[list[Tensor]] = []
    for image in range(2):
        boxes = proposals.boxes[image, proposals.valid[image]]
        positive = torch.tensor(is_positive(boxes.tolist(), BATCH, image, 0.5))
        few = boxes[positive]
        negatives = boxes[~positive][torch.randperm(int((~positive).sum()), generator=generator)]
        assert 0 < len(few) < samples < len(boxes)
        padded.append([*few, *negatives[: samples - len(few)]])
    for number in (1, 2, 3):
        regressor = heads.stage(number).regressor
        total, following = torch.zeros(()), []
        for image, boxes in enumerate(padded):
            there = BATCH.labels[image] >= 0
            gt, labels = BATCH.boxes[image, there], BATCH.labels[image, there]
            assert len(boxes) == samples
            overlap, matched = box_iou(torch.stack(boxes), gt).max(dim=1)
            target = torch.where(overlap >= 0.5, labels[matched], CLASSES)
            maps = torch.cat([pooled(features, PlainRoI(image, box)) for box in boxes])
            deltas = regressor(maps)
            after = []
            for row, box in enumerate(boxes):
                if target[row] == CLASSES:
                    after.append(box)
                    continue
                own = deltas[row, target[row] if number == 1 else 0]
                total = total + (own - encode(box, gt[matched[row]], STDS[number - 1])).abs().sum()
                after.append(clip_boxes(decode(box, own.detach(), STDS[number - 1]), BATCH.sizes[image]))
            following.append(after)
        weight = (1.0, 0.5, 0.25)[number - 1]
        expected = weight * total / (samples * 2)
        torch.testing.assert_close(losses[f"loss_reg_{number}"], expected, rtol=1e-4, atol=1e-6)
        padded = following


def test_moved_samples_become_proposals_without_the_ground_truth_among_them() -> None:
    proposals = make_proposals(BATCH)
    rois = RandomSampler(400, 0.25)(proposals, BATCH, iou=0.5)
    assert int(rois.is_gt.sum()) == 3
    following = to_proposals(rois, rois.boxes + 1, BATCH, slots=400)
    for image in range(2):
        expected = {tuple(box) for box in (proposals.boxes[image, proposals.valid[image]] + 1).tolist()}
        assert {tuple(box) for box in following.boxes[image, following.valid[image]].tolist()} == expected
