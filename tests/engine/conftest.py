from __future__ import annotations

import pytest

from drcnn.config import Config
from drcnn.data.prepare import PreparedData, prepare
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
