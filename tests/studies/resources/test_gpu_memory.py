"""Parts of a GPU: similar trials are represented by one that is tried before they start."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from studies.definition.errors import StudyError
from studies.definition.plan import Plan, Trial, expand
from studies.resources.gpu_memory import MemoryCheck, check_gpu_memory
from studies.resources.slots import Allocation

STUDY = "title: t\nkind: grid\ngrid: {detector.nms_reg: [0.7, 0.8], detector.stages: [1, 3]}\n"


def test_one_of_similar_trials_is_tried(make_plan: Callable[..., Plan]) -> None:
    tried: list[str] = []

    def attempt(trial: Trial) -> MemoryCheck:
        tried.append(trial.name)
        return MemoryCheck(True, 3.0, "H100", 80.0)

    trials = expand(make_plan(STUDY))
    check_gpu_memory(trials, Allocation(4, 1, 0.25), attempt)
    assert sorted(tried) == ["NMS_reg=0.7 stages=1 seed=1", "NMS_reg=0.7 stages=3 seed=1"]
    tried.clear()
    check_gpu_memory(trials, Allocation(1, 1, 1.0), attempt)
    check_gpu_memory(trials, Allocation(1, 1, 0.0), attempt)
    trials[0].folder.mkdir(parents=True)
    (trials[0].folder / "result.json").write_text('{"status": "finished", "history": []}')
    check_gpu_memory(trials[:1], Allocation(4, 1, 0.25), attempt)
    assert tried == []


def test_a_trial_that_does_not_fit_is_named_with_the_memory_it_needs(make_plan: Callable[..., Plan]) -> None:
    with pytest.raises(
        StudyError, match=r"NMS_reg=0.7 stages=1 seed=1 takes 9.1 GiB .* part of a T4 is 4.0 of 16.0"
    ):
        check_gpu_memory(
            expand(make_plan(STUDY)),
            Allocation(4, 1, 0.25),
            lambda trial: MemoryCheck(False, 9.1, "T4", 16.0),
        )
