from __future__ import annotations

import pytest

from drcnn.assignments import parse_assignments
from drcnn.config import Config, ConfigError
from drcnn.presets import SCHEDULES
from drcnn.recipes import recipe


@pytest.mark.parametrize(
    ("key", "value", "known"),
    [("detector.variant", "cascade_rcn", "cascade_rcnn"), ("training.schedule", "coco_3x", "coco_2x")],
)
def test_an_unknown_name_of_a_preset_is_told_the_known_ones(key: str, value: str, known: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key} = '{value}'.*named settings.*{known}"):
        Config().with_changes({key: value})


def test_defaults_are_the_papers_voc_setting() -> None:
    config = Config()
    detector = config.detector
    assert (detector.nms_cls, detector.nms_reg, detector.nms_test) == (0.7, 0.85, 0.7)
    assert (detector.roi_samples, detector.cls_positive_fraction, detector.rpn_samples) == (512, 0.25, 256)
    assert (detector.rpn_pre_nms_train, detector.rpn_pre_nms_test) == (2000, 1000)
    assert (detector.rpn_post_nms_train, detector.rpn_post_nms_test) == (1000, 1000)
    assert (config.training.epochs, config.training.lr, config.training.batch_size) == (12, 0.005, 8)
    assert config.training.clip_norm is None
    assert (config.data.short_side, config.data.long_side) == (600, 1000)


@pytest.mark.parametrize(
    ("profile", "source"),
    [("laptop", "digits"), ("laptop", "voc:x"), ("paper", "voc:x"), ("paper", "coco:x")],
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
        ({"data.train_short_sides": []}, r"train_short_sides \(\) must hold at least one"),
        ({"data.train_short_sides": [600, 0]}, r"train_short_sides \(600, 0\) .* from 1 to long_side 1000"),
        ({"data.train_short_sides": [1001]}, r"train_short_sides \(1001,\) .* from 1 to long_side 1000"),
        ({"data.train_short_sides": [1], "data.short_side": None}, r"needs a short_side .*data\.short_side"),
        ({"data.train_short_sides": 600}, r"data\.train_short_sides = 600"),
        ({"training.schedule": "coco_3x"}, r"training\.schedule = 'coco_3x'"),
        ({"evaluation.metric": "voc"}, r"evaluation\.metric = 'voc': .*'voc07'"),
        ({"training.epochs": 4}, r"milestones \(9,\) .* epochs 4; .* training\.milestones .* \[3\], or"),
        ({"training.epochs": 1}, r"milestones \(9,\) .* epochs 1; .* for example \[\]"),
        ({"training.milestones": [0]}, r"milestones \(0,\) must lie between 0 and epochs 12"),
        ({"training.schedule": "coco_2x", "training.epochs": 22}, r"milestones \(16, 22\) .* epochs 22"),
    ],
)
def test_bad_values_are_one_clear_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        Config().with_changes(changes)
    assert "\n" not in str(error.value)


def test_milestones_matter_to_the_step_schedule_only() -> None:
    cosine = Config().with_changes({"training.schedule": "cosine", "training.epochs": 4})
    assert cosine.training.milestones == (9,)
    constant = Config().with_changes({"training.epochs": 1, "training.milestones": []})
    assert constant.training.milestones == ()


def test_the_papers_schedules() -> None:
    def training(name: str, **beside: object) -> tuple[object, ...]:
        found = Config().with_changes({"training.schedule": name, **beside}).training
        assert found.schedule == "step"
        return found.epochs, found.milestones, found.lr, found.warmup_iterations, found.batch_size

    assert Config().with_changes({"training.schedule": "voc_12"}) == Config()
    assert training("coco_1x") == (12, (8, 11), 0.01, 500, 8)
    assert training("coco_2x") == training("coco_2x_multi_scale") == (24, (16, 22), 0.01, 500, 8)
    # What is given beside a name wins.
    assert training("coco_2x", **{"training.lr": 0.02, "training.batch_size": 16})[2:] == (0.02, 500, 16)


def test_multi_scale_is_of_training_only() -> None:
    plain, several = (
        Config().with_changes({**recipe("paper", "coco:x"), "training.schedule": name})
        for name in ("coco_2x", "coco_2x_multi_scale")
    )
    assert several.data.train_short_sides == (640, 672, 704, 736, 768, 800)
    assert (several.data.short_side, several.data.long_side) == (800, 1333)
    assert several.with_changes({"data.train_short_sides": None}) == plain


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_can_be_set_on_the_command_line(name: str) -> None:
    changes = parse_assignments([f"training.schedule={name}", "evaluation.metric=voc07"])
    config = Config().with_changes({**recipe("paper", "coco:x"), **changes})
    assert config == Config().with_changes({**recipe("paper", "coco:x"), **SCHEDULES[name]}).with_changes(
        {"evaluation.metric": "voc07"}
    )
    assert Config.from_yaml(config.to_yaml()) == config


def test_the_papers_recipes_name_their_schedules_and_metrics() -> None:
    voc, coco = (Config().with_changes(recipe("paper", source)) for source in ("voc:x", "coco:x"))
    saved_within = Config().with_changes({"training.checkpoint_minutes": 15.0}).training
    assert (voc.training, voc.evaluation.metric) == (saved_within, "voc07")
    assert (voc.data.train_split, voc.data.val_split, voc.data.test_split) == ("trainval", None, "test")
    assert (coco.data.train_split, coco.data.val_split, coco.data.test_split) == ("train", "auto", "auto")
    assert (coco.training.milestones, coco.training.lr, coco.evaluation.metric) == ((8, 11), 0.01, "coco")


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
