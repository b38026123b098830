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
    boxes = random_boxes(generator, 12, extent=250)
    rois = torch.cat((torch.randint(0, 2, (12, 1), generator=generator).float(), boxes), dim=1)
    pooled = pool(features, rois)
    for number, level in enumerate(pyramid_level(boxes).tolist()):
        alone = roi_align(features[level], rois[number : number + 1], 7, 1 / (4 << level), 0, aligned=True)
        torch.testing.assert_close(pooled[number : number + 1], alone)


def test_no_rois_give_no_features_but_keep_the_graph() -> None:
    features = [torch.randn(1, 3, 8, 8, requires_grad=True) for _ in range(4)]
    pooled = pool(features, torch.zeros(0, 5))
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert features[0].grad is not None
