"""Names that stand for several settings: the detectors of ``drcnn.variants`` and the paper's schedules.

Wherever settings are changed (``--set``, a study's rows, ``Config.with_changes``), ``detector.variant``,
``training.schedule`` and ``training.init`` take these names. A setting given beside a name wins over what the
name brings.

>>> expand({"detector.variant": "decoupled_cascade", "detector.stages": 2})["detector.stages"]
2
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drcnn.variants import DETECTORS

__all__ = ["PRESETS", "SCHEDULES", "STARTS", "expand"]

_COCO_1X: dict[str, Any] = {
    "training.schedule": "step",
    "training.epochs": 12,
    "training.lr": 0.01,
    "training.milestones": (8, 11),
    "training.warmup_iterations": 500,
}
_COCO_2X: dict[str, Any] = {**_COCO_1X, "training.epochs": 24, "training.milestones": (16, 22)}

# Rates are those at 8 images a step (docs/detector.md, section 6).
SCHEDULES: dict[str, dict[str, Any]] = {
    "voc_12": {
        "training.schedule": "step",
        "training.epochs": 12,
        "training.lr": 0.005,
        "training.milestones": (9,),
        "training.warmup_iterations": 0,
    },
    "coco_1x": _COCO_1X,
    "coco_2x": _COCO_2X,
    "coco_2x_multi_scale": {
        **_COCO_2X,
        "data.train_short_sides": tuple(range(640, 801, 32)),
        "data.long_side": 1333,
    },
}

# Whole detectors to start from, with the architecture that they have: torchvision's Faster R-CNN.
STARTS: dict[str, dict[str, Any]] = {
    "coco": {
        "training.init": "coco",
        "detector.backbone": "resnet50",
        "detector.backbone_width": 1.0,
        "detector.weights": "imagenet",
        "detector.norm": "frozen",
        "detector.fpn_channels": 256,
        "detector.fc_width": 1024,
        "detector.anchor_scale": 8.0,
    },
}

PRESETS = {"detector.variant": DETECTORS, "training.schedule": SCHEDULES, "training.init": STARTS}


def expand(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``changes`` with the names of variants and schedules replaced by what they stand for."""
    expanded: dict[str, Any] = {}
    explicit = dict(changes)
    for key, presets in PRESETS.items():
        name = explicit.get(key)
        if isinstance(name, str) and name in presets:
            expanded |= presets[name]
            del explicit[key]
    return expanded | explicit
