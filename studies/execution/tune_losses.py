"""Ray Tune is told of every way in which a trial's process may be lost.

Ray 2.60 reports some as errors of their own: that its memory monitor ended a process which was at work
(``OutOfMemoryError``), or that a result's node is gone (``ObjectLostError``). Tune knows ``RayActorError``
only; at any other it ends the whole run with a traceback, and with it all trials that were well.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from ray.air.execution._internal import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError

__all__ = ["make_tune_outlive_losses"]


def make_tune_outlive_losses() -> None:
    """Let every loss of a trial's process end that attempt only, as if its actor had died."""
    fails = RayActorManager._actor_task_failed
    if hasattr(fails, "__wrapped__"):
        return

    @wraps(fails)
    def failed(manager: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, (RayActorError, RayTaskError)):
            exception = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
        fails(manager, tracked_actor_task, exception)

    setattr(RayActorManager, fails.__name__, failed)
