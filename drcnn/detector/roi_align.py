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
    """The cells that the S bins of a RoI read along one axis: T neighbours, or fewer and padding."""

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
    # Sampling points of a bin along both axes: they touch one cell more.
    points = ((scaled[:, 2:] - scaled[:, :2]) / size).ceil().long().clamp(min=1)
    columns = _axis(scaled[:, 0], scaled[:, 2], width, size, points[:, 0])
    rows = _axis(scaled[:, 1], scaled[:, 3], height, size, points[:, 1])
    begun = (first[:, None, None] + rows.cells * width[:, None, None]).int()
    cells, weights, offsets = _bags(begun, rows.weights, columns, points + 1)
    pooled = F.embedding_bag(cells, table, offsets, mode="sum", per_sample_weights=weights)
    return pooled.view(-1, size**2, channels).transpose(1, 2).reshape(-1, channels, size, size)


def _bags(
    begun: Tensor, row_weights: Tensor, columns: _Axis, touched: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cells that each bin sums, RoI by RoI and bin by bin.

    Args:
        begun: int32[R, S, T], where the rows of cells begin that a RoI reads; their weights float32[R, S, T].
        columns: that it reads of them.
        touched: int64[R, 2], columns and rows of a bin; what is beyond them is padding.

    Returns:
        int32[total], rows of the table; float32[total], their weights; int32[R * S * S], the first of a bin.
    """
    size = begun.shape[1]
    per_bin = touched.prod(dim=1)
    begins = (size**2 * per_bin).cumsum(0) - size**2 * per_bin
    total = size**2 * int(per_bin.sum())
    # In int32: the backward pass sorts them.
    cells, column_cells = torch.empty(total, dtype=torch.int32), columns.cells.int()
    weights = torch.empty(total)
    # RoIs with the same numbers are computed together.
    for across, down in torch.unique(touched, dim=0).tolist():
        chosen = ((touched[:, 0] == across) & (touched[:, 1] == down)).nonzero().squeeze(1)
        places = begins[chosen, None] + torch.arange(size**2 * across * down)
        at = begun[chosen, :, None, :down, None] + column_cells[chosen, None, :, None, :across]
        weight = row_weights[chosen, :, None, :down, None] * columns.weights[chosen, None, :, None, :across]
        cells[places], weights[places] = at.flatten(1), weight.flatten(1)
    offsets = begins[:, None] + per_bin[:, None] * torch.arange(size**2)
    return cells, weights, offsets.flatten().int()


def _layout(features: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Heights and widths of the levels, and the row of the table where each level begins; int64[L] each."""
    sizes = torch.tensor([feature.shape[2:] for feature in features])
    cells = sizes.prod(dim=1) * len(features[0])
    return sizes[:, 0], sizes[:, 1], cells.cumsum(0) - cells


def _axis(low: Tensor, high: Tensor, length: Tensor, size: int, counts: Tensor) -> _Axis:
    """Average linearly interpolated points in each bin; c of them touch c + 1 cells.

    Args:
        low: float32[R], where each RoI begins, in cells; ``high``: where it ends.
        length: int64[R], cells of its map along this axis.
        size: S.
        counts: int64[R], points per bin, at most a cell apart. A RoI without extent has none.
    """
    distinct = torch.unique(counts).tolist()
    shape = (len(counts), size, 1 + max(distinct, default=0))
    cells, weights = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape)
    extents, lasts = (high - low)[:, None, None] / size, length[:, None, None] - 1
    for count in distinct:
        chosen = (counts == count).nonzero().squeeze(1)
        extent, last = extents[chosen], lasts[chosen]
        places = (torch.arange(count) + 0.5) / count
        points = low[chosen, None, None] + (torch.arange(size)[:, None] + places) * extent
        is_counted = (points >= -1) & (points <= last + 1) & (extent > 0)
        points = points.clamp(min=0).minimum(last)
        near = points[..., :1].floor().long() + torch.arange(count + 1)
        hats = (1 - (points[..., None] - near[..., None, :]).abs()).clamp(min=0)
        cells[chosen, :, : count + 1] = near.minimum(last)
        weights[chosen, :, : count + 1] = (hats * is_counted[..., None]).sum(dim=2) / count
    return _Axis(cells, weights)
