"""What a trial is told of its node's end, and what Tune makes of an attempt that ends so."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import RayTaskError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import WorkerGroupError
from ray.tune.experiment import Trial as TuneTrial

from studies.execution.lost_attempts import reason_of_loss
from studies.worker import notice, workers
from studies.worker.notice import NodeTakenAway, Notice

SAVED = NodeTakenAway("saved in epoch 3 at step 400 of 2000")


@pytest.mark.parametrize(
    ("nodes", "expected"), [({"here": 0}, True), ({"there": 0}, False), ({}, False)], ids=str
)
def test_only_this_nodes_drain_is_notice(
    nodes: dict[str, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def draining() -> dict[str, int]:
        asked.append(1)
        if len(asked) == 1:
            raise ray.exceptions.RpcError("the head does not answer")
        return nodes

    context = SimpleNamespace(get_node_id=lambda: "here", gcs_address="head:6379")
    monkeypatch.setattr(notice, "ray", SimpleNamespace(get_runtime_context=lambda: context))
    head = SimpleNamespace(get_draining_nodes=lambda timeout: draining())
    monkeypatch.setattr(notice, "GcsClient", lambda address: head)
    monkeypatch.setattr(notice, "PERIOD", 0.01)
    with Notice(is_cluster=True) as heard:
        limit = time.monotonic() + 20
        while len(asked) < 3 and not heard.is_given():
            assert time.monotonic() < limit
            time.sleep(0.01)
        assert heard.is_given() == expected


def test_tune_does_not_count_the_attempt(tmp_path: Path) -> None:
    trial = TuneTrial("any", stub=True, max_failures=1)
    trial.storage = SimpleNamespace(trial_driver_staging_path=str(tmp_path))

    def fail(error: Exception) -> int:
        trial.handle_error(RayTaskError("run_trial", "trace", error))
        return trial.num_failures

    assert [fail(SAVED) for _ in range(3)] == [0, 0, 0]
    assert fail(RuntimeError("CUDA error")) == 1
    assert fail(pickle.loads(pickle.dumps(SAVED))) == 1
    assert trial.should_recover()


def test_a_groups_end_is_told_like_that_of_one() -> None:
    failures = {
        0: UserExceptionWithTraceback(RuntimeError("gloo: closed by peer"), "trace"),
        1: UserExceptionWithTraceback(SAVED, "trace"),
    }
    assert workers._taken_away(WorkerGroupError("...", failures)) is SAVED
    assert workers._taken_away(WorkerGroupError("...", {0: failures[0]})) is None
    assert workers._taken_away(RuntimeError("...")) is None


def test_the_reason_is_one_line_without_a_trace(tmp_path: Path) -> None:
    text = (
        f"ray::run_trial() (pid=7, ip=10.0.0.5)\n  File ...\nstudies.worker.notice.NodeTakenAway: {SAVED}\n"
    )
    reason = reason_of_loss(tmp_path, 0, text)
    assert reason.startswith("node ")
    assert reason.endswith("is taken away: saved in epoch 3 at step 400 of 2000")
