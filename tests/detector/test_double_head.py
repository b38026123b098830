"""Double-Head's batch norm in training against a slow reconstruction of the official code's order of things.

The official code runs both branches on all RoIs of an image (the classifier's, the regressor's positives, and
the negatives that pad those) and masks the losses; later stages run on the moved positives and on the
negatives, which stay where they are.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from drcnn.batch import Batch
from drcnn.detector.boxes import encode
from drcnn.detector.decoupled_heads import DecoupledHeads
from drcnn.detector.roi_heads import RoIHeads
from drcnn.detector.roi_sampling import sample_padded, sample_positives_only
from drcnn.detector.rpn import Proposals

from .head_helpers import (
    BATCH,
    PLENTY,
    STDS,
    WEIGHTS,
    PlainRoI,
    assigned,
    listed,
    make_features,
    make_heads,
    make_proposals,
    moved,
    objects,
    own,
    pooled,
    positives,
)
from .test_roi_heads import watch
from .test_rpn import make_batch

CLS, REG = make_proposals(BATCH, seed=2), make_proposals(BATCH, count=80, seed=3)


def of_image(rois: list[PlainRoI], image: int) -> list[PlainRoI]:
    return [roi for roi in rois if roi.image == image]


def positives_first(rois: list[PlainRoI]) -> list[PlainRoI]:
    return [*positives(rois), *(roi for roi in rois if roi.gt is None)]


def official_losses(
    heads: RoIHeads,
    features: list[Tensor],
    cls: Proposals,
    reg: Proposals,
    batch: Batch,
    *,
    pads: bool = True,
) -> dict[str, Tensor]:
    """Losses with λ = 0.5, with room for all candidates; without ``pads`` only positives regress."""
    losses, images = {}, range(len(batch))
    for_cls = assigned(listed(cls) + objects(batch), batch, 0.5)
    for_reg = assigned(listed(reg), batch, 0.5)
    for number in range(1, len(heads.stages) + 1):
        stage = heads.stage(number)
        order: list[tuple[PlainRoI, bool]] = []
        for image in images:
            if stage.classifier is not None:
                order += [(roi, False) for roi in of_image(for_cls, image) if pads]
            own_rois = positives_first(of_image(for_reg, image))
            order += [(roi, True) for roi in own_rois if pads or roi.gt is not None]
        deltas = stage.regressor(torch.cat([pooled(features, roi, 1.3) for roi, _ in order]))
        if stage.classifier is not None:
            logits = stage.classifier(torch.cat([pooled(features, roi) for roi in for_cls]))
            losses["loss_cls"] = F.cross_entropy(logits, torch.tensor([roi.label for roi in for_cls]))
        total, following = torch.zeros(()), []
        for (roi, is_for_reg), row in zip(order, deltas, strict=True):
            if is_for_reg and roi.gt is None:
                following.append(PlainRoI(roi.image, roi.box))
            elif is_for_reg:
                mine = own(row, roi.label)
                total = total + (mine - encode(roi.box, roi.gt, STDS[number - 1])).abs().sum()
                following.append(moved(roi, mine, number, batch.sizes))
        losses[f"loss_reg_{number}"] = 0.5 * WEIGHTS[number - 1] * total / (PLENTY * len(batch))
        for_reg = assigned(following, batch, 0.5)
    return losses


def trained(heads: RoIHeads, losses: dict[str, Tensor], features: list[Tensor]) -> list[Tensor]:
    """All that a step changes: gradients of the features and parameters, and running statistics."""
    sum(losses.values()).backward()
    tensors = [*features, *heads.parameters()]
    # Maps that no RoI is pooled from have no gradient, or one of zeros.
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in tensors]
    return gradients + list(heads.buffers())


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_a_step_is_that_of_the_official_code(stages: int) -> None:
    heads = make_heads("double_head", stages=stages, roi_samples=PLENTY, lambda_reg=0.5).train()
    for number in range(1, stages + 1):  # small steps: positives stay positive
        heads.stage(number).regressor.predictor.weight.data *= 0.3
        heads.stage(number).regressor.predictor.bias.data *= 0.3
    other, positive_only = copy.deepcopy(heads), copy.deepcopy(heads)
    features = [feature.requires_grad_() for feature in make_features(2)]
    features_too = [feature.requires_grad_() for feature in make_features(2)]
    losses = heads.losses(features, CLS, REG, BATCH)
    expected = official_losses(other, features_too, CLS, REG, BATCH)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert value > 0
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-6, msg=name)
    steps = trained(heads, losses, features), trained(other, expected, features_too)
    for mine, theirs in zip(*steps, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    # What the norm sees matters: with the positives alone the losses are others.
    wrong = official_losses(positive_only, make_features(2), CLS, REG, BATCH, pads=False)
    for number in range(1, stages + 1):
        assert not torch.isclose(wrong[f"loss_reg_{number}"], expected[f"loss_reg_{number}"], rtol=0.02)


@pytest.mark.parametrize(("norm", "pads"), [("batch", True), ("frozen", True), ("group", False)])
def test_rois_without_a_loss_are_there_for_a_batch_norm_only(norm: str, pads: bool) -> None:
    settings = {"weights": "imagenet"} if norm == "frozen" else {}
    heads = make_heads("double_head_cascade", norm=norm, roi_samples=24, **settings)
    assert isinstance(heads, DecoupledHeads)
    assert heads.pads is pads
    seen = [watch(heads.stage(number).regressor) for number in (1, 2, 3)]
    heads.losses(make_features(2), CLS, REG, BATCH)
    counts = [len(maps) for (maps,) in seen]
    if pads:
        assert counts == [2 * (24 + 24), 2 * 24, 2 * 24]
    else:
        assert counts[0] == len(positives(assigned(listed(REG), BATCH, 0.5))) < 2 * 24


@pytest.mark.parametrize("samples", [5, 24, PLENTY])
def test_padding_changes_none_of_the_positives(samples: int) -> None:
    padded = sample_padded(REG, BATCH, samples=samples, iou=0.5)
    alone = sample_positives_only(REG, BATCH, samples=samples, iou=0.5)
    kept = padded.at(padded.positives())
    for name in ("image", "boxes", "gt", "labels"):
        assert torch.equal(getattr(kept, name), getattr(alone, name))
    proposals = REG.valid.sum(dim=1).tolist()
    assert torch.bincount(padded.image).tolist() == [min(samples, count) for count in proposals]


@pytest.mark.parametrize("objects_of", [[[], []], [[[8.0, 8.0, 24.0, 24.0]], []]])
def test_images_without_objects_train(objects_of: list[list[list[float]]]) -> None:
    batch = make_batch(objects_of)
    heads = make_heads("double_head_cascade").train()
    proposals = make_proposals(batch)
    losses = heads.losses(make_features(2), proposals, proposals, batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in heads.parameters())
