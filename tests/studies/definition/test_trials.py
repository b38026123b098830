from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drcnn.config import ConfigError, DataConfig
from drcnn.data.prepare import PreparedData
from drcnn.engine.record import read_record, reopen, write_failed, write_pruned
from studies.definition import trial as trial_module
from studies.definition.plan import Plan, expand, search_points, trained_models
from studies.definition.trial import Inputs

STAGES = "title: t\nkind: grid\ngrid: {detector.stages: [1, 2]}\n"


def test_every_setting_gets_its_first_seed_before_any_its_second(make_plan: Callable[..., Plan]) -> None:
    trials = expand(make_plan(STAGES), 2)
    assert [trial.name for trial in trials] == [
        "stages=1 seed=1",
        "stages=2 seed=1",
        "stages=1 seed=2",
        "stages=2 seed=2",
    ]
    assert len({trial.id for trial in trials}) == 4
    assert trials[0].folder.name == trials[0].id


def test_identity_is_the_same_for_equal_configurations(make_plan: Callable[..., Plan]) -> None:
    one = make_plan(STAGES).trial({"detector.stages": 1, "detector.nms_reg": 0.7}, 1)
    same = make_plan(STAGES, data__val_split="elsewhere").trial({"detector.nms_reg": 7e-1}, 1)
    assert one.id == same.id


@pytest.mark.parametrize(
    "change",
    [
        {"detector.nms_reg": 0.71},
        {"detector.stage_weights": (0.5, 0.5, 0.25, 0.125)},
        {"training.epochs": 9},
        {"data.flip": 0.25},
    ],
)
def test_identity_changes_with_every_setting(make_plan: Callable[..., Plan], change: dict[str, Any]) -> None:
    plan = make_plan(STAGES)
    assert plan.trial(change, 1).id != plan.trial({}, 1).id


@pytest.mark.parametrize(
    "change",
    [
        {"detector.stage_weights": (1.0, 1.0, 1.0, 1.0)},  # of stages that there are not
        {"training.milestones": (2,)},  # under cosine
        {"data.long_side": 900},  # where images keep their size
        {"data.train_split": "other"},
        {"data.on_bad_data": "skip"},
        {"evaluation.every": None},
        {"training.checkpoint_minutes": 5.0},
        {"detector.test_stage": 1},  # the only one
        {"detector.test_classifier": 1},
    ],
)
def test_what_has_no_effect_makes_no_other_trial(
    make_plan: Callable[..., Plan], change: dict[str, Any]
) -> None:
    plan = make_plan(STAGES)
    assert plan.trial(change, 1).id == plan.trial({}, 1).id


@pytest.mark.parametrize(
    "change", [{"evaluation.metric": "voc07"}, {"evaluation.amp": "bf16"}, {"detector.score_thr": 0.01}]
)
def test_settings_of_evaluation_do_not_retrain(
    make_plan: Callable[..., Plan], change: dict[str, Any]
) -> None:
    usual, plan = make_plan(STAGES).trial({}, 1), make_plan(STAGES)
    in_study = plan.trial(change, 1)
    on_the_command_line = make_plan(STAGES, **{key.replace(".", "__"): v for key, v in change.items()})
    assert in_study.id == on_the_command_line.trial({}, 1).id != usual.id
    assert in_study.model is not None
    assert in_study.model.id == usual.id


def test_identity_has_the_version_of_the_numerics(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make_plan(STAGES).trial({}, 1).id
    monkeypatch.setattr(trial_module, "NUMERICS", 99)
    assert make_plan(STAGES).trial({}, 1).id != before


def test_identity_changes_with_seed_and_data(make_plan: Callable[..., Plan]) -> None:
    here = make_plan(STAGES).trial({}, 1).id
    assert make_plan(STAGES).trial({}, 2).id != here
    assert make_plan(STAGES, fingerprint="0" * 16).trial({}, 1).id != here


def test_identity_knows_a_weights_file_by_content(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    for name, content in {"a": b"one", "b": b"one", "c": b"two"}.items():
        (tmp_path / name).write_bytes(content)
    plan = make_plan(STAGES)
    ids = [plan.trial({"detector.weights": str(tmp_path / name)}, 1).id for name in "abc"]
    assert ids[0] == ids[1] != ids[2]
    with pytest.raises(ConfigError, match=r"detector\.weights .*No such file"):
        plan.trial({"detector.weights": str(tmp_path / "absent")}, 1)


def test_identity_knows_the_detector_that_training_starts_from(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    for name, content in {"a": b"one", "b": b"one", "c": b"two"}.items():
        (tmp_path / name).write_bytes(content)
    plan = make_plan(STAGES)
    ids = [plan.trial({"training.init": str(tmp_path / name)}, 1).id for name in "abc"]
    assert ids[0] == ids[1] != ids[2]
    assert plan.trial({}, 1).id not in ids
    with pytest.raises(ConfigError, match=r"training\.init .*No such file"):
        plan.trial({"training.init": str(tmp_path / "absent")}, 1)


def test_a_bad_setting_is_told_before_anything_runs(make_plan: Callable[..., Plan]) -> None:
    base = "title: t\nbase: {detector.variant: cascade_rcnn}\n"
    with pytest.raises(ConfigError, match=r"mine, setting .*detector\.stages"):
        expand(make_plan(base + "kind: grid\ngrid: {detector.stages: [1, 4]}\n"), 1)
    space = base + "kind: search\ntrials: 2\nspace: {detector.stages: {low: 1, high: 4}}\n"
    with pytest.raises(ConfigError, match=r"mine, point .*detector\.stages"):
        search_points(make_plan(space))


def test_a_folder_tells_how_its_trial_stands(tmp_path: Path, finish: Callable[..., None]) -> None:
    folder = tmp_path / "trial"
    assert not read_record(folder).is_terminal
    write_failed(folder, "why")
    assert (read_record(folder).status, read_record(folder).error) == ("failed", "why")
    reopen(folder)
    assert not read_record(folder).is_terminal
    write_pruned(folder)
    assert read_record(folder).is_done
    reopen(folder)
    assert not read_record(folder).is_terminal
    finish(folder, [0.1, 0.2])
    write_pruned(folder)
    reopen(folder)
    assert read_record(folder).is_finished
    assert read_record(folder).metrics["val/AP"] == 0.2


def test_the_studys_own_settings_of_inference_train_no_detector_anew(
    make_plan: Callable[..., Plan],
) -> None:
    base = "title: t\nbase: {detector.variant: decoupled, detector.stages: 3"
    trained = expand(make_plan(base + "}\nkind: grid\ngrid: {detector.nms_reg: [0.7]}\n"), 1)
    plan = make_plan(
        base + ", detector.nms_reg: 0.7, detector.score_thr: 0.001}\n"
        "kind: grid\ngrid: {detector.nms_test: [0.6, 0.7]}\n"
    )
    trials = expand(plan, 1)
    assert [model.id for model in trained_models(trials)] == [trained[0].id]
    assert [trial.config.detector.nms_test for trial in trials] == [0.6, 0.7]
    for trial in trials:
        assert trial.config.detector.score_thr == 0.001, "what it is evaluated with"
        assert trial.model is not None
        assert trial.folder.parent.parent == trained[0].folder


def test_settings_that_become_equal_are_told(
    make_plan: Callable[..., Plan], caplog: pytest.LogCaptureFixture
) -> None:
    assert len(expand(make_plan("table_04"), 1)) == 4
    assert not caplog.records
    text = (
        "title: t\nkind: grid\nrows: [{detector.variant: decoupled}, {detector.variant: decoupled_cascade}]\n"
    )
    assert len(expand(make_plan(text, detector__stages=2, detector__lambda_reg=1.0), 1)) == 1
    assert "mine: 1 of 2 trials are left out" in caplog.text


def test_a_substitute_is_not_substituted_again(make_plan: Callable[..., Plan]) -> None:
    substitutes = "{1024: {detector.fc_width: 512}, 512: {detector.fc_width: 256}}"
    plan = make_plan(
        "title: t\nkind: grid\ngrid: {detector.fc_width: [1024, 512]}\n"
        f"laptop: {{detector.fc_width: {substitutes}}}\n"
    )
    assert [trial.config.detector.fc_width for trial in expand(plan, 1)] == [512, 256]
    assert plan.study.counts("laptop") == [(2, 1)]


def test_a_plan_names_its_trials_without_reading_anything(make_plan: Callable[..., Plan]) -> None:
    def refuse(data: DataConfig) -> PreparedData:
        raise AssertionError("naming needs no data")

    plan = replace(make_plan("table_07"), inputs=Inputs(refuse))
    assert plan.naming_keys[:2] == ["detector.variant", "detector.stages"]
    assert plan.overrides.config({"detector.backbone": "resnet50"}, 1).detector.backbone_width == 0.25


def test_replicates_have_one_setting_key(make_plan: Callable[..., Plan]) -> None:
    one, other, two = (trial.setting_key for trial in expand(make_plan(STAGES), 2)[:3])
    assert one == two != other


def test_names_of_weights_are_no_paths(make_plan: Callable[..., Plan]) -> None:
    assert make_plan("nms_sweep").overrides.base.detector.weights == "digits"
    plan = make_plan("nms_sweep", source="voc:absent", detector__weights="digits")
    assert plan.overrides.base.detector.weights == "digits"
