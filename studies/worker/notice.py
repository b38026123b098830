"""Whether the node that this process runs on is being drained, as a spot node that is taken back."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import RayActorError, RayError

__all__ = ["NodeTakenAway", "Notice"]

# Seconds between two questions. Google gives 30 seconds in all.
PERIOD = 1.0
TIMEOUT = 10.0


class NodeTakenAway(RayActorError):
    """A trial has been saved and ended since its node goes away; Tune counts no such attempt as a failure.

    Args:
        saved: what is saved.
    """

    def __init__(self, saved: str) -> None:
        super().__init__(error_msg=f"node {socket.gethostname()} is taken away: {saved}", preempted=True)
        self.args = (saved,)


class Notice:
    """Asks Ray in the background whether this node is being drained; a context.

    Args:
        is_cluster: whether nodes come and go; else nothing is asked.

    Of a group of workers, each asks for its own node. Ray Train's own answer
    (``ray.train.get_preemption_info``, 2.60) is the first worker's, a barrier over all workers at every
    question, and not there in Tune's actors; it reads the same table of Ray.
    """

    def __init__(self, *, is_cluster: bool) -> None:
        self._is_cluster = is_cluster
        self._is_given, self._ends = threading.Event(), threading.Event()

    def __enter__(self) -> Self:
        if self._is_cluster:
            context = ray.get_runtime_context()
            asked = (context.gcs_address, context.get_node_id())
            threading.Thread(target=self._ask, args=asked, name="notice", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.set()

    def is_given(self) -> bool:
        """Whether this node has notice to go."""
        return self._is_given.is_set()

    def _ask(self, head: str, node: str) -> None:
        client = None
        while not self._ends.wait(PERIOD):
            try:
                # Of its own: that of ray.nodes() ends the whole process where the head does not answer.
                client = client or GcsClient(address=head)
                drained = client.get_draining_nodes(timeout=TIMEOUT)
            except (RayError, RuntimeError, OSError):
                continue  # the head does not answer: nothing is lost but the warning
            if node in drained:
                self._is_given.set()
                return
