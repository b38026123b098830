from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from drcnn.config import Config
from drcnn.data.prepare import PreparedData, prepare
from drcnn.detector.detector import build_detector
from drcnn.engine.checkpoint import TrainingState, save
from drcnn.recipes import recipe

TINY = {
    **recipe("laptop", "digits"),
    "detector.backbone_width": 0.25,
    "detector.weights": "none",
    "detector.norm": "group",
    "detector.frozen_stages": 0,
    "detector.fpn_channels": 16,
    "detector.fc_width": 32,
    "detector.roi_samples": 16,
    "detector.rpn_pre_nms_train": 50,
    "detector.rpn_pre_nms_test": 50,
    "detector.rpn_post_nms_train": 50,
    "detector.rpn_post_nms_test": 50,
    "data.train_images": 8,
    "data.val_images": 4,
    "data.test_images": 4,
    "training.epochs": 3,
    "training.batch_size": 4,
}


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    return Config().with_changes(TINY)


@pytest.fixture(scope="session")
def tiny_data(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(tiny_config.data, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tiny_config: Config, tiny_data: PreparedData, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An untrained detector that detects all the same: every score counts."""
    config = tiny_config.with_changes({"detector.score_thr": 0.0})
    return write_checkpoint(tmp_path_factory.mktemp("model") / "last.safetensors", config, tiny_data.classes)


def write_checkpoint(path: Path, config: Config, classes: Sequence[str]) -> Path:
    """Write a checkpoint of a detector with random weights; none of its outputs is nearly constant."""
    torch.manual_seed(0)
    detector = build_detector(config.detector, len(classes), pretrained=False)
    for name, parameter in detector.named_parameters():
        if "predictor" in name or "objectness" in name or "deltas" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save(path, detector, TrainingState(config.to_yaml(), list(classes), epoch=1))
    return path
