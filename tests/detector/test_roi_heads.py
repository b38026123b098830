"""The decoupled heads against hand-computed losses and a slow reference written from the specification."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import box_iou, nms, roi_align

from drcnn.batch import Batch
from drcnn.detector.box_heads import STAGE_STDS, Classifier, Regressor
from drcnn.detector.boxes import clip_boxes, decode, encode
from drcnn.detector.pooling import pool, pyramid_level
from drcnn.detector.roi_heads import DecoupledHeads
from drcnn.detector.rpn import Proposals

from .test_rpn import make_batch

CHANNELS, WIDTH, CLASSES = 4, 8, 3


def make_heads(stages: int, *, seed: int = 0, scale: float = 1.0, **changes: Any) -> DecoupledHeads:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "samples": 16,
        "positive_fraction": 0.25,
        "regression_weights": [0.5 * w for w in (1.0, 0.5, 0.25, 0.125)][:stages],
        "score_thr": 0.05,
        "nms_final": 0.5,
        "max_detections": 100,
    }
    heads = DecoupledHeads(
        Classifier(CHANNELS, WIDTH, CLASSES),
        [Regressor(CHANNELS, WIDTH, CLASSES if s == 1 else 1, stage=s) for s in range(1, stages + 1)],
        **{**settings, **changes},
    )
    for parameter in heads.parameters():  # the official start predicts nearly nothing; tests want variety
        parameter.data.mul_(scale)
    return heads


def make_features(images: int, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(images, CHANNELS, 48 >> level, 64 >> level, generator=generator) for level in range(2, 6)
    ]


def make_proposals(batch: Batch, count: int = 60, seed: int = 2, jitter: float = 6.0) -> Proposals:
    """Boxes around the ground truth, with some far away, and the last slots empty."""
    generator = torch.Generator().manual_seed(seed)
    images = len(batch)
    corners = torch.rand(images, count, 2, generator=generator) * torch.tensor([44.0, 32.0])
    boxes = torch.cat((corners, corners + 6 + 14 * torch.rand(images, count, 2, generator=generator)), dim=-1)
    for image in range(images):
        for number, box in enumerate(batch.boxes[image, batch.labels[image] >= 0]):
            rows = slice(number * 10, number * 10 + 10)
            noise = (torch.rand(10, 4, generator=generator) - 0.5) * jitter
            boxes[image, rows] = box + noise
    boxes = clip_boxes(boxes, batch.sizes[:, None])
    valid = torch.ones(images, count, dtype=torch.bool)
    valid[:, -7:] = False
    return Proposals(boxes, valid)


BATCH = make_batch([[[8.0, 8.0, 24.0, 24.0], [30.0, 12.0, 56.0, 40.0]], [[10.0, 20.0, 40.0, 44.0]]])


def positives_of(proposals: Proposals, batch: Batch) -> list[tuple[int, torch.Tensor, int]]:
    """(image, box, ground-truth index) of every valid proposal with IoU >= 0.5, by a plain loop."""
    found = []
    for image in range(len(batch)):
        gt = batch.boxes[image, batch.labels[image] >= 0]
        for box, valid in zip(proposals.boxes[image], proposals.valid[image], strict=True):
            if valid and len(gt):
                iou = box_iou(box[None], gt)[0]
                if iou.max() >= 0.5:
                    found.append((image, box, int(iou.argmax())))
    return found


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_regression_losses_equal_a_loop_over_rois(stages: int) -> None:
    """Σ|Δ - Δ*| over positives, by 512·N (here 64·N), times λ·w_k; refined boxes are matched again."""
    heads, features = make_heads(stages, scale=3.0, samples=64), make_features(2)
    proposals = make_proposals(BATCH)
    losses = heads.losses(features, proposals, proposals, BATCH)
    rois = positives_of(proposals, BATCH)
    assert len(rois) >= 12
    for stage, regressor in enumerate(heads.regressors, start=1):
        total, refined = torch.zeros(()), []
        for image, box, gt_index in rois:
            gt, label = BATCH.boxes[image, gt_index], int(BATCH.labels[image, gt_index])
            level = int(pyramid_level(box[None]))
            roi = torch.cat((torch.tensor([float(image)]), box))[None]
            feature = roi_align(features[level], roi, 7, 1 / (4 << level), 0, aligned=True)
            deltas = regressor(feature)[0, label if stage == 1 else 0]
            total = total + (deltas - encode(box, gt, STAGE_STDS[stage - 1])).abs().sum()
            moved = clip_boxes(decode(box, deltas, STAGE_STDS[stage - 1]), BATCH.sizes[image])
            iou = box_iou(moved[None], BATCH.boxes[image, BATCH.labels[image] >= 0])[0]
            if iou.max() >= 0.5:
                refined.append((image, moved.detach(), int(iou.argmax())))
        expected = total * heads.regression_weights[stage - 1] / (64 * 2)
        torch.testing.assert_close(losses[f"loss_reg_{stage}"], expected, rtol=1e-4, atol=1e-5)
        rois = refined
    assert f"loss_reg_{stages + 1}" not in losses


def test_lambda_is_the_paper_code_divisor() -> None:
    """λ = 0.5 is the official divisor of 1024·N, λ = 1 that of 512·N (spec 1.3)."""
    features, proposals = make_features(2), make_proposals(BATCH)
    one = make_heads(1, regression_weights=[1.0]).losses(features, proposals, proposals, BATCH)["loss_reg_1"]
    half = make_heads(1, regression_weights=[0.5]).losses(features, proposals, proposals, BATCH)["loss_reg_1"]
    torch.testing.assert_close(half, one / 2)


def test_classification_loss_is_the_mean_over_its_samples() -> None:
    heads, features = make_heads(1), make_features(2)
    for parameter in heads.classifier.predictor.parameters():
        parameter.data.zero_()
    proposals = make_proposals(BATCH)
    loss = heads.losses(features, proposals, proposals, BATCH)["loss_cls"]
    torch.testing.assert_close(loss, torch.tensor(float(CLASSES + 1)).log())


def test_classifier_samples_have_ground_truth_and_one_positive_in_four() -> None:
    heads = make_heads(1, samples=16)
    proposals = make_proposals(BATCH)
    rois, labels = heads._classification_samples(proposals, BATCH)
    for image in range(2):
        mine = labels[rois[:, 0] == image]
        assert len(mine) == 16
        assert int((mine < CLASSES).sum()) == 4
    # With room for all, each ground-truth box itself is among the positives.
    rois, labels = make_heads(1, samples=400)._classification_samples(proposals, BATCH)
    for image in range(2):
        for box, label in zip(BATCH.boxes[image], BATCH.labels[image], strict=True):
            if label >= 0:
                same = (rois[:, 0] == image) & (rois[:, 1:] == box).all(dim=1)
                assert labels[same].tolist() == [label]


def test_regressors_never_see_ground_truth_as_proposals() -> None:
    far = Proposals(torch.tensor([[[0.0, 0, 5, 5]], [[0.0, 0, 5, 5]]]), torch.ones(2, 1, dtype=torch.bool))
    losses = make_heads(3).losses(make_features(2), far, far, BATCH)
    assert losses["loss_reg_1"] == losses["loss_reg_2"] == losses["loss_reg_3"] == 0
    assert losses["loss_cls"] > 0


def test_regression_samples_are_capped() -> None:
    proposals = make_proposals(BATCH, jitter=2.0)
    positives = make_heads(1, samples=4)._regression_samples(proposals, BATCH)
    assert torch.bincount(positives.image).tolist() == [4, 4]


@pytest.mark.parametrize("stages", [1, 3])
def test_gradients_reach_exactly_their_own_branch(stages: int) -> None:
    heads, features = make_heads(stages), make_features(2)
    proposals = make_proposals(BATCH)

    def moved(loss: torch.Tensor) -> set[str]:
        heads.zero_grad()
        loss.backward(retain_graph=True)
        return {
            name.rpartition(".")[0].split(".fcs")[0].split(".predictor")[0]
            for name, p in heads.named_parameters()
            if p.grad is not None and p.grad.abs().sum() > 0
        }

    losses = heads.losses(features, proposals, proposals, BATCH)
    assert moved(losses["loss_cls"]) == {"classifier"}
    for stage in range(1, stages + 1):
        # Boxes are detached between stages: a later stage's loss does not reach an earlier regressor.
        assert moved(losses[f"loss_reg_{stage}"]) == {f"regressors.{stage - 1}"}


def test_class_specific_stage_trains_only_the_matched_classes() -> None:
    heads, features, proposals = make_heads(1), make_features(2), make_proposals(BATCH)
    heads.losses(features, proposals, proposals, BATCH)["loss_reg_1"].backward()
    gradient = heads.regressors[0].predictor.weight.grad.unflatten(0, (CLASSES, 4)).abs().sum(dim=(1, 2))
    present = {int(label) for label in BATCH.labels.flatten() if label >= 0}
    assert {label for label in range(CLASSES) if gradient[label] > 0} == present
    assert present != set(range(CLASSES))


def test_batches_without_objects_keep_the_graph_and_give_zero() -> None:
    batch = make_batch([[], []])
    assert batch.boxes.shape == (2, 0, 4)
    heads, features = make_heads(3), make_features(2)
    proposals = make_proposals(batch)
    losses = heads.losses(features, proposals, proposals, batch)
    assert [losses[f"loss_reg_{stage}"].item() for stage in (1, 2, 3)] == [0, 0, 0]
    assert math.isfinite(losses["loss_cls"].item())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in heads.parameters())


def test_samples_of_an_image_do_not_depend_on_its_company() -> None:
    """The same image alone, first or second in a batch draws the same RoIs: so DDP changes nothing."""
    heads, proposals = make_heads(1), make_proposals(BATCH)
    rois, labels = heads._classification_samples(proposals, BATCH)
    single = Batch(**{name: value[1:2] for name, value in vars(BATCH).items()})
    alone, alone_labels = heads._classification_samples(
        Proposals(proposals.boxes[1:], proposals.valid[1:]), single
    )
    assert torch.equal(rois[rois[:, 0] == 1][:, 1:], alone[:, 1:])
    assert torch.equal(labels[rois[:, 0] == 1], alone_labels)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_inference_equals_a_loop_over_rois(stages: int) -> None:
    heads, features = make_heads(stages, scale=3.0, score_thr=0.3).eval(), make_features(2)
    for regressor in heads.regressors:
        regressor.predictor.weight.data.mul_(30)
    proposals = make_proposals(BATCH)
    found = heads.detect(features, proposals, BATCH.sizes)
    assert 0 < len(found.scores) < int(proposals.valid.sum()) * CLASSES
    for image in range(2):
        boxes_of: dict[int, list[torch.Tensor]] = {}
        scores_of: dict[int, list[torch.Tensor]] = {}
        for proposal, valid in zip(proposals.boxes[image], proposals.valid[image], strict=True):
            if not valid:
                continue
            box = proposal
            scores = F.softmax(heads.classifier(pooled_alone(features, image, box)), dim=1)[0, :CLASSES]
            for number, regressor in enumerate(heads.regressors):
                deltas = regressor(pooled_alone(features, image, box))[0]
                if number < stages - 1:
                    own = deltas[scores.argmax()] if number == 0 else deltas[0]
                    box = clip_boxes(decode(box, own, regressor.stds), BATCH.sizes[image])
            for label in range(CLASSES):
                if scores[label] > 0.3:
                    own = deltas[label] if stages == 1 else deltas[0]
                    final = clip_boxes(decode(box, own, regressor.stds), BATCH.sizes[image])
                    boxes_of.setdefault(label, []).append(final)
                    scores_of.setdefault(label, []).append(scores[label])
        for label, boxes in boxes_of.items():
            kept = nms(torch.stack(boxes), torch.stack(scores_of[label]), 0.5)
            mine = (found.image == image) & (found.labels == label)
            torch.testing.assert_close(found.boxes[mine], torch.stack(boxes)[kept], rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(found.scores[mine], torch.stack(scores_of[label])[kept])


def pooled_alone(features: list[torch.Tensor], image: int, box: torch.Tensor) -> torch.Tensor:
    return pool(features, torch.cat((torch.tensor([float(image)]), box))[None])


def test_only_the_best_detections_of_each_image_stay() -> None:
    heads, features = make_heads(1, score_thr=0.0, nms_final=1.0, max_detections=5), make_features(2)
    found = heads.detect(features, make_proposals(BATCH), BATCH.sizes)
    assert torch.bincount(found.image).tolist() == [5, 5]
    everything = make_heads(1, score_thr=0.0, nms_final=1.0, max_detections=10_000).detect(
        features, make_proposals(BATCH), BATCH.sizes
    )
    for image in range(2):
        best = everything.scores[everything.image == image].sort(descending=True).values[:5]
        torch.testing.assert_close(found.scores[found.image == image], best)
