"""``--fresh`` moves away what is the study's own, and leaves what other studies use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from studies.definition.plan import Plan, expand
from studies.record.study_trials import TRIALS, note_trials, trials_of
from studies.transfer.archive import archive_study, keep_list
from studies.transfer.store import open_store
from studies.transfer.trial_store import TrialStore
from tests.damage import DAMAGES

STUDY = "title: t\nkind: grid\ngrid: {detector.lambda_reg: [1.0, 2.0]}\n"
# Evaluates the detector of the first trial of the other.
OTHER = "title: t\nkind: grid\nbase: {detector.lambda_reg: 1.0}\ngrid: {detector.nms_final: [0.5, 0.6]}\n"

Finish = Callable[..., None]


@pytest.fixture
def plan(make_plan: Callable[..., Plan]) -> Plan:
    return make_plan(STUDY)


@pytest.fixture
def other(make_plan: Callable[..., Plan]) -> Plan:
    return replace(make_plan(OTHER), name="other")


def test_what_another_study_uses_stays_and_is_told(plan: Plan, other: Plan, finish: Finish) -> None:
    store, trials = TrialStore(), expand(plan, 1)
    for trial in trials:
        finish(trial.folder, [0.3])
    keep_list(plan, trials, store)
    evaluations = expand(other, 1)
    for trial in evaluations:
        finish(trial.folder, [0.3])
    keep_list(other, evaluations, store)
    line = archive_study(plan, trials, store)
    assert line.startswith("--fresh: 1 of 2 trials stay as they are, since other has them too; give another")
    assert [trial.folder.exists() for trial in trials] == [True, False]
    assert all((trial.folder / "result.json").exists() for trial in evaluations)
    (archived,) = plan.output.glob("trials/old-*/*")
    assert archived.name == trials[1].id


def test_without_others_all_is_archived(plan: Plan, finish: Finish) -> None:
    store, trials = TrialStore(), expand(plan, 1)
    for trial in trials:
        finish(trial.folder, [0.3])
    keep_list(plan, trials, store)
    assert archive_study(plan, trials, store) == ""
    assert len([*plan.output.glob("trials/old-*/*")]) == 2


def test_studies_that_other_heads_launched_with_the_same_store_count(
    plan: Plan, other: Plan, finish: Finish, uri: str, tmp_path: Path
) -> None:
    trials = expand(plan, 1)
    for trial in trials:
        finish(trial.folder, [0.3])
    there = replace(other, output=tmp_path / "elsewhere")
    note_trials(there.folder, expand(other, 1))
    open_store(uri, there.output).upload(there.folder, [TRIALS])
    store = open_store(uri, plan.output)
    store.adopt()
    assert "since other has them too" in archive_study(plan, trials, store)
    assert len([*plan.output.glob("trials/old-*/*")]) == 1


@pytest.mark.faults
@pytest.mark.parametrize("damage", ["truncated", "empty", "deleted", "a folder"])
def test_a_damaged_list_is_written_anew(damage: str, plan: Plan) -> None:
    trials = expand(plan, 1)
    note_trials(plan.folder, trials)
    DAMAGES[damage](plan.folder / TRIALS)
    note_trials(plan.folder, trials)
    assert trials_of(plan.folder) == {trial.id for trial in trials}
