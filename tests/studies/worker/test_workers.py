"""What a group of workers reports, on its way to Tune."""

from __future__ import annotations

import time
from queue import Queue

import pytest

from studies.worker.workers import reports


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
