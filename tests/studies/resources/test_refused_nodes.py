"""When a person is told that a cloud refuses nodes; what is told, tests/cluster/test_autoscaler.py has."""

from __future__ import annotations

import time

import ray
from ray.autoscaler.v2.schema import ClusterStatus, LaunchRequest

from studies.resources.refused_nodes import PERIOD, REMINDER, RefusedNodes


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
