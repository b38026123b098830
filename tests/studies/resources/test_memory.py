"""Memory: similar trials are represented by one, of which a step is tried before they start."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from study_helpers import TINY

from drcnn.data.prepare import prepare
from drcnn.engine.run_options import RunOptions
from studies.definition.errors import StudyError
from studies.definition.overrides import Overrides
from studies.definition.plan import Plan, Trial, expand
from studies.definition.study_file import parse
from studies.definition.trial import Inputs
from studies.resources import memory
from studies.resources.memory import MemoryCheck, check_memory
from studies.resources.slots import Allocation
from studies.resources.throughput import largest_batch
from studies.transfer.trial_folders import TrialFolders
from studies.transfer.trial_store import TrialStore

STUDY = "title: t\nkind: grid\ngrid: {detector.nms_reg: [0.7, 0.8], detector.stages: [1, 3]}\n"


def test_one_of_similar_trials_is_tried(make_plan: Callable[..., Plan]) -> None:
    tried: list[str] = []

    def attempt(trial: Trial) -> MemoryCheck:
        tried.append(trial.name)
        return MemoryCheck(trial.config.training.batch_size, 20.0, "an H100")

    trials = expand(make_plan(STUDY))
    for allocation in (Allocation(4, 1, 0.25), Allocation(1, 1, 1.0), Allocation(2, 1, 0.0)):
        tried.clear()
        check_memory(trials, allocation, attempt)
        assert sorted(tried) == ["NMS_reg=0.7 stages=1 seed=1", "NMS_reg=0.7 stages=3 seed=1"]
    tried.clear()
    trials[0].folder.mkdir(parents=True)
    (trials[0].folder / "result.json").write_text('{"status": "finished", "history": []}')
    check_memory(trials[:1], Allocation(4, 1, 0.25), attempt)
    assert tried == []


@pytest.mark.parametrize(
    ("gpus", "fits", "words"),
    [
        (0.25, 2, ("2 fits", "--gpus-per-worker")),
        (0.0, 0, ("not even one image a worker fits", "--max-concurrent")),
    ],
)
def test_a_trial_that_does_not_fit_is_named_with_what_does(
    make_plan: Callable[..., Plan], gpus: float, fits: int, words: tuple[str, ...]
) -> None:
    found = MemoryCheck(fits, 4.0, "the 16.0 GiB of a T4")
    with pytest.raises(StudyError) as error:
        check_memory(expand(make_plan(STUDY)), Allocation(4, 1, gpus), lambda trial: found)
    for word in ("NMS_reg=0.7 stages=1 seed=1", "batch_size=4", "4.0 GiB of the 16.0 GiB of a T4", *words):
        assert word in str(error.value)


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    """A trial of images of 512 pixels, whose step takes about a gibibyte."""
    study = parse(STUDY, "mine.yaml")
    larger = {"data.short_side": 512, "data.long_side": 512, "training.batch_size": 8}
    overrides = Overrides.resolve(study, "laptop", "digits", {**TINY, **larger})
    return expand(Plan("mine", overrides, tmp_path, Inputs(partial(prepare, cache=tmp_path / "data"))))[0]


def _attempt(
    trial: Trial, gibibytes: float, size: int, answer: multiprocessing.SimpleQueue[MemoryCheck]
) -> None:
    memory._share_of_host = lambda allocation, workers: gibibytes
    options = RunOptions(threads=1)
    answer.put(memory._try(trial, TrialFolders(TrialStore()), options, 1, Allocation(1, 1, 0.0), size))


@pytest.mark.faults
def test_a_step_that_the_host_has_no_memory_for_is_found(trial: Trial) -> None:
    """For real, each in a process of its own, which the limit is for."""

    def fits(gibibytes: float, size: int) -> bool:
        context = multiprocessing.get_context("spawn")
        answer: multiprocessing.SimpleQueue[MemoryCheck] = context.SimpleQueue()
        process = context.Process(target=_attempt, args=(trial, gibibytes, size, answer))
        process.start()
        process.join(timeout=200)
        assert process.exitcode == 0
        found = answer.get().batch_size
        assert found in (0, size)
        return found == size

    assert fits(8.0, 8)
    assert not fits(0.9, 8)
    assert fits(0.9, 1)


def test_small_images_are_not_tried(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, load = largest_batch(trial, 8, 1)
    batch = load()
    assert pixels == 8 * 512 * 512 == batch.images[:, 0].numel()
    allocation = Allocation(1, 1, 0.0)
    assert not memory._is_small(trial, allocation, 1)
    monkeypatch.setattr(memory, "SMALL_PIXELS", pixels + 1)
    monkeypatch.setattr(memory, "_share_of_host", lambda allocation, workers: 4.0)
    assert memory._is_small(trial, allocation, 1)
    monkeypatch.setattr(memory, "_share_of_host", lambda allocation, workers: 2.0)
    assert not memory._is_small(trial, allocation, 1)


GIVEN_UP = MemoryCheck(8, 0.0, "a machine")
KILLED = ray.exceptions.OutOfMemoryError("killed")
CRASHED = ray.exceptions.WorkerCrashedError()
NOT = Exception("it answers that this does not fit")


@pytest.mark.parametrize(
    ("ends", "found"),
    [
        # What the process of each try ends with; then all is well.
        ([], MemoryCheck(8, 4.0, "this node")),
        ([KILLED], MemoryCheck(8, 4.0, "this node")),
        ([KILLED] * 2, MemoryCheck(4, 4.0, "this node")),
        ([CRASHED] * 4, MemoryCheck(2, 4.0, "this node")),
        ([CRASHED] * 99, GIVEN_UP),
        ([ray.exceptions.RaySystemError("gone")], GIVEN_UP),
        ([NOT], MemoryCheck(4, 4.0, "this node")),
        ([NOT] * 99, MemoryCheck(0, 4.0, "this node")),
        ([NOT] * 3 + [CRASHED] * 99, MemoryCheck(0, 4.0, "this node")),
        ([KILLED] * 99, MemoryCheck(0, 1.5, "what is free, on a node that was short of it")),
    ],
)
def test_a_try_that_is_killed_for_memory_does_not_fit(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, ends: list[Exception], found: MemoryCheck
) -> None:
    """Without Ray: what it raises is listed."""
    tries = iter(ends)

    class Task:
        def __init__(self, **options: object) -> None:
            assert options["max_retries"] == 0

        def __call__(self, work: object) -> Task:
            return self

        def remote(self, *arguments: Any) -> MemoryCheck:
            return MemoryCheck(arguments[-1], 4.0, "this node")

    def result_of(result: MemoryCheck, purpose: str) -> MemoryCheck:
        for end in tries:
            if end is NOT:
                return MemoryCheck(0, 4.0, "this node")
            raise end
        return result

    monkeypatch.setattr(ray, "remote", Task)
    monkeypatch.setattr("studies.resources.refused_nodes.result_of", result_of)
    monkeypatch.setattr(memory, "_share_of_host", lambda allocation, workers: 1.5)
    folders = TrialFolders(TrialStore())
    assert memory.try_on_node(Allocation(1, 1, 1.0), folders, RunOptions(), 1, trial) == found


@pytest.mark.parametrize(
    "setting",
    [
        "detector.fpn_channels: [64, 256]",
        "detector.norm: [group, batch]",
        "detector.rpn_pre_nms_train: [50, 2000]",
    ],
)
def test_settings_that_need_other_memory_are_all_tried(make_plan: Callable[..., Plan], setting: str) -> None:
    tried: list[str] = []

    def attempt(trial: Trial) -> MemoryCheck:
        tried.append(trial.name)
        return MemoryCheck(trial.config.training.batch_size, 20.0, "an H100")

    trials = expand(make_plan(f"title: t\nkind: grid\ngrid: {{{setting}}}\n"), 1)
    check_memory(trials, Allocation(1, 1, 1.0), attempt)
    assert len(tried) == 2
