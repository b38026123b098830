from __future__ import annotations

import pytest

from drcnn.config import Config, ConfigError, parse_assignments
from drcnn.recipes import recipe


def test_defaults_are_the_papers_voc_setting() -> None:
    config = Config()
    detector = config.detector
    assert (detector.nms_cls, detector.nms_reg, detector.nms_test) == (0.7, 0.85, 0.7)
    assert (detector.roi_samples, detector.cls_positive_fraction, detector.rpn_samples) == (512, 0.25, 256)
    assert (detector.rpn_pre_nms_train, detector.rpn_pre_nms_test, detector.rpn_post_nms) == (
        2000,
        1000,
        1000,
    )
    assert (config.training.epochs, config.training.lr, config.training.batch_size) == (12, 0.005, 8)
    assert config.training.clip_norm is None
    assert (config.data.short_side, config.data.long_side) == (600, 1000)


def test_leaf_names_are_unique() -> None:
    """They name a run's parameters in the tracker."""
    leaves = [key.rpartition(".")[2] for key, _ in Config().flat()]
    assert len(leaves) == len(set(leaves))


@pytest.mark.parametrize(
    ("profile", "source"), [("laptop", "digits"), ("laptop", "voc:x"), ("paper", "coco:x")]
)
def test_recipes_and_their_yaml_are_valid(profile: str, source: str) -> None:
    config = Config().with_changes(recipe(profile, source))
    assert config.data.source == source
    assert Config.from_yaml(config.to_yaml()) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"detector.nms_reg": 1.3}, r"detector\.nms_reg = 1\.3: .*less than or equal to 1"),
        ({"detector.stages": 0}, r"detector\.stages = 0: .*greater than or equal to 1"),
        ({"detector.stages": 5}, r"detector\.stages = 5"),
        ({"detector.lambda_reg": -0.1}, r"detector\.lambda_reg = -0\.1"),
        ({"detector.lambda_reg": float("nan")}, r"detector\.lambda_reg = nan"),
        ({"detector.nms_rge": 0.8}, r"unknown setting 'detector\.nms_rge'; did you mean 'detector\.nms_reg'"),
        ({"nms_reg": 0.8}, r"did you mean 'detector\.nms_reg'"),
        ({"detector.backbone": "resnet1001"}, r"detector\.backbone = 'resnet1001'.*'resnet101'"),
        ({"detector.weights": "none"}, r"detector\.norm=batch"),
        ({"detector.backbone_width": 0.5}, r"mobilenet_v2 only"),
        ({"training.epochs": "many"}, r"training\.epochs = 'many'"),
        ({"data.long_side": 10}, r"long_side 10 is below short_side 600"),
    ],
)
def test_bad_values_are_one_clear_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        Config().with_changes(changes)
    assert "\n" not in str(error.value)


def test_assignments_are_yaml_values() -> None:
    parsed = parse_assignments(
        [
            "detector.nms_reg=0.85",
            "training.lr=1e-4",
            "training.clip_norm=none",
            "detector.weights=none",
            "training.milestones=[6, 8]",
            "data.source=voc:a=b",
        ]
    )
    assert parsed == {
        "detector.nms_reg": 0.85,
        "training.lr": 1e-4,
        "training.clip_norm": None,
        "detector.weights": "none",
        "training.milestones": [6, 8],
        "data.source": "voc:a=b",
    }


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("detector.nms_reg", "expected KEY=VALUE"),
        ("detektor.nms_reg=1", "did you mean"),
        ("seed=[1", "not a YAML value"),
    ],
)
def test_bad_assignments_are_one_clear_line(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse_assignments([assignment])
    assert "\n" not in str(error.value)
