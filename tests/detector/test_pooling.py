from __future__ import annotations

import torch
from hypothesis import given
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from drcnn.detector.pooling import pool, pyramid_level

from .test_boxes import random_boxes, seeds


@given(seeds)
def test_levels_are_torchvisions(generator: torch.Generator) -> None:
    boxes = random_boxes(generator, 200, extent=1500)
    assert torch.equal(pyramid_level(boxes), LevelMapper(2, 5, 224, 4)([boxes]))


def test_levels_change_at_112_224_and_448_pixels() -> None:
    sides = torch.tensor([0.0, 1.0, 111.0, 113.0, 223.0, 225.0, 447.0, 449.0, 5000.0])
    boxes = torch.stack((sides * 0, sides * 0, sides, sides), dim=1)
    assert pyramid_level(boxes).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


@given(seeds)
def test_pooling_equals_one_roi_at_a_time(generator: torch.Generator) -> None:
    features = [torch.randn(2, 3, 64 >> level, 64 >> level, generator=generator) for level in range(4)]
    boxes, image = random_boxes(generator, 12, extent=250), torch.randint(0, 2, (12,), generator=generator)
    rois = torch.cat((image[:, None].float(), boxes), dim=1)
    pooled = pool(features, image, boxes)
    for number, level in enumerate(pyramid_level(boxes).tolist()):
        alone = roi_align(features[level], rois[number : number + 1], 7, 1 / (4 << level), 0, aligned=True)
        # Positions of some 60 cells are rounded at 4e-6, and values change by some units from cell to cell.
        torch.testing.assert_close(pooled[number : number + 1], alone, rtol=1e-4, atol=1e-4)


def test_no_rois_give_no_features_but_keep_the_graph() -> None:
    features = [torch.randn(1, 3, 8, 8, requires_grad=True) for _ in range(4)]
    pooled = pool(features, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert features[0].grad is not None


@given(seeds)
def test_enlarged_rois_are_pooled_around_their_centre_from_their_own_level(
    generator: torch.Generator,
) -> None:
    """Enlarged by 1.3, sides of 86 to 112 would belong one level up; they stay."""
    features = [torch.randn(1, 3, 64 >> level, 64 >> level, generator=generator) for level in range(4)]
    corner, side = (
        torch.rand(8, 2, generator=generator) * 100,
        80 + 40 * torch.rand(8, 1, generator=generator),
    )
    boxes, image = torch.cat((corner, corner + side), dim=1), torch.zeros(8, dtype=torch.int64)
    pooled = pool(features, image, boxes, 1.3)
    each = torch.tensor([1.3, 1.0] * 4)[:, None]
    mixed = pool(features, image, boxes, each)
    for number, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        level = 0 if x2 - x1 < 112 else 1
        grow = 0.15 * (x2 - x1)
        larger = torch.tensor([[0, x1 - grow, y1 - grow, x2 + grow, y2 + grow]])
        alone = roi_align(features[level], larger, 7, 1 / (4 << level), 0, aligned=True)
        torch.testing.assert_close(pooled[number : number + 1], alone, rtol=1e-3, atol=1e-3)
        if each[number] == 1:
            alone = pool(features, image[:1], boxes[number : number + 1])
        torch.testing.assert_close(mixed[number : number + 1], alone, rtol=1e-3, atol=1e-3)


def test_boxes_that_are_no_numbers_do_not_crash() -> None:
    features = [torch.full((1, 2, 64 >> level, 64 >> level), torch.nan) for level in range(4)]
    boxes = torch.tensor([[torch.nan] * 4, [0.0, 0.0, torch.nan, 20.0], [4.0, 4.0, 30.0, 30.0]])
    pooled = pool(features, torch.zeros(3, dtype=torch.int64), boxes)
    assert pooled.shape == (3, 2, 7, 7)
    assert pooled[2].isnan().all()
