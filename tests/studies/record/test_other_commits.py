"""Trials that two commits train in turn, with checkpoints as the training loop writes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from drcnn.engine.checkpoint import TrainingState, save
from studies.definition.plan import Plan, Trial, expand
from studies.record.other_commits import note_on_other_commits

STUDY = "title: t\nkind: grid\ngrid: {detector.nms_reg: [0.6, 0.7, 0.8, 0.9]}\n"


@pytest.fixture
def trials(make_plan: Callable[..., Plan]) -> list[Trial]:
    return expand(make_plan(STUDY), 1)


def begin(trial: Trial, **made_by: str) -> None:
    trial.folder.mkdir(parents=True)
    state = TrainingState(trial.config.to_yaml(), ["a"], epoch=1, made_by=made_by)
    save(trial.folder / "last.safetensors", nn.Linear(1, 1), state)


def test_trials_that_another_commit_began_are_named(trials: list[Trial]) -> None:
    begin(trials[0], commit="aaaaaaaaaa, then bbbbbbbbbb", torch="2.11")
    begin(trials[1], commit="cccccccccc")
    assert note_on_other_commits(trials, "cccccccccc") == (
        "1 trial begun by commit bbbbbbbbbb goes on with commit cccccccccc (NMS_reg=0.6 seed=1): "
        "the report says so; --fresh trains anew"
    )
    begin(trials[2], torch="2.11")
    assert note_on_other_commits(trials, "dddddddddd with changes (code 1)").startswith(
        "3 trials begun by commit bbbbbbbbbb, cccccccccc, one that was not recorded go on with commit "
        "dddddddddd with changes (code 1) (NMS_reg=0.6 seed=1, NMS_reg=0.7 seed=1, NMS_reg=0.8 seed=1)"
    )


def test_nothing_is_said_where_there_is_nothing_to_say(trials: list[Trial]) -> None:
    assert note_on_other_commits(trials, "aaaaaaaaaa") == ""
    begin(trials[0], commit="aaaaaaaaaa")
    assert note_on_other_commits(trials, "aaaaaaaaaa") == ""
    (trials[0].folder / "last.safetensors").write_bytes(b"damaged")
    assert note_on_other_commits(trials, "bbbbbbbbbb") == ""


def test_a_commit_that_is_not_known_is_said_too(trials: list[Trial]) -> None:
    begin(trials[0], torch="2.11")
    assert note_on_other_commits(trials, "") == "", "neither is known"
    begin(trials[1], commit="aaaaaaaaaa")
    begin(trials[2], commit="aaaaaaaaaa, then unknown")
    assert note_on_other_commits(trials, "") == (
        "1 trial begun by commit aaaaaaaaaa goes on with one that is not known here (no .git folder) "
        "(NMS_reg=0.7 seed=1): the report says so; --fresh trains anew"
    )
    assert "one that was not recorded, aaaaaaaaaa" in note_on_other_commits(trials, "bbbbbbbbbb")
