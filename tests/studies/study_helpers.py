"""A tiny configuration and made-up metrics, for the tests of studies."""

from __future__ import annotations

from typing import Any

# Seconds an epoch: eight small images and a narrow network.
TINY: dict[str, Any] = {
    "data.train_images": 8,
    "data.val_images": 4,
    "data.test_images": 4,
    "training.batch_size": 4,
    "detector.backbone_width": 0.3,
    "detector.fpn_channels": 16,
    "detector.fc_width": 32,
    "detector.rpn_pre_nms_train": 60,
    "detector.rpn_post_nms_train": 40,
    "detector.roi_samples": 16,
}


def papers_data(study: str) -> str:
    """A folder of the data that the paper has a study's tables of: COCO from Table VIII on, before it VOC."""
    on_coco = study in {"pareto", "table_08", "table_09", "table_10", "table_11"}
    return "coco:absent" if on_coco else "voc:absent"


def epoch(number: int, value: float) -> dict[str, float]:
    """The metrics of one epoch."""
    names = {"AP": value, "AP50": value + 0.1, "AP90": value / 2, "AP_large": float("nan")}
    aps = {f"{split}/{name}": figure for split in ("val", "test") for name, figure in names.items()}
    return {"epoch": float(number), **aps, "train/loss": 1.0 / number, "perf/eval_seconds": 1.0}


def assignments(**changes: Any) -> list[str]:
    """The tiny configuration, with changes, as ``--set`` takes it."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return [f"{key}={value}" for key, value in {**TINY, **dotted}.items()]
