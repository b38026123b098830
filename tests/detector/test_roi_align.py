"""RoIAlign as a weighted sum of cells against torchvision's kernel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from drcnn.detector.roi_align import pyramid_roi_align

STRIDES = (4, 8, 16, 32)
HEIGHT, WIDTH = 96, 160

ODD_BOXES = {
    "no extent": [20.0, 30.0, 20.0, 30.0],
    "no height": [20.0, 30.0, 60.0, 30.0],
    "one pixel": [20.0, 30.0, 21.0, 31.0],
    "the whole image": [0.0, 0.0, 160.0, 96.0],
    "a corner": [150.0, 90.0, 160.0, 96.0],
    "very wide": [0.0, 40.0, 160.0, 43.0],
    "very tall": [80.0, 0.0, 82.5, 96.0],
    "partly outside": [-30.0, -20.0, 40.0, 50.0],
    "wholly outside": [300.0, 300.0, 340.0, 340.0],
}


def plain(
    features: list[torch.Tensor], level: torch.Tensor, image: torch.Tensor, boxes: torch.Tensor
) -> torch.Tensor:
    pooled = [
        roi_align(
            features[int(at)], torch.cat((of[None].float(), box))[None], 7, 0.25 / 2 ** int(at), 0, True
        )
        for at, of, box in zip(level, image, boxes, strict=True)
    ]
    return torch.cat(pooled)


def make_features(seed: int, channels: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, channels, HEIGHT // stride, WIDTH // stride, generator=generator).requires_grad_()
        for stride in STRIDES
    ]


@pytest.mark.parametrize("box", ODD_BOXES.values(), ids=ODD_BOXES)
@pytest.mark.parametrize("level", range(4))
def test_odd_boxes_equal_torchvision(box: list[float], level: int) -> None:
    features = make_features(1)
    arguments = torch.tensor([level]), torch.tensor([1]), torch.tensor([box])
    pooled = pyramid_roi_align(features, *arguments, size=7)
    torch.testing.assert_close(pooled, plain(features, *arguments), rtol=1e-4, atol=1e-4)


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_values_and_gradients_equal_torchvision(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    count = 12
    level = torch.randint(0, 4, (count,), generator=generator)
    image = torch.randint(0, 2, (count,), generator=generator)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([170.0, 100.0]) - 10
    size = torch.exp(torch.randn(count, 2, generator=generator) * 1.2 + 3)
    boxes = torch.cat((corner, corner + size), dim=1)
    features = make_features(seed)
    weights = torch.randn(count, 3, 7, 7, generator=generator)
    results = []
    for function in (lambda *a: pyramid_roi_align(*a, size=7), plain):
        pooled = function(features, level, image, boxes)
        results.append(
            (
                pooled.detach(),
                *torch.autograd.grad((pooled * weights).sum(), features, materialize_grads=True),
            )
        )
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-3)


def test_no_rois_keep_the_graph() -> None:
    features = make_features(1)
    empty = torch.zeros(0, dtype=torch.int64)
    pooled = pyramid_roi_align(features, empty, empty, torch.zeros(0, 4), size=7)
    assert pooled.shape == (0, 3, 7, 7)
    assert all((each == 0).all() for each in torch.autograd.grad(pooled.sum(), features))


def test_channels_innermost_give_the_same() -> None:
    features = make_features(2)
    arguments = torch.tensor([0, 2]), torch.tensor([0, 1]), torch.tensor([[4.0, 4, 40, 50], [0, 0, 150, 90]])
    other = [each.contiguous(memory_format=torch.channels_last) for each in features]
    assert torch.equal(
        pyramid_roi_align(features, *arguments, size=7), pyramid_roi_align(other, *arguments, size=7)
    )
