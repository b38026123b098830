from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou, clip_boxes_to_image

from drcnn.detector.boxes import MAX_LOG_SCALE, anchor_grid, clip_boxes, decode, encode, pairwise_iou


def random_boxes(generator: torch.Generator, *shape: int, extent: float = 300.0) -> torch.Tensor:
    corners = torch.rand(*shape, 2, generator=generator) * extent
    # At least 8 px: the growth limit of 62.5 is tested by itself.
    return torch.cat((corners, corners + 8 + torch.rand(*shape, 2, generator=generator) * extent / 2), dim=-1)


seeds = st.integers(0, 2**31).map(lambda seed: torch.Generator().manual_seed(seed))
STDS = (0.1, 0.1, 0.2, 0.2)


@given(seeds)
def test_iou_is_torchvisions(generator: torch.Generator) -> None:
    boxes, others = random_boxes(generator, 2, 20), random_boxes(generator, 2, 7)
    iou = pairwise_iou(boxes, others)
    for image in range(2):
        torch.testing.assert_close(iou[image], box_iou(boxes[image], others[image]))


def test_boxes_without_area_overlap_by_zero() -> None:
    empty = torch.tensor([[3.0, 4.0, 3.0, 4.0]])
    assert pairwise_iou(empty, empty).item() == 0


@given(seeds)
def test_deltas_are_torchvisions(generator: torch.Generator) -> None:
    boxes, targets = random_boxes(generator, 20), random_boxes(generator, 20)
    coder = BoxCoder(weights=tuple(1 / std for std in STDS))
    deltas = encode(boxes, targets, STDS)
    torch.testing.assert_close(deltas, coder.encode_single(targets, boxes), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        decode(boxes, deltas, STDS), coder.decode_single(deltas, boxes), rtol=1e-4, atol=1e-2
    )


@given(seeds)
def test_decoding_inverts_encoding(generator: torch.Generator) -> None:
    boxes, targets = random_boxes(generator, 20), random_boxes(generator, 20)
    torch.testing.assert_close(
        decode(boxes, encode(boxes, targets, STDS), STDS), targets, rtol=1e-4, atol=1e-2
    )


def test_growth_and_shrinkage_are_limited() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    assert math.isclose(MAX_LOG_SCALE, 4.135, abs_tol=1e-3)
    grown = decode(box, torch.tensor([[0.0, 0.0, 99.0, -99.0]]))
    torch.testing.assert_close(grown[0, 2] - grown[0, 0], torch.tensor(10 * 1000 / 16))
    torch.testing.assert_close(grown[0, 3] - grown[0, 1], torch.tensor(10 * 16 / 1000), rtol=1e-3, atol=1e-3)


@given(seeds)
def test_clipping_is_torchvisions_for_each_image(generator: torch.Generator) -> None:
    boxes = random_boxes(generator, 2, 9, extent=400) - 80
    sizes = torch.tensor([[100.0, 200.0], [250.0, 120.0]])
    clipped = clip_boxes(boxes, sizes[:, None])
    for image, (height, width) in enumerate(sizes.tolist()):
        expected = clip_boxes_to_image(boxes[image], (int(height), int(width)))
        torch.testing.assert_close(clipped[image], expected)


def test_anchors_are_torchvisions_before_its_rounding() -> None:
    stride, height, width = 8, 5, 7
    generator = AnchorGenerator(sizes=((8 * stride,),), aspect_ratios=((0.5, 1.0, 2.0),))
    images = ImageList(
        torch.zeros(1, 3, height * stride, width * stride), [(height * stride, width * stride)]
    )
    (expected,) = generator(images, [torch.zeros(1, 1, height, width)])
    anchors = anchor_grid(height, width, stride, 8.0, torch.device("cpu"))
    assert (anchors - expected).abs().max() <= 0.5
    torch.testing.assert_close(anchors[1::3], expected[1::3])  # squares need no rounding
    sides = anchors[:, 2:] - anchors[:, :2]
    torch.testing.assert_close(sides.prod(dim=1), torch.full((len(sides),), 64.0**2))
    torch.testing.assert_close((sides[:, 1] / sides[:, 0])[:3], torch.tensor([0.5, 1.0, 2.0]))
