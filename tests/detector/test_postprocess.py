from __future__ import annotations

import pytest
import torch

from drcnn.detector.postprocess import Detections, postprocess

IMAGES, CLASSES, SIDE, COUNT = 8, 80, 1333.0, 110


def of_one(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes, labels and scores of an image: small objects, several boxes around each.

    Fewer than a thousand boxes in the batch: with more, torchvision takes the classes one after another.
    """
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(20, 2, generator=generator) * (SIDE - 60) + 30
    which = torch.arange(COUNT) % 20
    centre = centres[which] + torch.randn(COUNT, 2, generator=generator) * 2
    size = 12 * torch.exp(torch.randn(COUNT, 2, generator=generator) * 0.2)
    boxes = torch.cat((centre - size / 2, centre + size / 2), dim=1)
    # The classes that batched_nms lays farthest out.
    return boxes, CLASSES - 1 - which % 4, torch.rand(COUNT, generator=generator)


@pytest.mark.parametrize("first", range(0, 80, IMAGES))
def test_an_image_has_the_same_detections_alone_and_in_a_batch(first: int) -> None:
    parts = [of_one(seed) for seed in range(first, first + IMAGES)]
    image = torch.arange(IMAGES).repeat_interleave(COUNT)
    together = _postprocess(image, *(torch.cat(each) for each in zip(*parts, strict=True)), images=IMAGES)
    for number, part in enumerate(parts):
        alone = _postprocess(torch.zeros(COUNT, dtype=torch.int64), *part, images=1)
        mine = together.image == number
        for name in ("boxes", "labels", "scores"):
            assert torch.equal(getattr(together, name)[mine], getattr(alone, name))


def _postprocess(*arguments: torch.Tensor, images: int) -> Detections:
    return postprocess(*arguments, images=images, nms_threshold=0.5, max_detections=100)
