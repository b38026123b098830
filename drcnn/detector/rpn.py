"""Region proposal network: head, proposals, loss (docs/detector.md, section 1).

Shapes: N images, L levels, A anchors of all levels, M candidates per image, P proposals per image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import record_function
from torchvision.ops import batched_nms

from drcnn.batch import Batch
from drcnn.detector.boxes import anchor_grid, clip_boxes, decode, encode
from drcnn.detector.fused import conv_norm_act
from drcnn.detector.matching import Matches, match_anchors
from drcnn.detector.random_keys import random_keys
from drcnn.detector.sampling import sample_random

__all__ = ["Proposals", "RPNHead", "RPNOutput", "anchors_for", "propose", "rpn_losses"]

STRIDES = (4, 8, 16, 32, 64)
RANDOM_PURPOSE = 1
# No layer of the head: the paper's FLOPs do not count it.
RELU = nn.ReLU()


class Proposals(NamedTuple):
    """The proposals of N images, best first: boxes float32[N, P, 4] and valid bool[N, P]."""

    boxes: Tensor
    valid: Tensor


class RPNOutput(NamedTuple):
    """The head's output: for each level, logits [N, A_l] and deltas [N, A_l, 4]."""

    logits: list[Tensor]
    deltas: list[Tensor]

    def at(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [N, S] and deltas [N, S, 4] of the anchors at ``index`` int64[N, S]."""
        deltas = torch.cat(self.deltas, dim=1).gather(1, index[..., None].expand(-1, -1, 4))
        return torch.cat(self.logits, dim=1).gather(1, index), deltas


class RPNHead(nn.Module):
    """3x3 convolution, then objectness and deltas of 3 anchors per cell; shared by all levels.

    Args:
        channels: of the pyramid.
        beta: of its smooth L1 regression loss; 0 is L1.
        ignore_crossing: anchors that cross the image's border take no part in its losses.
    """

    def __init__(self, channels: int, *, beta: float = 0.0, ignore_crossing: bool = False) -> None:
        super().__init__()
        anchors_per_cell = self.anchors_per_cell = 3
        self.beta = beta
        self.ignore_crossing = ignore_crossing
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, anchors_per_cell, 1)
        self.deltas = nn.Conv2d(channels, anchors_per_cell * 4, 1)
        for layer in (self.conv, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(cast(Tensor, layer.bias), 0)

    def forward(self, features: list[Tensor]) -> RPNOutput:
        """Apply to maps [N, C, H_l, W_l]; anchors unfold by row, column, ratio."""
        logits, deltas = [], []
        with record_function("RPN head"):
            for feature in features:
                objectness, moves = self._predict(conv_norm_act(self.conv, None, RELU, feature))
                logits.append(objectness.permute(0, 2, 3, 1).flatten(1))
                deltas.append(moves.permute(0, 2, 3, 1).reshape(len(feature), -1, 4))
        return RPNOutput(logits, deltas)

    def _predict(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return maps of logits and deltas, in float32 also under autocast.

        Proposals are ranked by the logits, and in bf16 the best 2,000 anchors of a map share some 200 values.
        """
        if hidden.dtype in {torch.bfloat16, torch.float16}:
            with torch.autocast(hidden.device.type, enabled=False):
                return self._predict(hidden.float())
        objectness, deltas = (
            conv_norm_act(layer, None, None, hidden) for layer in (self.objectness, self.deltas)
        )
        return objectness, deltas

    def at(self, features: list[Tensor], index: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``forward(features).at(index)``, computed at these anchors only.

        The loss reads 256 of an image's 50,000 or more anchors. Through ``forward``, its gradient would be a
        map of zeros with a few values, sent back through the dense 3x3 convolution of every level. Computed
        from the anchors' own 3x3 neighbourhoods, the same gradient costs next to nothing.

        Args:
            features: maps [N, C, H_l, W_l].
            index: int64[N, S], into the anchors of all levels.
        """
        channels = features[0].shape[1]
        table = torch.cat([feature.permute(0, 2, 3, 1).flatten(1, 2) for feature in features], dim=1)
        rows, is_inside = self._neighbours(features, index // self.anchors_per_cell)
        image = torch.arange(len(index), device=index.device)[:, None, None]
        patches = table[image, rows] * is_inside[..., None]
        kernel = self.conv.weight.permute(0, 2, 3, 1).reshape(-1, 9 * channels)
        hidden = F.relu(F.linear(patches.flatten(2), kernel, self.conv.bias))
        logits = F.linear(hidden, self.objectness.weight.flatten(1), self.objectness.bias)
        deltas = F.linear(hidden, self.deltas.weight.flatten(1), self.deltas.bias)
        ratio = (index % self.anchors_per_cell)[..., None]
        deltas = deltas.unflatten(2, (self.anchors_per_cell, 4))  # type: ignore[no-untyped-call]
        return (
            logits.gather(2, ratio).squeeze(2),
            deltas.gather(2, ratio[..., None].expand(-1, -1, 1, 4)).squeeze(2),
        )

    @staticmethod
    def _neighbours(features: list[Tensor], cell: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cells of the 3x3 windows around ``cell`` int64[N, S], and which lie on their map.

        Returns:
            int64[N, S, 9], 0 where outside; bool[N, S, 9].
        """
        sizes = [feature.shape[2:] for feature in features]
        counts = torch.tensor([height * width for height, width in sizes], device=cell.device)
        level = torch.bucketize(cell, counts.cumsum(0), right=True)
        first = (counts.cumsum(0) - counts)[level]
        height, width = (torch.tensor(sides, device=cell.device)[level] for sides in zip(*sizes, strict=True))
        step = torch.arange(-1, 2, device=cell.device)
        down, across = step.repeat_interleave(3), step.repeat(3)
        y = ((cell - first) // width)[..., None] + down
        x = ((cell - first) % width)[..., None] + across
        is_inside = (y >= 0) & (y < height[..., None]) & (x >= 0) & (x < width[..., None])
        return (first[..., None] + y * width[..., None] + x) * is_inside, is_inside


def anchors_for(features: list[Tensor], scale: float) -> list[Tensor]:
    """Return each level's anchors, float32[A_l, 4]."""
    return [
        anchor_grid(feature.shape[2], feature.shape[3], stride, scale, feature.device)
        for feature, stride in zip(features, STRIDES, strict=True)
    ]


@torch.no_grad()
def propose(
    output: RPNOutput,
    anchors: list[Tensor],
    sizes: Tensor,
    *,
    nms_thresholds: tuple[float, ...],
    pre_nms: int,
    post_nms: int,
) -> list[Proposals]:
    """Return one list of proposals for each NMS threshold, from one decoding.

    The best ``pre_nms`` anchors of each level are decoded and clipped once. NMS runs within each level, once
    for each *distinct* threshold over the same candidates: the survivors at 0.7 are not a subset of those at
    0.85. The best ``post_nms`` survivors of all levels are the proposals (Section III-B, Fig. 4).

    Args:
        output: of the head.
        anchors: of each level, float32[A_l, 4].
        sizes: float32[N, 2], unpadded height and width.
        nms_thresholds: NMS_cls and NMS_reg in training, one threshold at inference.
        pre_nms: candidates per level.
        post_nms: proposals per image and list.
    """
    scores, boxes, level = [], [], []
    for number, (logits, deltas, grid) in enumerate(zip(*output, anchors, strict=True)):
        top, index = logits.float().topk(min(pre_nms, logits.shape[1]), dim=1)
        chosen = deltas.gather(1, index[..., None].expand(-1, -1, 4))
        scores.append(top)
        boxes.append(decode(grid[index], chosen))
        level.append(torch.full_like(index, number))
    candidates = clip_boxes(torch.cat(boxes, dim=1), sizes[:, None, :])
    score = torch.cat(scores, dim=1)
    image = torch.arange(len(score), device=score.device)[:, None]
    group = torch.cat(level, dim=1) + image * len(anchors)

    lists = {}
    for threshold in set(nms_thresholds):
        kept = batched_nms(candidates.flatten(0, 1), score.flatten(), group.flatten(), threshold)
        survives = torch.zeros_like(score, dtype=torch.bool)
        survives.view(-1)[kept] = True
        best, index = score.masked_fill(~survives, -torch.inf).topk(min(post_nms, score.shape[1]), dim=1)
        lists[threshold] = Proposals(
            candidates.gather(1, index[..., None].expand(-1, -1, 4)), best > -torch.inf
        )
    return [lists[threshold] for threshold in nms_thresholds]


def rpn_losses(
    predict: Callable[[Tensor], tuple[Tensor, Tensor]],
    anchors: list[Tensor],
    batch: Batch,
    *,
    samples: int,
    beta: float = 0.0,
    ignore_crossing: bool = False,
) -> dict[str, Tensor]:
    """Return ``loss_rpn_cls`` (binary cross entropy) and ``loss_rpn_reg`` (L1 on deltas, smooth below beta).

    Both are sums divided by the number of sampled anchors of all images (256 per image, at most half of them
    positive).

    Args:
        predict: returns logits [N, S] and deltas [N, S, 4] at anchors int64[N, S] of all levels.
        anchors: of each level, float32[A_l, 4].
        batch: images with their ground truth.
        samples: anchors per image.
        beta: of the smooth L1 loss; 0 is L1.
        ignore_crossing: leave out anchors that cross the image's border.
    """
    grid = torch.cat(anchors)
    matches = _match(grid, anchors, batch, ignore_crossing=ignore_crossing)
    keys = random_keys(batch.keys, RANDOM_PURPOSE, len(grid))
    chosen = sample_random(matches.positive, matches.negative, keys, count=samples, positive_fraction=0.5)
    divisor = chosen.taken.sum().clamp(min=1)

    logits, all_deltas = (output.float() for output in predict(chosen.candidate))
    bce = F.binary_cross_entropy_with_logits(logits, chosen.positive.float(), reduction="none")

    # Positives fill the first slots; only these regress. Elsewhere the target is the anchor itself, whose
    # deltas are 0, since an undefined target would poison the gradient even under a mask.
    slots = samples // 2
    index, positive = chosen.candidate[:, :slots], chosen.positive[:, :slots, None]
    deltas = all_deltas[:, : index.shape[1]]
    sampled_anchors = grid[index]
    if batch.boxes.shape[1] > 0:
        gt_index = matches.gt.gather(1, index)[..., None].expand(-1, -1, 4)
        targets = torch.where(positive, batch.boxes.gather(1, gt_index), sampled_anchors)
    else:
        targets = sampled_anchors
    l1 = F.smooth_l1_loss(deltas, encode(sampled_anchors, targets), reduction="none", beta=beta)
    return {
        "loss_rpn_cls": (bce * chosen.taken).sum() / divisor,
        "loss_rpn_reg": (l1 * positive).sum() / divisor,
    }


@torch.no_grad()
def _match(grid: Tensor, anchors: list[Tensor], batch: Batch, *, ignore_crossing: bool) -> Matches:
    """Match each image's anchors, without those beyond the image's own padding to a multiple of 32."""
    extent = (batch.sizes / 32).ceil() * 32
    stride = torch.cat([torch.full_like(a[:, 0], s) for a, s in zip(anchors, STRIDES, strict=True)])
    cell = (grid[:, :2] + grid[:, 2:]) / 2
    on_image = (cell[:, 0] < (extent[:, 1:] / stride).ceil() * stride) & (
        cell[:, 1] < (extent[:, :1] / stride).ceil() * stride
    )
    if ignore_crossing:
        inside = (grid[:, 2:] < batch.sizes.flip(1)[:, None]).all(dim=2) & (grid[:, :2] >= 0).all(dim=1)
        on_image = on_image & inside
    # One image at a time: the IoU matrix of a whole COCO batch would take gigabytes. The loop reads no values
    # back from the device.
    matches = [
        match_anchors(grid, on, boxes, labels >= 0)
        for on, boxes, labels in zip(on_image, batch.boxes, batch.labels, strict=True)
    ]
    return Matches(*(torch.stack(parts) for parts in zip(*matches, strict=True)))
