"""When a person is told that a cloud refuses nodes; what is told, tests/cluster/test_autoscaler.py has."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray
from ray.autoscaler.v2.schema import ClusterStatus, LaunchRequest
from ray.cluster_utils import Cluster

from studies.resources import refused_nodes
from studies.resources.refused_nodes import PATIENCE_SECONDS, PERIOD, REMINDER, RefusedNodes, result_of


def refused(times: int) -> ClusterStatus:
    at = int(time.time()) + 5
    failed = LaunchRequest.Status.FAILED
    launch = LaunchRequest("g5.12xlarge", "gpu", 1, failed, request_ts_s=at, failed_ts_s=at)
    return ClusterStatus(failed_launches=[launch] * times)


def test_a_refusal_is_told_once_and_again_after_half_an_hour() -> None:
    now, asked, answers = [0.0], [], [ClusterStatus()]

    def status() -> ClusterStatus:
        asked.append(now[0])
        if not answers:
            raise ray.exceptions.RpcError("the head does not answer")
        return answers[0]

    nodes = RefusedNodes(status, lambda: now[0])
    assert [nodes.line() for _ in range(100)] == [""] * 100
    assert len(asked) == 1, "asked no more than once a minute"
    now[0] += PERIOD
    answers[0] = refused(3)
    assert nodes.line().startswith("no node of type gpu was to be had, 3 times, last at ")
    now[0] += PERIOD
    assert nodes.line() == ""
    now[0] += REMINDER
    assert nodes.line() != ""
    answers.clear()
    now[0] += REMINDER
    assert nodes.line() == "", "a head that does not answer is no reason to end"


def test_a_task_that_waits_for_a_node_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before Tune, where nobody else would: the step that is tried, the time that is measured."""
    now = [0.0]

    def wait(tasks: list[object], *, timeout: float) -> tuple[list[object], list[object]]:
        now[0] += timeout
        return ([], tasks) if now[0] < 2 * PATIENCE_SECONDS else (tasks, [])

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", lambda task: f"the result of {task}")
    cloud = RefusedNodes(lambda: refused(2), lambda: now[0])
    task: ray.ObjectRef[str] = "a task"  # type: ignore[assignment]
    assert result_of(task, "to try a step", cloud, lambda: now[0]) == "the result of a task"
    told, waits = (record.getMessage() for record in caplog.records)
    assert told.startswith("no node of type gpu was to be had, 2 times")
    assert told.endswith("(waiting to try a step)")
    assert (
        waits == "no trial starts yet: waiting to try a step, for a node with a free slot and then its data"
    )


@pytest.mark.slow
def test_a_real_task_is_waited_for_until_its_node_comes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(refused_nodes, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(refused_nodes, "PATIENCE_SECONDS", 1.0)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    ray.init(cluster.address, logging_level="critical", log_to_driver=False)
    try:
        task = ray.remote(num_cpus=1)(lambda: "tried").remote()
        with ThreadPoolExecutor(1) as pool:
            result = pool.submit(result_of, task, "to try a step")
            time.sleep(3)
            cluster.add_node(num_cpus=1)
            assert result.result(timeout=60) == "tried"
    finally:
        ray.shutdown()
        cluster.shutdown()
    ours = [record.getMessage() for record in caplog.records if record.name == refused_nodes.__name__]
    assert [line[:20] for line in ours] == ["no trial starts yet:"]
