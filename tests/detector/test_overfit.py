"""Every variant learns eight images by heart: its losses, its sampling and its inference fit together."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from drcnn.config import Config
from drcnn.data.annotations import Annotations
from drcnn.data.loader import make_loader
from drcnn.data.prepare import PreparedData, prepare
from drcnn.detector.detector import build_detector
from drcnn.engine.evaluate import coco_metrics, detect_split
from drcnn.recipes import recipe
from drcnn.variants import DETECTORS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# AdamW gets there in half the steps of SGD. A convolutional regressor that averages over its RoI in the end
# finds out more slowly where in the RoI the object lies.
RATE = 0.002
STEPS = dict.fromkeys(DETECTORS, 280) | {"double_head": 700, "double_head_cascade": 400}
SETTINGS = {
    **recipe("laptop", "digits"),
    "detector.fpn_channels": 32,
    "detector.fc_width": 128,
    # More positives where both branches sample at random: a quarter would take some variants longer.
    "detector.cls_positive_fraction": 0.5,
    "data.train_images": 8,
    "data.val_images": 1,
}


@pytest.fixture(scope="module")
def eight_images(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(Config().with_changes(SETTINGS).data, tmp_path_factory.mktemp("eight"))


def train_and_judge(config: Config, data: PreparedData, steps: int) -> dict[str, float]:
    """Metrics on the images trained on."""
    torch.manual_seed(1)
    detector = build_detector(config.detector, len(data.classes)).train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=RATE, weight_decay=1e-4, fused=True)
    batches = list(make_loader(data.train, config.data, training=True, batch_size=4))
    for step in range(steps):
        # Warm-up, the full rate, and in the second half down to 0 as a cosine.
        fall = max(0.0, 2 * step / steps - 1)
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 20) * (1 + math.cos(math.pi * fall)) / 2
        batch = batches[step % len(batches)]
        # Other samples in every step.
        losses = detector(replace(batch, keys=batch.keys + 1_000_003 * step))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimizer.step()
    loader = make_loader(data.train, config.data, training=False, batch_size=4)
    annotations = Annotations.load(Path(data.train))
    return coco_metrics(annotations, detect_split(detector, loader, annotations, torch.device("cpu"))).summary


# Each takes a minute or two. Two of them, that cover both kinds of heads, are part of every run.
IN_EVERY_RUN = {"fpn", "decoupled_cascade"}


@pytest.mark.parametrize(
    "variant",
    [pytest.param(each, marks=[] if each in IN_EVERY_RUN else pytest.mark.long) for each in DETECTORS],
)
def test_eight_images_are_learned_by_heart(variant: str, eight_images: PreparedData) -> None:
    config = Config().with_changes({**SETTINGS, "detector.variant": variant})
    metrics = train_and_judge(config, eight_images, STEPS[variant])
    assert metrics["AP"] >= 0.9, metrics
