from __future__ import annotations

import torch
from hypothesis import given, settings
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from drcnn.detector.matching import match_anchors, match_proposals

from .test_boxes import random_boxes, seeds


@given(seeds)
def test_proposals_match_as_torchvisions_do(generator: torch.Generator) -> None:
    proposals, gt = random_boxes(generator, 40, extent=100), random_boxes(generator, 5, extent=100)
    expected = Matcher(0.5, 0.5, allow_low_quality_matches=False)(box_iou(gt, proposals))
    every = torch.ones(40, dtype=torch.bool)
    matches = match_proposals(proposals, every, gt, torch.ones(5, dtype=torch.bool), 0.5)
    assert torch.equal(matches.positive, expected >= 0)
    assert torch.equal(matches.negative, expected == Matcher.BELOW_LOW_THRESHOLD)
    assert torch.equal(matches.gt[matches.positive], expected[matches.positive])


@given(seeds)
@settings(max_examples=50)
def test_anchors_match_as_torchvisions_do_where_every_box_reaches_an_anchor(
    generator: torch.Generator,
) -> None:
    anchors = random_boxes(generator, 200, extent=100)
    gt = random_boxes(generator, 4, extent=100)
    iou = box_iou(gt, anchors)
    reached = gt[iou.amax(dim=1) >= 0.3]  # torchvision lets a box claim an anchor below 0.3 too
    expected = (
        Matcher(0.7, 0.3, allow_low_quality_matches=True)(box_iou(reached, anchors)) if len(reached) else None
    )
    every = torch.ones(200, dtype=torch.bool)
    matches = match_anchors(anchors, every, gt, torch.ones(4, dtype=torch.bool))
    if expected is None:
        assert not matches.positive.any()
    else:
        unreached_overlap = box_iou(gt, anchors).amax(dim=0) < 0.3
        assert torch.equal(matches.positive, expected >= 0)
        assert torch.equal(matches.negative, unreached_overlap & (expected < 0))


def test_a_box_claims_its_best_anchors_even_from_a_better_match() -> None:
    # The second box overlaps only the first anchor, which fits the first box better.
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]])
    gt = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5.5]])
    matches = match_anchors(anchors, torch.ones(3, dtype=torch.bool), gt, torch.ones(2, dtype=torch.bool))
    assert matches.positive.tolist() == [True, True, False]
    # Box 1's best is anchor 1 (IoU 5.5/9); it takes it from box 0 (IoU 0.9).
    assert matches.gt[:2].tolist() == [0, 1]


def test_all_ties_are_claimed_and_a_weak_best_is_not() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 10, 10, 20], [100, 0, 200, 100]])
    gt = torch.tensor([[0.0, 5, 10, 15], [100, 0, 120, 100]])  # ties at 1/3; best of the second is 0.2
    matches = match_anchors(anchors, torch.ones(3, dtype=torch.bool), gt, torch.ones(2, dtype=torch.bool))
    assert matches.positive.tolist() == [True, True, False]
    assert matches.negative.tolist() == [False, False, True]


def test_padding_and_invalid_candidates_never_match() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    gt = boxes.clone()
    gt_valid = torch.tensor([True, False])
    valid = torch.tensor([False, True])
    for matches in (
        match_proposals(boxes, valid, gt, gt_valid, 0.5),
        match_anchors(boxes, valid, gt, gt_valid),
    ):
        assert not matches.positive.any()
        assert matches.negative.tolist() == [False, True]


def test_without_ground_truth_everything_is_negative() -> None:
    boxes, valid = torch.rand(5, 4), torch.ones(5, dtype=torch.bool)
    none, no_valid = torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool)
    for matches in (
        match_proposals(boxes, valid, none, no_valid, 0.5),
        match_anchors(boxes, valid, none, no_valid),
    ):
        assert matches.negative.all()
        assert not matches.positive.any()
