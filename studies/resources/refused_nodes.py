"""Tells that a cloud refuses the nodes that trials wait for: a study would otherwise wait without a word."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.autoscaler.v2.schema import ClusterStatus
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import RayError

__all__ = ["RefusedNodes", "refusal", "result_of"]

logger = logging.getLogger(__name__)

# Seconds from one look to the next, and from one telling to the next while it goes on.
PERIOD, REMINDER = 60.0, 1800.0
TIMEOUT = 5  # seconds that Ray's head has for its answer
# Between two looks at a task that trials wait for, and until it is said that they do.
LOOK_SECONDS, PATIENCE_SECONDS = 5.0, 60.0


class RefusedNodes:
    """Looks now and then at what Ray's autoscaler has asked for in vain.

    Args:
        status: of the cluster.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        status: Callable[[], ClusterStatus] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status, self._clock = status or _status, clock
        self._look_at = self._tell_at = 0.0
        self._since = time.time()

    def line(self) -> str:
        """What to tell a person now; empty if nothing. Asks Ray once a minute, however often it is called."""
        now = self._clock()
        if now < self._look_at:
            return ""
        self._look_at = now + PERIOD
        try:
            found = refusal(self._status(), self._since)
        except (RayError, RuntimeError, OSError):
            return ""
        if not found or now < self._tell_at:
            return ""
        self._tell_at = now + REMINDER
        return found


def refusal(status: ClusterStatus, since: float) -> str:
    """Say which nodes were asked for in vain, and what to do; empty if none were.

    Args:
        status: of the cluster.
        since: the time from which on failures count, in seconds since 1970.
    """
    failed = [launch for launch in status.failed_launches if (launch.failed_ts_s or 0) >= since]
    if not failed:
        return ""
    last = max(failed, key=lambda launch: launch.failed_ts_s or 0)
    when = time.strftime("%H:%M:%S", time.localtime(last.failed_ts_s))
    times = f"{len(failed)} times, last" if len(failed) > 1 else "once,"
    return (
        f"no node of type {last.ray_node_type_name} was to be had, {times} at {when}: the cloud refused it. "
        "Ray goes on asking, and the trials wait. Why: 'ray monitor' with the cluster's file (NoOfferLeft "
        "has each answer); what to do: more offers, another zone, or machines on demand (cluster/trouble.md)"
    )


def result_of(
    task: ray.ObjectRef[Any],
    purpose: str,
    refused: RefusedNodes | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Any:
    """Wait for a task that needs a free slot, and so perhaps a new node; meanwhile say why nothing happens.

    Args:
        task: its result.
        purpose: what it is for, such as "to try a step".
        refused: tells whether the cloud has no such node.
        clock: seconds that only grow.

    Raises:
        RayError: the task has failed.
    """
    refused = refused or RefusedNodes()
    say_at: float | None = clock() + PATIENCE_SECONDS
    while not ray.wait([task], timeout=LOOK_SECONDS)[0]:
        if say_at is not None and clock() >= say_at:
            logger.warning(
                "no trial starts yet: waiting %s, for a node with a free slot and then its data", purpose
            )
            say_at = None
        if line := refused.line():
            logger.warning("%s (waiting %s)", line, purpose)
    return ray.get(task)


def _status() -> ClusterStatus:
    return get_cluster_status(ray.get_runtime_context().gcs_address, TIMEOUT)
