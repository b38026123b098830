"""Toy heads with inputs for them, and a reference implementation of the heads as loops over single RoIs."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, nms, roi_align

from drcnn.batch import Batch
from drcnn.config import Config, DetectorConfig
from drcnn.detector.box_heads import Stage
from drcnn.detector.boxes import clip_boxes, decode, encode
from drcnn.detector.compose import build_heads
from drcnn.detector.postprocess import Detections
from drcnn.detector.roi_heads import RoIHeads
from drcnn.detector.rpn import Proposals

from .test_rpn import make_batch

CHANNELS, WIDTH, CLASSES = 4, 8, 3
# Spec 1.0, 1.4 and 1.6: of stages 1 to 4.
STDS = (
    (0.1, 0.1, 0.2, 0.2),
    (0.05, 0.05, 0.1, 0.1),
    (0.033, 0.033, 0.067, 0.067),
    (0.025, 0.025, 0.05, 0.05),
)
WEIGHTS = (1.0, 0.5, 0.25, 0.125)
RISING_IOUS = (0.5, 0.6, 0.7)
# Room for every candidate of ``make_proposals``: then nothing is left to chance.
PLENTY = 400

BATCH = make_batch([[[8.0, 8.0, 24.0, 24.0], [30.0, 12.0, 56.0, 40.0]], [[10.0, 20.0, 40.0, 44.0]]])


def toy_config(variant: str, **changes: Any) -> DetectorConfig:
    """A detector of ``drcnn.variants`` with heads of toy size; changes are leaves of ``detector``."""
    settings = {
        "variant": variant,
        "weights": "none",
        "norm": "batch",
        "frozen_stages": 0,
        "fpn_channels": CHANNELS,
        "fc_width": WIDTH,
        "roi_samples": 16,
    }
    tree = {f"detector.{key}": value for key, value in {**settings, **changes}.items()}
    return Config().with_changes(tree).detector


def make_heads(variant: str, *, seed: int = 0, **changes: Any) -> RoIHeads:
    """Heads in evaluation mode that predict something: the official start predicts nearly nothing."""
    torch.manual_seed(seed)
    heads = build_heads(toy_config(variant, **changes), CLASSES)
    for name, parameter in heads.named_parameters():
        if "predictor" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return heads.eval()


def make_features(images: int, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(images, CHANNELS, 48 >> level, 64 >> level, generator=generator) for level in range(2, 6)
    ]


def make_proposals(batch: Batch, count: int = 60, seed: int = 2, jitter: float = 6.0) -> Proposals:
    """Ten boxes around each object, others far from them, and the last slots empty."""
    generator = torch.Generator().manual_seed(seed)
    images = len(batch)
    corners = torch.rand(images, count, 2, generator=generator) * torch.tensor([44.0, 32.0])
    boxes = torch.cat((corners, corners + 6 + 14 * torch.rand(images, count, 2, generator=generator)), dim=-1)
    for image in range(images):
        for number, box in enumerate(batch.boxes[image, batch.labels[image] >= 0]):
            rows = slice(number * 10, number * 10 + 10)
            boxes[image, rows] = box + (torch.rand(10, 4, generator=generator) - 0.5) * jitter
    boxes = clip_boxes(boxes, batch.sizes[:, None])
    valid = torch.ones(images, count, dtype=torch.bool)
    valid[:, -7:] = False
    return Proposals(boxes, valid)


class PlainRoI(NamedTuple):
    """A box of one image with its object's box and class (K: background) after assignment."""

    image: int
    box: Tensor
    gt: Tensor | None = None
    label: int = CLASSES


def listed(proposals: Proposals) -> list[PlainRoI]:
    """The valid proposals."""
    return [
        PlainRoI(image, box)
        for image in range(len(proposals.boxes))
        for box, valid in zip(proposals.boxes[image], proposals.valid[image], strict=True)
        if valid
    ]


def objects(batch: Batch) -> list[PlainRoI]:
    """The ground truth."""
    return [
        PlainRoI(image, box)
        for image in range(len(batch))
        for box, label in zip(batch.boxes[image], batch.labels[image], strict=True)
        if label >= 0
    ]


def assigned(rois: list[PlainRoI], batch: Batch, iou: float) -> list[PlainRoI]:
    """Each to the object that it overlaps most, if by at least ``iou``; else to the background."""
    result = []
    for roi in rois:
        there = batch.labels[roi.image] >= 0
        gt, labels = batch.boxes[roi.image, there], batch.labels[roi.image, there]
        overlaps = box_iou(roi.box[None], gt)[0]
        if len(gt) and overlaps.max() >= iou:
            best = int(overlaps.argmax())
            result.append(PlainRoI(roi.image, roi.box, gt[best], int(labels[best])))
        else:
            result.append(PlainRoI(roi.image, roi.box))
    return result


def positives(rois: list[PlainRoI]) -> list[PlainRoI]:
    return [roi for roi in rois if roi.gt is not None]


def pooled(features: list[Tensor], roi: PlainRoI, enlarge: float = 1.0) -> Tensor:
    """Features of one RoI, [1, C, 7, 7]: the level of its size, then its box enlarged about its centre."""
    x1, y1, x2, y2 = roi.box.tolist()
    width, height = x2 - x1, y2 - y1
    area = width * height
    # From 112, 224 and 448 pixels on, P3, P4 and P5.
    level = sum(area**0.5 >= side for side in (112, 224, 448))
    grow_x, grow_y = width * (enlarge - 1) / 2, height * (enlarge - 1) / 2
    box = torch.tensor([[roi.image, x1 - grow_x, y1 - grow_y, x2 + grow_x, y2 + grow_y]])
    return roi_align(features[level], box, 7, 1 / (4 << level), 0, aligned=True)


def logits_of(stage: Stage, features: list[Tensor], roi: PlainRoI) -> Tensor:
    """Logits [1, K + 1] of one RoI."""
    return stage.classify(stage.stem(pooled(features, roi)))


def deltas_of(stage: Stage, features: list[Tensor], roi: PlainRoI, enlarge: float = 1.0) -> Tensor:
    """Deltas [B, 4] of one RoI."""
    return stage.regress(stage.stem(pooled(features, roi, enlarge)))[0]


def own(deltas: Tensor, label: int) -> Tensor:
    """Of the class, where there are deltas for each class."""
    return deltas[0] if len(deltas) == 1 else deltas[label]


def moved(roi: PlainRoI, deltas: Tensor, stage: int, sizes: Tensor) -> PlainRoI:
    box = decode(roi.box, deltas.detach(), STDS[stage - 1])
    return PlainRoI(roi.image, clip_boxes(box, sizes[roi.image]))


def plain_classification(stage: Stage, features: list[Tensor], rois: list[PlainRoI]) -> Tensor:
    """Mean cross entropy."""
    each = [F.cross_entropy(logits_of(stage, features, roi), torch.tensor([roi.label])) for roi in rois]
    return torch.stack(each).mean()


def plain_decoupled_losses(
    heads: RoIHeads,
    features: list[Tensor],
    proposals_cls: Proposals,
    proposals_reg: Proposals,
    batch: Batch,
    *,
    ious: tuple[float, ...],
    lambda_reg: float,
    samples: int,
    enlarge: float = 1.0,
) -> dict[str, Tensor]:
    """Spec 1.3, 1.4, 1.7 and 1.8, where there is room for all candidates."""
    losses = {}
    cls, reg = listed(proposals_cls), assigned(listed(proposals_reg), batch, ious[0])
    for number, iou in enumerate(ious, start=1):
        stage = heads.stage(number)
        if stage.classifier is not None:
            mean = plain_classification(stage, features, assigned(cls + objects(batch), batch, iou))
            losses["loss_cls" if number == 1 else f"loss_cls_{number}"] = WEIGHTS[number - 1] * mean
            if heads.stages[-1].classifier is not None:  # without the objects, which come again anew
                cls = [moved(roi, deltas_of(stage, features, roi)[0], number, batch.sizes) for roi in cls]
        total, following = torch.zeros(()), []
        for roi in positives(reg):
            deltas = own(deltas_of(stage, features, roi, enlarge), roi.label)
            total = total + (deltas - encode(roi.box, roi.gt, STDS[number - 1])).abs().sum()
            following.append(moved(roi, deltas, number, batch.sizes))
        losses[f"loss_reg_{number}"] = lambda_reg * WEIGHTS[number - 1] * total / (samples * len(batch))
        if number < len(ious):
            reg = assigned(following, batch, ious[number])
    return losses


def plain_coupled_losses(
    heads: RoIHeads,
    features: list[Tensor],
    proposals: Proposals,
    batch: Batch,
    *,
    ious: tuple[float, ...],
    beta: float,
) -> dict[str, Tensor]:
    """Spec 1.1, 1.2 and 1.6, where there is room for all candidates."""
    losses = {}
    candidates = listed(proposals)
    for number, iou in enumerate(ious, start=1):
        stage = heads.stage(number)
        rois = assigned(candidates + objects(batch), batch, iou)
        mean = plain_classification(stage, features, rois)
        losses["loss_cls" if number == 1 else f"loss_cls_{number}"] = WEIGHTS[number - 1] * mean
        total = torch.zeros(())
        for roi in positives(rois):
            deltas = own(deltas_of(stage, features, roi), roi.label)
            for difference in (deltas - encode(roi.box, roi.gt, STDS[number - 1])).abs():
                is_small = difference < beta
                total = total + (difference**2 / (2 * beta) if is_small else difference - beta / 2)
        losses[f"loss_reg_{number}"] = WEIGHTS[number - 1] * total / len(rois)
        if number < len(ious):  # all samples but the copies of the objects
            candidates = [
                moved(roi, deltas_of(stage, features, roi)[0], number, batch.sizes) for roi in candidates
            ]
    return losses


@torch.no_grad()
def plain_detections(
    heads: RoIHeads,
    features: list[Tensor],
    proposals: Proposals,
    sizes: Tensor,
    *,
    box_stage: int,
    class_stages: tuple[int, ...],
    score_thr: float,
    enlarge: float = 1.0,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes, classes and scores of each image, by falling score: every RoI goes through every stage."""
    found: list[list[tuple[Tensor, int, Tensor]]] = [[] for _ in sizes]
    for proposal in listed(proposals):
        roi, logits = proposal, []
        for number in range(1, box_stage + 1):
            stage = heads.stage(number)
            if number in class_stages:
                logits.append(logits_of(stage, features, roi)[0])
            deltas = deltas_of(stage, features, roi, enlarge)
            if number < box_stage:
                best = int(logits[0][:CLASSES].argmax()) if len(deltas) > 1 else 0
                roi = moved(roi, deltas[best], number, sizes)
        scores = torch.stack(logits).mean(dim=0).softmax(dim=0)
        for label in range(CLASSES):
            if scores[label] > score_thr:
                box = moved(roi, own(deltas, label), box_stage, sizes).box
                found[roi.image].append((box, label, scores[label]))
    return [_best_of(each) for each in found]


def _best_of(found: list[tuple[Tensor, int, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """NMS 0.5 within each class, then by score."""
    kept = []
    for label in range(CLASSES):
        mine = [entry for entry in found if entry[1] == label]
        if mine:
            survivors = nms(torch.stack([e[0] for e in mine]), torch.stack([e[2] for e in mine]), 0.5)
            kept += [mine[index] for index in survivors.tolist()]
    kept.sort(key=lambda entry: -float(entry[2]))
    boxes, labels, scores = [torch.zeros(0, 4)], [], [torch.zeros(0)]
    for box, label, score in kept:
        boxes.append(box[None])
        labels.append(label)
        scores.append(score[None])
    return torch.cat(boxes), torch.tensor(labels), torch.cat(scores)


def assert_same_detections(found: Detections, expected: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    for image, (boxes, labels, scores) in enumerate(expected):
        mine = found.image == image
        assert found.labels[mine].tolist() == labels.tolist()
        torch.testing.assert_close(found.scores[mine], scores)
        torch.testing.assert_close(found.boxes[mine], boxes, rtol=1e-4, atol=1e-3)
