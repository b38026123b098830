"""What a group of workers reports, on its way to Tune."""

from __future__ import annotations

import time
from queue import Queue
from types import SimpleNamespace

import pytest
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
from ray.train.v2._internal.execution.failure_handling.failure_policy import FailureDecision
from ray.train.v2.api.exceptions import ControllerError

from studies.worker.job import WorkerGroup
from studies.worker.workers import _trainer, reports


def test_reports_that_are_on_their_way_when_the_group_ends_arrive() -> None:
    queue: Queue[dict[str, float]] = Queue()

    def fit() -> None:
        for epoch in (1.0, 2.0, 3.0):
            queue.put({"epoch": epoch})

    received = []
    for metrics in reports(fit, queue):
        time.sleep(0.05)  # Tune takes its time: the group has ended long before
        received.append(metrics["epoch"])
    assert received == [1, 2, 3]


def test_a_group_that_fails_has_its_reports_first() -> None:
    queue: Queue[dict[str, float]] = Queue()

    def fit() -> None:
        queue.put({"epoch": 1.0})
        raise RuntimeError("the group is lost")

    received = reports(fit, queue)
    assert next(received) == {"epoch": 1.0}
    with pytest.raises(RuntimeError, match="the group is lost"):
        next(received)


@pytest.mark.parametrize(
    "failure",
    [WorkerGroupStartupFailedError("a worker failed to initialize"), WorkerGroupStartupTimeoutError(2)],
    ids=["failed", "timeout"],
)
def test_a_group_that_does_not_start_is_one_attempt_of_tunes(failure: Exception) -> None:
    """By Ray Train's own rule of what it tries again itself: nothing, or attempts would multiply."""
    group = WorkerGroup(2, 1, 0.0, "/tmp/train")
    trainer = _trainer(SimpleNamespace(id="a"), SimpleNamespace(group=group), 0, None)  # type: ignore[arg-type]
    policy = DefaultFailurePolicy(trainer.run_config.failure_config)
    assert policy.make_decision(ControllerError(failure)) == FailureDecision.RAISE
