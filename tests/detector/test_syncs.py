"""How often a training step waits for the device: a count that must not grow with the batch.

On a CPU nothing waits; but the operations that would read values back from a GPU are the same.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from drcnn.batch import Batch
from drcnn.detector import pooling
from drcnn.detector.detector import DecoupledRCNN, build_detector

from .test_detector import small
from .test_rpn import make_batch

# What reads values or a size back; ``tolist`` leaves no trace in a profile and is counted by itself.
READS = ("aten::nonzero", "aten::_local_scalar_dense", "aten::masked_select", "aten::_unique2")


def make_detector(variant: str) -> DecoupledRCNN:
    torch.manual_seed(0)
    # Few candidates: above 1,000 boxes torchvision's NMS runs group by group on a CPU (100,000 / 4 on a GPU).
    return build_detector(small(variant=variant, norm="group", rpn_pre_nms_train=60), 3).train()


def batch_of(images: int) -> Batch:
    """One object of each fills the image as an anchor of P4 does: there always are positives."""
    return make_batch([[[0.0, 0.0, 64.0, 64.0], [20.0, 30.0, 60.0, 60.0]]] * images, 64, 64)


def reads_of(detector: DecoupledRCNN, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What a training forward reads back, RoIAlign left out: "pool" counts how often RoIs are pooled."""
    counts: Counter[str] = Counter()
    tolist = Tensor.tolist

    def counting(tensor: Tensor) -> Any:
        counts["tolist"] += 1
        return tolist(tensor)

    def not_pooling(features: list[Tensor], level: Tensor, image: Tensor, *_: Any, size: int) -> Tensor:
        counts["pool"] += 1
        return features[0].new_zeros(len(image), features[0].shape[1], size, size)

    with monkeypatch.context() as patch, profile(activities=[ProfilerActivity.CPU]) as recorded:
        patch.setattr(Tensor, "tolist", counting)
        # A CPU's RoIAlign is another one than a GPU's, which reads once how many RoIs each level has.
        patch.setattr(pooling, "pyramid_roi_align", not_pooling)
        detector(batch)
    for event in recorded.events():
        if event.name in READS:
            counts[event.name] += 1
    return counts


@pytest.mark.parametrize(
    ("variant", "reads"),
    [
        ("fpn", {"aten::nonzero": 2, "pool": 1}),
        ("decoupled", {"aten::nonzero": 2, "pool": 1}),
        ("decoupled_cascade", {"aten::nonzero": 4, "pool": 3}),
        ("double_head_cascade", {"aten::nonzero": 4, "pool": 3}),
        ("cascade_rcnn", {"aten::nonzero": 6, "pool": 3}),
        ("decoupled_cascade_cls", {"aten::nonzero": 6, "pool": 3}),
    ],
)
def test_a_training_forward_reads_back_as_often_for_four_images_as_for_two(
    variant: str, reads: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sampling and each new assignment reads how many RoIs there are."""
    detector = make_detector(variant)
    for images in (2, 4):
        assert reads_of(detector, batch_of(images), monkeypatch) == reads, images


def test_the_count_sees_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reading(torch.nn.Module):
        def forward(self, batch: Batch) -> int:
            mask = batch.boxes[..., 0] > 0
            return int(batch.boxes[mask].sum()) + len(batch.labels.tolist())

    counts = reads_of(Reading(), batch_of(2), monkeypatch)  # type: ignore[arg-type]
    assert counts == {"aten::nonzero": 1, "aten::_local_scalar_dense": 1, "tolist": 1}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("variant", ["fpn", "decoupled_cascade", "cascade_rcnn", "decoupled_cascade_cls"])
def test_a_gpu_waits_as_often_for_four_images_as_for_two(variant: str) -> None:
    """All waits, torchvision's and torch's own among them."""
    device = torch.device("cuda")
    detector = make_detector(variant).to(device)
    waits = []
    for images in (2, 2, 4):  # the first one also warms up
        batch = batch_of(images).to(device)
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            detector(batch)
        torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchroniz" in str(warning.message) for warning in caught))
    assert 0 < waits[1] == waits[2]
