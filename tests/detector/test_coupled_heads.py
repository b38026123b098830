"""Faster R-CNN's and Cascade R-CNN's heads, and Cascade R-CNN's RPN, against loops over single RoIs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from drcnn.detector.boxes import encode
from drcnn.detector.compose import build_rpn
from drcnn.detector.coupled_heads import CoupledHeads
from drcnn.detector.roi_heads import RoIHeads
from drcnn.detector.roi_sampling import RoIs
from drcnn.detector.rpn import Proposals, anchors_for, rpn_losses

from .head_helpers import (
    BATCH,
    CHANNELS,
    CLASSES,
    PLENTY,
    RISING_IOUS,
    STDS,
    WEIGHTS,
    PlainRoI,
    assigned,
    deltas_of,
    listed,
    logits_of,
    make_features,
    make_heads,
    make_proposals,
    moved,
    own,
    plain_coupled_losses,
    positives,
    toy_config,
)
from .test_rpn import SHAPES, make_batch

PROPOSALS = make_proposals(BATCH)


def record_samples(heads: RoIHeads) -> list[RoIs]:
    """Return what the heads sample, filled while they run."""
    assert isinstance(heads, CoupledHeads)
    seen: list[RoIs] = []
    sampler = heads.sampler

    def recording(*args: Any, **settings: Any) -> RoIs:
        seen.append(sampler(*args, **settings))
        return seen[-1]

    recording.samples = sampler.samples  # type: ignore[attr-defined]
    heads.sampler = recording  # type: ignore[assignment]
    return seen


@pytest.mark.parametrize(
    ("variant", "stages", "ious", "beta"),
    [
        ("fpn", 1, (0.5,), 0.0),
        ("fpn_unshared", 1, (0.5,), 0.0),
        ("cascade_rcnn", 1, RISING_IOUS[:1], 1.0),
        ("cascade_rcnn", 2, RISING_IOUS[:2], 1.0),
        ("cascade_rcnn", 3, RISING_IOUS, 1.0),
    ],
)
def test_losses_equal_a_loop_over_rois(
    variant: str, stages: int, ious: tuple[float, ...], beta: float
) -> None:
    """With room for all candidates: (smooth) L1 by the number of all samples, times the stage's weight."""
    heads, features = make_heads(variant, stages=stages, roi_samples=PLENTY), make_features(2)
    losses = heads.losses(features, PROPOSALS, PROPOSALS, BATCH)
    expected = plain_coupled_losses(heads, features, PROPOSALS, BATCH, ious=ious, beta=beta)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert value > 0
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_the_loop_meets_small_and_large_differences_and_rois_that_leave() -> None:
    """Otherwise the test above would show neither the smooth part nor the rising overlap."""
    heads, features = make_heads("cascade_rcnn"), make_features(2)
    rois = listed(PROPOSALS)
    counts = []
    for number, iou in enumerate(RISING_IOUS, start=1):
        found = positives(assigned(rois, BATCH, iou))
        counts.append(len(found))
        differences = torch.stack(
            [
                (deltas_of(heads.stage(number), features, roi)[0] - encode(roi.box, roi.gt, STDS[number - 1]))
                for roi in found
            ]
        ).abs()
        assert (differences < 1).any()
        assert (differences > 1).any()
        rois = [
            moved(roi, deltas_of(heads.stage(number), features, roi)[0], number, BATCH.sizes) for roi in rois
        ]
    assert counts[0] > counts[1] > counts[2] > 0


@pytest.mark.parametrize("variant", ["fpn", "fpn_unshared", "cascade_rcnn"])
def test_both_branches_learn_from_the_same_samples_and_divide_by_their_number(variant: str) -> None:
    heads, features = make_heads(variant, roi_samples=16, lambda_reg=0.5), make_features(2)
    seen = record_samples(heads)
    losses = heads.losses(features, PROPOSALS, PROPOSALS, BATCH)
    assert len(seen) == len(heads.stages)
    beta = 1.0 if variant == "cascade_rcnn" else 0.0
    for number, rois in enumerate(seen, start=1):
        stage, weight = heads.stage(number), WEIGHTS[number - 1]
        cross_entropy = total = torch.zeros(())
        for image, box, gt, label in zip(
            rois.image.tolist(), rois.boxes, rois.gt, rois.labels.tolist(), strict=True
        ):
            roi = PlainRoI(image, box)
            target = torch.tensor([label if label >= 0 else CLASSES])
            cross_entropy = cross_entropy + F.cross_entropy(logits_of(stage, features, roi), target)
            if label >= 0:
                deltas = own(deltas_of(stage, features, roi), label)
                target = encode(box, gt, STDS[number - 1])
                total = total + F.smooth_l1_loss(deltas, target, reduction="sum", beta=beta)
        name = "loss_cls" if number == 1 else f"loss_cls_{number}"
        torch.testing.assert_close(losses[name], weight * cross_entropy / len(rois.image))
        expected = 0.5 * weight * total / len(rois.image)
        torch.testing.assert_close(losses[f"loss_reg_{number}"], expected, rtol=1e-4, atol=1e-6)
    assert len(seen[0].image) == 2 * 16
    assert torch.bincount(seen[0].image[seen[0].labels >= 0]).tolist() == [4, 4]


def test_the_next_stage_samples_moved_boxes_and_the_objects_anew() -> None:
    heads, features = make_heads("cascade_rcnn", roi_samples=16), make_features(2)
    seen = record_samples(heads)
    heads.losses(features, PROPOSALS, PROPOSALS, BATCH)
    for number in (1, 2):
        before, after, stage = seen[number - 1], seen[number], heads.stage(number)
        expected = [
            [box for there, box in zip(BATCH.labels[image] >= 0, BATCH.boxes[image], strict=True) if there]
            for image in range(2)
        ]
        for image, box, is_gt in zip(before.image.tolist(), before.boxes, before.is_gt, strict=True):
            if not is_gt:
                roi = PlainRoI(image, box)
                step = deltas_of(stage, features, roi)[0]
                expected[image].append(moved(roi, step, number, BATCH.sizes).box)
        for image in range(2):
            candidates, gt = torch.stack(expected[image]), BATCH.boxes[image, BATCH.labels[image] >= 0]
            sampled = after.boxes[after.image == image]
            assert (torch.cdist(sampled, candidates, p=torch.inf).amin(dim=1) < 1e-3).all()
            # And judged by the next stage's overlap.
            overlap = box_iou(sampled, gt).amax(dim=1)
            assert ((after.labels[after.image == image] >= 0) == (overlap >= RISING_IOUS[number])).all()
    assert any(rois.is_gt.any() for rois in seen[1:])


def test_gradients_reach_the_trunk_that_the_branches_share_or_their_own() -> None:
    def parts(variant: str, loss: str) -> set[str]:
        heads = make_heads(variant)
        heads.losses(make_features(2), PROPOSALS, PROPOSALS, BATCH)[loss].backward()
        moved_names = [
            n for n, p in heads.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
        ]
        return {".".join(name.split(".")[:3]) for name in moved_names}

    assert parts("fpn", "loss_cls") == {"stages.0.stem", "stages.0.classifier"}
    assert parts("fpn", "loss_reg_1") == {"stages.0.stem", "stages.0.regressor"}
    assert parts("fpn_unshared", "loss_cls") == {"stages.0.classifier"}
    assert parts("fpn_unshared", "loss_reg_1") == {"stages.0.regressor"}
    # Boxes are detached between stages.
    assert parts("cascade_rcnn", "loss_cls_2") == {"stages.1.stem", "stages.1.classifier"}
    assert parts("cascade_rcnn", "loss_reg_3") == {"stages.2.stem", "stages.2.regressor"}


@pytest.mark.parametrize("variant", ["fpn", "fpn_unshared", "cascade_rcnn"])
def test_batches_without_objects_keep_the_graph_and_give_zero(variant: str) -> None:
    batch = make_batch([[], []])
    heads, proposals = make_heads(variant), make_proposals(batch)
    losses = heads.losses(make_features(2), proposals, proposals, batch)
    assert all(loss == 0 for name, loss in losses.items() if "reg" in name)
    assert torch.isfinite(torch.stack(list(losses.values()))).all()
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None for p in heads.parameters())


def plain_rpn_losses(
    logits: Tensor, deltas: Tensor, anchors: Tensor, gt: Tensor, size: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Cascade R-CNN's, of one image, where all anchors are sampled: crossing ones take no part."""
    height, width = size
    inside = [
        i
        for i, (x1, y1, x2, y2) in enumerate(anchors.tolist())
        if x1 >= 0 and y1 >= 0 and x2 < width and y2 < height
    ]
    overlaps = box_iou(anchors[inside], gt)
    best_of_gt = overlaps.amax(dim=0)
    count, bce, smooth_l1 = 0, torch.zeros(()), torch.zeros(())
    for row, anchor in enumerate(inside):
        claims = [g for g in range(len(gt)) if overlaps[row, g] == best_of_gt[g] and best_of_gt[g] >= 0.3]
        if claims or overlaps[row].max() >= 0.7:
            matched = claims[-1] if claims else int(overlaps[row].argmax())
            bce = bce - F.logsigmoid(logits[anchor])
            for x in (deltas[anchor] - encode(anchors[anchor], gt[matched])).abs():
                smooth_l1 = smooth_l1 + (x * x * 9 / 2 if x < 1 / 9 else x - 1 / 18)
            count += 1
        elif overlaps[row].max() < 0.3:
            bce = bce - F.logsigmoid(-logits[anchor])
            count += 1
    return bce / count, smooth_l1 / count


def test_the_rpn_of_cascade_rcnn_has_its_smooth_loss_and_ignores_crossing_anchors() -> None:
    head = build_rpn(toy_config("cascade_rcnn"))
    features = [
        torch.randn(1, CHANNELS, *shape, generator=torch.Generator().manual_seed(1)) for shape in SHAPES
    ]
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(len(parameter)))
    anchors, output = anchors_for(features, 4.0), head(features)
    batch = make_batch([[[8.0, 8.0, 24.0, 24.0], [30.0, 12.0, 56.0, 40.0], [0.0, 0.0, 18.0, 18.0]]])
    batch.sizes[0] = torch.tensor([45.0, 60.0])  # the border is the image's own, not the padding's
    losses = rpn_losses(
        output.at,
        anchors,
        batch,
        samples=4 * sum(len(level) for level in anchors),
        beta=head.beta,
        ignore_crossing=head.ignore_crossing,
    )
    bce, smooth_l1 = plain_rpn_losses(
        torch.cat(output.logits, 1)[0],
        torch.cat(output.deltas, 1)[0],
        torch.cat(anchors),
        batch.boxes[0],
        (45, 60),
    )
    torch.testing.assert_close(losses["loss_rpn_cls"], bce)
    torch.testing.assert_close(losses["loss_rpn_reg"], smooth_l1)


@pytest.mark.parametrize("variant", ["fpn", "decoupled", "decoupled_cascade_cls", "double_head"])
def test_every_other_rpn_has_plain_l1_and_all_anchors(variant: str) -> None:
    head = build_rpn(toy_config(variant))
    assert (head.beta, head.ignore_crossing) == (0.0, False)


def test_only_valid_proposals_are_sampled() -> None:
    heads = make_heads("fpn", roi_samples=PLENTY)
    seen = record_samples(heads)
    nowhere = Proposals(PROPOSALS.boxes, torch.zeros_like(PROPOSALS.valid))
    heads.losses(make_features(2), nowhere, nowhere, BATCH)
    assert seen[0].is_gt.all()
    assert len(seen[0].image) == int((BATCH.labels >= 0).sum())
