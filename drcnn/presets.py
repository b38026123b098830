"""Names that stand for several settings: the paper's detectors and its training schedules.

Wherever settings are changed (``--set``, a study's rows, ``Config.with_changes``), ``detector.variant`` and
``training.schedule`` take these names. A setting given beside a name wins over what the name brings.

>>> expand({"detector.variant": "decoupled_cascade", "detector.stages": 2})["detector.stages"]
2
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["PRESETS", "SCHEDULES", "VARIANTS", "expand"]


def _one_list(variant: str, stages: int = 1) -> dict[str, Any]:
    """A detector whose branches share one list of proposals, NMS 0.7."""
    return {
        "detector.variant": variant,
        "detector.stages": stages,
        "detector.nms_cls": 0.7,
        "detector.nms_reg": 0.7,
        "detector.lambda_reg": 1.0,
    }


def _two_lists(variant: str, stages: int = 1, *, lambda_reg: float | None = None) -> dict[str, Any]:
    """A detector with NMS_cls 0.7 and the paper's best NMS_reg, 0.85 (Table III)."""
    return {
        "detector.variant": variant,
        "detector.stages": stages,
        "detector.nms_cls": 0.7,
        "detector.nms_reg": 0.85,
        **({} if lambda_reg is None else {"detector.lambda_reg": lambda_reg}),
    }


# λ is 0.5 for the paper's cascade (Table VI) and 1 for detectors that are not the paper's; for one stage it
# is the recipe's, 1 on VOC and 0.5 on COCO (spec D2). Cascade R-CNN trains on 2,000 proposals (spec 1.6).
VARIANTS: dict[str, dict[str, Any]] = {
    "fpn": _one_list("fpn"),
    "fpn_unshared": _one_list("fpn_unshared"),
    "decoupled": _two_lists("decoupled"),
    "decoupled_shared": _two_lists("decoupled_shared"),
    "decoupled_cascade": _two_lists("decoupled", 3, lambda_reg=0.5),
    "cascade_rcnn": _one_list("cascade_rcnn", 3) | {"detector.rpn_post_nms_train": 2000},
    "decoupled_cascade_cls": _two_lists("decoupled_cascade_cls", 3, lambda_reg=1.0),
    "double_head": _two_lists("double_head"),
    "double_head_cascade": _two_lists("double_head", 3, lambda_reg=0.5),
    "two_samplings": _two_lists("two_samplings", lambda_reg=1.0),
}

_COCO_1X: dict[str, Any] = {
    "training.schedule": "step",
    "training.epochs": 12,
    "training.lr": 0.01,
    "training.milestones": (8, 11),
    "training.warmup_iterations": 500,
}
_COCO_2X: dict[str, Any] = {**_COCO_1X, "training.epochs": 24, "training.milestones": (16, 22)}

# Rates are those at 8 images a step (spec 2).
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

PRESETS = {"detector.variant": VARIANTS, "training.schedule": SCHEDULES}


def expand(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``changes`` with the names of variants and schedules replaced by what they stand for."""
    expanded: dict[str, Any] = {}
    given = dict(changes)
    for key, presets in PRESETS.items():
        name = given.get(key)
        if isinstance(name, str) and name in presets:
            expanded |= presets[name]
            del given[key]
    return expanded | given
