"""RoIAlign for CPUs: computes what torchvision's kernel does, as one weighted sum over rows of a table.

torchvision's CPU kernel runs on one thread, a channel at a time, and its backward pass zeroes whole maps in
each call; together that was a quarter of a training step. Sampling is linear in the features and separable:
each bin is a weighted sum over the cells of a small rectangle. So all levels form one table with one row per
cell, and ``embedding_bag`` sums its rows: vectorised over channels, on all threads.

Shapes: N images, C channels, R RoIs, S = 7 bins a side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["pyramid_roi_align"]


class _Axis(NamedTuple):
    """The cells that the S bins of a RoI read along one axis, T neighbours per bin."""

    cells: Tensor  # int64[R, S, T]
    weights: Tensor  # float32[R, S, T]


def pyramid_roi_align(
    features: list[Tensor], level: Tensor, image: Tensor, boxes: Tensor, *, size: int
) -> Tensor:
    """Return the pooled features of each RoI, float32[R, C, S, S]: aligned, with adaptive sampling.

    Args:
        features: maps [N, C, H, W] of strides 4, 8, 16, ...
        level: int64[R], index into ``features``.
        image: int64[R], position in the batch.
        boxes: float32[R, 4], xyxy in image pixels.
        size: S.
    """
    channels = features[0].shape[1]
    # One row per cell: level by level, image by image, row by row of the map.
    table = torch.cat([feature.float().permute(0, 2, 3, 1).reshape(-1, channels) for feature in features])
    heights, widths, firsts = _layout(features)
    height, width = heights[level], widths[level]
    first = firsts[level] + image * height * width

    scaled = boxes / (4.0 * 2.0**level)[:, None] - 0.5
    # Sampling points of a bin along both axes. RoIs with the same numbers are computed together.
    points = ((scaled[:, 2:] - scaled[:, :2]) / size).ceil().long().clamp(min=1)
    touched = size**2 * (points + 1).prod(dim=1)
    begins = touched.cumsum(0) - touched
    total = int(touched.sum())
    cells = torch.empty(total, dtype=torch.int64)
    weights = torch.empty(total)
    for across, down in torch.unique(points, dim=0).tolist():
        chosen = ((points[:, 0] == across) & (points[:, 1] == down)).nonzero().squeeze(1)
        rows = _axis(scaled[chosen, 1], scaled[chosen, 3], height[chosen], size, down)
        columns = _axis(scaled[chosen, 0], scaled[chosen, 2], width[chosen], size, across)
        at = first[chosen, None, None] + rows.cells * width[chosen, None, None]
        places = begins[chosen, None] + torch.arange(size**2 * (across + 1) * (down + 1))
        cells[places] = (at[:, :, None, :, None] + columns.cells[:, None, :, None, :]).flatten(1)
        weight = rows.weights[:, :, None, :, None] * columns.weights[:, None, :, None, :]
        weights[places] = weight.flatten(1)
    per_bin = (points + 1).prod(dim=1)
    offsets = begins[:, None] + per_bin[:, None] * torch.arange(size**2)
    pooled = F.embedding_bag(cells, table, offsets.flatten(), mode="sum", per_sample_weights=weights)
    return pooled.view(-1, size**2, channels).transpose(1, 2).reshape(-1, channels, size, size)


def _layout(features: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Heights and widths of the levels, and the row of the table where each level begins; int64[L] each."""
    sizes = torch.tensor([feature.shape[2:] for feature in features])
    cells = sizes.prod(dim=1) * len(features[0])
    return sizes[:, 0], sizes[:, 1], cells.cumsum(0) - cells


def _axis(low: Tensor, high: Tensor, length: Tensor, size: int, count: int) -> _Axis:
    """Average ``count`` linearly interpolated points in each bin; they touch count + 1 cells.

    Args:
        low: float32[R], where each RoI begins, in cells; ``high``: where it ends.
        length: int64[R], cells of its map along this axis.
        size: S.
        count: points per bin, at most a cell apart. A RoI without extent has none.
    """
    extent = (high - low)[:, None, None] / size
    last = length[:, None, None] - 1
    places = (torch.arange(count) + 0.5) / count
    points = low[:, None, None] + (torch.arange(size)[:, None] + places) * extent
    counts = (points >= -1) & (points <= last + 1) & (extent > 0)
    points = points.clamp(min=0).minimum(last)
    cells = points[..., :1].floor().long() + torch.arange(count + 1)
    hats = (1 - (points[..., None] - cells[..., None, :]).abs()).clamp(min=0)
    return _Axis(cells.minimum(last), (hats * counts[..., None]).sum(dim=2) / count)
