"""Names that stand for several settings, and combinations of settings that are refused."""

from __future__ import annotations

import pytest

from drcnn.config import Config, ConfigError
from drcnn.presets import SCHEDULES, expand
from drcnn.variants import DETECTORS, VARIANTS


@pytest.mark.parametrize("name", DETECTORS)
def test_a_variants_name_sets_all_that_it_stands_for(name: str) -> None:
    config = Config().with_changes({"detector.variant": name})
    flat = dict(config.flat())
    assert {key: flat[key] for key in DETECTORS[name]} == DETECTORS[name]
    others = {key: value for key, value in flat.items() if key not in DETECTORS[name]}
    assert others == {key: value for key, value in Config().flat() if key not in DETECTORS[name]}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedules_name_sets_all_that_it_stands_for(name: str) -> None:
    flat = dict(Config().with_changes({"training.schedule": name}).flat())
    assert {key: flat[key] for key in SCHEDULES[name]} == SCHEDULES[name]


@pytest.mark.parametrize(
    ("name", "stages", "nms", "lambda_reg"),
    [
        ("fpn", 1, (0.7, 0.7), 1.0),
        ("fpn_unshared", 1, (0.7, 0.7), 1.0),
        ("decoupled", 1, (0.7, 0.85), 1.0),
        ("decoupled_shared", 1, (0.7, 0.85), 1.0),
        ("decoupled_cascade", 3, (0.7, 0.85), 0.5),
        ("cascade_rcnn", 3, (0.7, 0.7), 1.0),
        ("decoupled_cascade_cls", 3, (0.7, 0.85), 1.0),
        ("double_head", 1, (0.7, 0.85), 1.0),
        ("double_head_cascade", 3, (0.7, 0.85), 0.5),
        ("two_samplings", 1, (0.7, 0.85), 1.0),
    ],
)
def test_variants_are_those_of_the_paper(
    name: str, stages: int, nms: tuple[float, float], lambda_reg: float
) -> None:
    detector = Config().with_changes({"detector.variant": name}).detector
    assert (detector.stages, detector.lambda_reg) == (stages, lambda_reg)
    assert (detector.nms_cls, detector.nms_reg, detector.nms_test) == (*nms, 0.7)
    assert (detector.roi_samples, detector.cls_positive_fraction) == (512, 0.25)
    assert detector.rpn_post_nms_train == (2000 if name == "cascade_rcnn" else 1000)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_can_be_built_with_each_number_of_stages(name: str) -> None:
    variant = VARIANTS[name]
    assert len(variant.ious) >= variant.max_stages
    # Heads that train both branches on the same RoIs classify in every stage.
    assert variant.proposal_lists == 2 or variant.classifiers(variant.max_stages) == variant.max_stages
    assert DETECTORS[name]["detector.variant"] == name


def test_every_detector_is_tested_above() -> None:
    (mark,) = test_variants_are_those_of_the_paper.pytestmark  # type: ignore[attr-defined]
    assert {row[0] for row in mark.args[1]} == set(DETECTORS)


@pytest.mark.parametrize("name", ["decoupled_cascade", "double_head_cascade", "cascade_rcnn"])
def test_explicit_settings_beside_a_name_win_in_any_order(name: str) -> None:
    explicit = {"detector.stages": 2, "detector.lambda_reg": 0.25}
    for changes in ({"detector.variant": name, **explicit}, {**explicit, "detector.variant": name}):
        detector = Config().with_changes(changes).detector
        assert (detector.stages, detector.lambda_reg) == (2, 0.25)
        assert detector.variant == DETECTORS[name]["detector.variant"]


def test_expanding_leaves_what_is_no_name() -> None:
    changes = {"detector.variant": "no_such", "training.schedule": "cosine", "seed": 3}
    assert expand(changes) == changes
    assert expand({}) == {}


def test_a_name_given_again_starts_from_its_own_settings() -> None:
    """A study's row may name another variant than the base that it changes."""
    cascade = Config().with_changes({"detector.variant": "decoupled_cascade"})
    detector = cascade.with_changes({"detector.variant": "fpn"}).detector
    assert (detector.variant, detector.stages, detector.nms_reg, detector.lambda_reg) == ("fpn", 1, 0.7, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "faster"}, r"detector\.variant = 'faster'.*'fpn'"),
        ({"variant": "fpn", "stages": 2}, r"variant fpn has at most 1 stage\(s\), got 2"),
        ({"variant": "fpn_unshared", "stages": 3}, r"variant fpn_unshared has at most 1 stage"),
        ({"variant": "decoupled_shared", "stages": 2}, r"variant decoupled_shared has at most 1"),
        ({"variant": "two_samplings", "stages": 2}, r"variant two_samplings has at most 1"),
        ({"variant": "cascade_rcnn", "stages": 4}, r"variant cascade_rcnn has at most 3 stage\(s\), got 4"),
        ({"variant": "decoupled_cascade_cls", "stages": 4}, r"variant decoupled_cascade_cls has at most 3"),
        ({"variant": "fpn", "nms_reg": 0.85}, r"nms_cls is 0\.7 and nms_reg 0\.85: give both the same"),
        ({"variant": "fpn_unshared", "nms_cls": 0.6}, r"trains on one list of proposals"),
        ({"variant": "cascade_rcnn", "nms_reg": 0.8}, r"trains on one list of proposals"),
        ({"variant": "decoupled", "test_stage": 2}, r"test_stage 2 is beyond the 1 stages"),
        ({"variant": "decoupled_cascade", "test_stage": 4}, r"test_stage 4 is beyond the 3 stages"),
        ({"variant": "decoupled_cascade", "test_stage": 0}, r"detector\.test_stage = 0"),
        ({"variant": "decoupled_cascade", "test_classifier": 2}, r"test_classifier 2.*has 1 classifier"),
        ({"variant": "cascade_rcnn", "stages": 2, "test_classifier": 3}, r"test_classifier 3.*at most 2"),
        ({"variant": "cascade_rcnn", "test_stage": 1, "test_classifier": 2}, r"test_classifier 2.*at most 1"),
    ],
)
def test_settings_that_do_not_go_together_are_one_clear_line(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        Config().with_changes({f"detector.{key}": value for key, value in changes.items()})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"variant": "decoupled", "stages": 4, "test_stage": 3},
        {"variant": "double_head", "stages": 4},
        {"variant": "fpn", "nms_cls": 0.8, "nms_reg": 0.8},
        {"variant": "two_samplings", "nms_cls": 0.9},
        {"variant": "cascade_rcnn", "test_stage": 3, "test_classifier": 3},
        {"variant": "decoupled_cascade_cls", "test_stage": 2, "test_classifier": 1},
    ],
)
def test_settings_that_go_together_are_accepted(changes: dict[str, object]) -> None:
    config = Config().with_changes({f"detector.{key}": value for key, value in changes.items()})
    assert Config.from_yaml(config.to_yaml()) == config
