"""The detector for one image of any size, made of operations that ONNX has.

It is ``DecoupledRCNN.detect`` on the trained parts, with suppression and RoI features of ``export_parts``,
and with lists of a fixed length where the number of anchors or boxes depends on the image: they are filled
with a score of minus infinity.

Shapes: P proposals, R RoIs that can still become a detection, K classes, D detections.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drcnn.data.plan import STRIDE
from drcnn.detector.boxes import clip_boxes, decode
from drcnn.detector.detector import DecoupledRCNN
from drcnn.detector.norms import GlobalBatchNorm2d
from drcnn.detector.roi_sampling import own_class
from drcnn.detector.rpn import RPNOutput, anchors_for
from drcnn.engine.export_parts import pool_exported, suppress

__all__ = ["ExportedDetector"]

# Below every logit, but no infinity: runtimes differ in whether minus infinity is above nothing.
LOWEST = -1e30


class ExportedDetector(nn.Module):
    """Detects in one image.

    Args:
        detector: trained, on the CPU, in evaluation mode; without soft-NMS. It can no longer be trained.
    """

    def __init__(self, detector: DecoupledRCNN) -> None:
        super().__init__()
        _replace_batch_norms(detector)
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes float32[D, 4], scores float32[D] and labels int64[D], best first.

        Args:
            image: uint8[H, W, 3], RGB, resized as in training; boxes are in its pixels.
        """
        height, width = image.shape[0], image.shape[1]
        size = torch.stack([torch.full((), float(1)) * side for side in (height, width)])
        features = self._features(image, height, width)
        proposals, is_filled = self._proposals(features, size)
        return self._detections(features[:4], proposals, is_filled, size)

    def _features(self, image: Tensor, height: int, width: int) -> list[Tensor]:
        pixels = (image.permute(2, 0, 1)[None].float() - self.detector.mean) / self.detector.std
        padded: list[Tensor] = self.detector.pyramid(F.pad(pixels, (0, -width % STRIDE, 0, -height % STRIDE)))
        return padded

    def _proposals(self, features: list[Tensor], size: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes [P, 4], best first, and bool[P]: which of them exist."""
        config = self.detector.config
        output = self.detector.rpn(features)
        boxes, scores = self._candidates(output, anchors_for(features, config.anchor_scale), size)
        # A level is a group: boxes of different levels do not suppress each other.
        kept = suppress(boxes, scores, config.nms_test, config.rpn_pre_nms_test, LOWEST)
        place = kept[:, 0] * config.rpn_pre_nms_test + kept[:, 1]
        flat = scores.flatten()
        surviving = torch.full_like(flat, LOWEST).index_copy(0, place, flat[place])
        best, index = surviving.topk(min(config.rpn_post_nms_test, len(features) * config.rpn_pre_nms_test))
        return boxes.flatten(0, 1)[index], best > LOWEST

    def _candidates(self, output: RPNOutput, anchors: list[Tensor], size: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best anchors of each of L levels, decoded: boxes [L, C, 4] and logits [L, C]."""
        count = self.detector.config.rpn_pre_nms_test
        boxes, scores = [], []
        for logits, deltas, grid in zip(*output, anchors, strict=True):
            top, index = F.pad(logits[0], (0, count), value=LOWEST).topk(count)
            filler = grid.new_zeros(count, 4)
            decoded = decode(torch.cat((grid, filler))[index], torch.cat((deltas[0], filler))[index])
            boxes.append(clip_boxes(decoded, size))
            scores.append(top)
        return torch.stack(boxes), torch.stack(scores)

    def _detections(
        self, features: list[Tensor], boxes: Tensor, is_filled: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the stages as ``RoIHeads.detect`` does, then suppress within each class."""
        heads = self.detector.heads
        last = heads.inference.box_stage or len(heads.stages)
        scoring = heads.scoring_stages(last)
        boxes = boxes[is_filled.nonzero().squeeze(1)]
        logits = scores = boxes.new_zeros(())
        for number in range(1, last + 1):
            stage = heads.stage(number)
            hidden = None
            if number in scoring:
                hidden = stage.stem(pool_exported(features, boxes, 1.0))
                logits = logits + stage.classify(hidden)
            if number == scoring[-1]:
                scores = (logits / len(scoring)).softmax(dim=1)[:, :-1]
                alive = (scores > heads.inference.score_thr).any(dim=1).nonzero().squeeze(1)
                boxes, scores = boxes[alive], scores[alive]
                hidden = None if hidden is None else hidden[alive]
            if hidden is None or stage.regressor.enlarge != 1.0:
                hidden = stage.stem(pool_exported(features, boxes, stage.regressor.enlarge))
            deltas = stage.regress(hidden)
            if number < last:
                best = scores.argmax(dim=1) if deltas.shape[1] > 1 else torch.zeros_like(boxes[:, 0]).long()
                boxes = clip_boxes(decode(boxes, own_class(deltas, best), stage.regressor.stds), size)
        every = clip_boxes(decode(boxes[:, None], deltas, stage.regressor.stds), size)
        every = every.permute(1, 0, 2).expand(scores.shape[1], -1, -1)
        return self._best(every, scores.t())

    def _best(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Suppress overlaps of boxes [K, R, 4] with scores [K, R] within each class, and keep the best."""
        inference = self.detector.heads.inference
        most = inference.max_detections
        kept = suppress(boxes, scores, inference.nms, most, inference.score_thr)
        label, roi = kept[:, 0], kept[:, 1]
        top, index = F.pad(scores[label, roi], (0, most), value=LOWEST).topk(most)
        index = index[(top > LOWEST).nonzero().squeeze(1)]
        label, roi = label[index], roi[index]
        return boxes[label, roi], scores[label, roi], label


class _Scale(nn.Module):
    """A batch norm in evaluation mode: scale and shift of each channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: GlobalBatchNorm2d) -> None:
        super().__init__()
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        self.register_buffer("scale", scale.detach()[:, None, None])
        self.register_buffer("shift", (norm.bias - norm.running_mean * scale).detach()[:, None, None])

    def forward(self, maps: Tensor) -> Tensor:
        return maps * self.scale + self.shift


def _replace_batch_norms(module: nn.Module) -> None:
    """Replace batch norms by what they do: torch's own asks whether there is any RoI."""
    for name, child in module.named_children():
        if isinstance(child, GlobalBatchNorm2d):
            setattr(module, name, _Scale(child))
        else:
            _replace_batch_norms(child)
