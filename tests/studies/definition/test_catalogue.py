"""The shipped studies: which of their trials are one and the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from studies.definition.paper_tables import paper_rows, row_of
from studies.definition.plan import Plan, Trial, expand, search_points, trained_models
from studies.definition.study import SearchStudy
from studies.definition.study_file import catalogue, load

LISTED = [name for name in catalogue() if not isinstance(load(name)[1], SearchStudy)]


# A laptop's profile and the paper's, with whatever data they take; none: the paper's own.
SETTINGS = (("laptop", "digits"), ("laptop", "voc:absent"), ("laptop", "coco:absent"), ("paper", None))


@pytest.fixture(params=SETTINGS)
def table(request: pytest.FixtureRequest, make_plan: Callable[..., Plan]) -> Callable[[int], list[Trial]]:
    """The trials of a table, on both profiles."""
    profile, source = request.param
    return lambda number: expand(make_plan(f"table_{number:02}", profile=profile, source=source), 1)


def shared(some: list[Trial], others: list[Trial]) -> list[str]:
    """Names in ``some`` of the trials that are in both."""
    ids = {trial.id for trial in others}
    return [trial.name for trial in some if trial.id in ids]


def test_rows_that_tables_share_are_one_trial(table: Callable[[int], list[Trial]]) -> None:
    assert shared(table(3), table(4)) == ["NMS_reg=0.85 seed=1"]
    assert shared(table(2), table(3)) == ["decoupled seed=1"]
    assert shared(table(5), table(4)) == ["NMS_reg=0.85 seed=1"]
    assert shared(table(6), table(5)) == ["λ=1 seed=1"]
    assert len(shared(table(7), [*table(2), *table(3), *table(6)])) == 3, "FPN, Decoupled, cascade"
    assert len(shared(table(11), table(8))) == 4


@pytest.mark.parametrize("source", ["digits", "voc:absent"])
def test_on_a_laptop_the_tables_on_coco_share_those_on_voc(
    source: str, make_plan: Callable[..., Plan]
) -> None:
    voc, coco = (expand(make_plan(f"table_{number:02}", source=source), 1) for number in (7, 8))
    assert len(shared(voc, coco)) == 6


@pytest.mark.parametrize("source", ["digits", "voc:absent"])
def test_full_heads_of_the_search_for_speed_are_those_of_the_tables(
    source: str, make_plan: Callable[..., Plan]
) -> None:
    plan = make_plan("pareto", source=source)
    assert isinstance(plan.study, SearchStudy)
    full = [plan.trial({**point, "detector.fc_width": 1024}, 1) for point in plan.study.first]
    tables = [
        trial for name in ("table_07", "table_11") for trial in expand(make_plan(name, source=source), 1)
    ]
    assert len(shared(full, tables)) == 2
    widths = [
        plan.trial({**plan.study.first[0], "detector.fc_width": width}, 1).config.detector.fc_width
        for width in (1024, 512, 256)
    ]
    assert widths[0] == plan.base.detector.fc_width == 2 * widths[1] == 4 * widths[2]


@pytest.mark.parametrize(("profile", "source"), SETTINGS)
def test_cascade_rcnn_trains_on_twice_the_proposals(
    profile: str, source: str | None, make_plan: Callable[..., Plan]
) -> None:
    plan = make_plan("table_10", profile=profile, source=source)
    detectors = [(trial.model or trial).config.detector for trial in expand(plan, 1)]
    found = {detector.variant: detector.rpn_post_nms_train for detector in detectors}
    assert found["cascade_rcnn"] == 2 * found["decoupled_cascade_cls"]


def test_on_photographs_the_papers_rows_are_found_again(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("table_10", source="voc:absent")
    rows = paper_rows(plan.study.paper, plan.overrides.changes)
    assert len({id(row_of(rows, trial.config)) for trial in expand(plan, 1)} - {id(None)}) == len(rows) == 12


@pytest.mark.parametrize(("profile", "source"), SETTINGS)
@pytest.mark.parametrize("name", LISTED)
def test_names_tell_trials_apart(
    name: str, profile: str, source: str | None, make_plan: Callable[..., Plan]
) -> None:
    trials = expand(make_plan(name, profile=profile, source=source), 1)
    assert len({trial.name for trial in trials}) == len({trial.id for trial in trials}) == len(trials)
    assert len({tuple(trial.varied.values()) for trial in trials}) == len(trials)


@pytest.mark.parametrize(("profile", "source"), SETTINGS)
@pytest.mark.parametrize("name", [name for name in catalogue() if name not in LISTED])
def test_every_end_of_a_space_is_allowed(
    name: str, profile: str, source: str | None, make_plan: Callable[..., Plan]
) -> None:
    assert len(search_points(make_plan(name, profile=profile, source=source))) > 5


@pytest.mark.parametrize("number", range(1, 8))
def test_the_papers_tables_on_voc_are_built_as_such(number: int, make_plan: Callable[..., Plan]) -> None:
    for trial in expand(make_plan(f"table_{number:02}", profile="paper"), 1):
        assert trial.config.evaluation.metric == "voc07"
        assert trial.config.data.test_split == "test"
        assert trial.config.training.lr == 0.005


@pytest.mark.parametrize(("profile", "source"), SETTINGS)
@pytest.mark.parametrize(("name", "trained", "evaluated"), [("table_09", 5, 6), ("table_10", 2, 12)])
def test_evaluations_share_their_detectors(
    name: str,
    trained: int,
    evaluated: int,
    profile: str,
    source: str | None,
    make_plan: Callable[..., Plan],
) -> None:
    plan = make_plan(name, profile=profile, source=source)
    trials = expand(plan, 1)
    assert len(trials) == evaluated
    # What the recipe says of inference is tried when the detector has been trained.
    assert len({(trial.model or trial).id for trial in trials}) == trained
    assert trained_models(trials) == [] if name == "table_10" else len(trained_models(trials)) == trained
    for trial in trials:
        if trial.model is not None:
            assert trial.folder.parent.parent == trial.model.folder
            assert trial.config != trial.model.config


def test_variants_read_well(make_plan: Callable[..., Plan]) -> None:
    assert [trial.name for trial in expand(make_plan("table_08", profile="paper"), 1)][:3] == [
        "resnet50 fpn stages=1 seed=1",
        "resnet50 decoupled stages=1 seed=1",
        "resnet50 decoupled stages=3 seed=1",
    ]
    assert [trial.name for trial in expand(make_plan("table_02"), 1)] == [
        f"{variant} seed=1" for variant in ("fpn", "fpn_unshared", "decoupled_shared", "decoupled")
    ]
    assert expand(make_plan("table_10"), 1)[5].name == "cascade_rcnn test_stage=3 test_classifier=none seed=1"


def test_what_is_set_on_the_command_line_wins_over_what_a_variant_brings(
    make_plan: Callable[..., Plan],
) -> None:
    plan = make_plan("table_08", detector__lambda_reg=0.3, training__epochs=2)
    assert {trial.config.detector.lambda_reg for trial in expand(plan, 1)} == {0.3}
