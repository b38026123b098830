"""Parts of a GPU: one trial of each kind is tried before the others begin."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from studies.definition.errors import StudyError
from studies.definition.plan import Plan, Trial, expand
from studies.resources.gpu_memory import MemoryTrial, check_gpu_memory
from studies.resources.slots import Allocation

STUDY = "title: t\nkind: grid\ngrid: {detector.nms_reg: [0.7, 0.8], detector.stages: [1, 3]}\n"


def test_one_trial_of_each_kind_is_tried(make_plan: Callable[..., Plan]) -> None:
    asked: list[str] = []

    def ask(trial: Trial) -> MemoryTrial:
        asked.append(trial.name)
        return MemoryTrial(True, 3.0, "H100", 80.0)

    trials = expand(make_plan(STUDY))
    check_gpu_memory(trials, Allocation(4, 1, 0.25), ask)
    assert sorted(asked) == ["NMS_reg=0.7 stages=1 seed=1", "NMS_reg=0.7 stages=3 seed=1"]
    asked.clear()
    check_gpu_memory(trials, Allocation(1, 1, 1.0), ask)
    check_gpu_memory(trials, Allocation(1, 1, 0.0), ask)
    trials[0].folder.mkdir(parents=True)
    (trials[0].folder / "result.json").write_text('{"status": "finished", "history": []}')
    check_gpu_memory(trials[:1], Allocation(4, 1, 0.25), ask)
    assert asked == []


def test_what_does_not_fit_is_told_with_what_it_needs(make_plan: Callable[..., Plan]) -> None:
    with pytest.raises(
        StudyError, match=r"NMS_reg=0.7 stages=1 seed=1 takes 9.1 GiB .* part of a T4 is 4.0 of 16.0"
    ):
        check_gpu_memory(
            expand(make_plan(STUDY)),
            Allocation(4, 1, 0.25),
            lambda trial: MemoryTrial(False, 9.1, "T4", 16.0),
        )
