"""The shipped studies: which of their trials are one and the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from studies.study import EvaluateStudy, SearchStudy, load, shipped
from studies.trials import Plan, Trial, expand, models, search_points

PROFILES = ("laptop", "paper")
LISTED = [name for name in shipped() if not isinstance(load(name)[1], SearchStudy)]


@pytest.fixture(params=PROFILES)
def table(request: pytest.FixtureRequest, make_plan: Callable[..., Plan]) -> Callable[[int], list[Trial]]:
    """The trials of a table, on both profiles."""
    return lambda number: expand(make_plan(f"table_{number:02}", profile=request.param))


def shared(some: list[Trial], others: list[Trial]) -> list[str]:
    """Names in ``some`` of the trials that are in both."""
    ids = {trial.id for trial in others}
    return [trial.name for trial in some if trial.id in ids]


def test_rows_that_tables_share_are_one_trial(table: Callable[[int], list[Trial]]) -> None:
    assert shared(table(3), table(4)) == ["nms_reg=0.85 seed=1"]
    assert shared(table(2), table(3)) == ["variant=decoupled seed=1"]
    assert shared(table(5), table(4)) == ["nms_reg=0.85 seed=1"]
    assert shared(table(6), table(5)) == ["lambda_reg=1 seed=1"]
    assert len(shared(table(7), [*table(2), *table(3), *table(6)])) == 3, "FPN, Decoupled, cascade"
    assert len(shared(table(11), table(8))) == 4


def test_on_a_laptop_the_tables_on_coco_share_those_on_voc(make_plan: Callable[..., Plan]) -> None:
    voc, coco = (expand(make_plan(f"table_{number:02}")) for number in (7, 8))
    assert len(shared(voc, coco)) == 6


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", LISTED)
def test_names_tell_trials_apart(name: str, profile: str, make_plan: Callable[..., Plan]) -> None:
    trials = expand(make_plan(name, profile=profile))
    assert len({trial.name for trial in trials}) == len({trial.id for trial in trials}) == len(trials)
    assert len({tuple(trial.varied.values()) for trial in trials}) == len(trials)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", [name for name in shipped() if name not in LISTED])
def test_every_end_of_a_space_is_allowed(name: str, profile: str, make_plan: Callable[..., Plan]) -> None:
    assert len(search_points(make_plan(name, profile=profile))) > 5


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(("name", "trained", "evaluated"), [("table_09", 5, 6), ("table_10", 2, 12)])
def test_evaluations_share_their_detectors(
    name: str, trained: int, evaluated: int, profile: str, make_plan: Callable[..., Plan]
) -> None:
    plan = make_plan(name, profile=profile)
    assert isinstance(plan.study, EvaluateStudy)
    trials = expand(plan)
    assert (len(models(trials)), len(trials)) == (trained, evaluated)
    for trial in trials:
        assert trial.model is not None
        assert trial.folder.parent.parent == trial.model.folder
        assert trial.config != trial.model.config


def test_variants_read_well(make_plan: Callable[..., Plan]) -> None:
    assert [trial.name for trial in expand(make_plan("table_08", profile="paper"))][:3] == [
        "backbone=resnet50 variant=fpn stages=1 seed=1",
        "backbone=resnet50 variant=decoupled stages=1 seed=1",
        "backbone=resnet50 variant=decoupled stages=3 seed=1",
    ]
    assert [trial.name for trial in expand(make_plan("table_02"))] == [
        f"variant={variant} seed=1" for variant in ("fpn", "fpn_unshared", "decoupled_shared", "decoupled")
    ]
    assert expand(make_plan("table_10"))[5].name == (
        "variant=cascade_rcnn test_stage=3 test_classifier=None seed=1"
    )


def test_what_is_set_on_the_command_line_wins_over_what_a_variant_brings(
    make_plan: Callable[..., Plan],
) -> None:
    plan = make_plan("table_08", detector__lambda_reg=0.3, training__epochs=2)
    assert {trial.config.detector.lambda_reg for trial in expand(plan)} == {0.3}
