"""Repeats requests to an object store that does not answer for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from studies.definition.errors import one_line

__all__ = ["is_transient", "with_retries"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

# After a longer outage somebody has to look at the store.
SECONDS = 600.0
LONGEST_PAUSE = 30.0
# How the SDKs name errors that waiting does not mend.
FINAL = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "INVALID_CLIENT_TOKEN_ID",
    "NO_SUCH_BUCKET",
    "NO_SUCH_KEY",
    "PERMANENT_REDIRECT",
    "SIGNATURE_DOES_NOT_MATCH",
    "kPermissionDenied",
    "kNotFound",
    "PERMISSION_DENIED",
)


def with_retries(call: Callable[[], T], seconds: float = SECONDS) -> T:
    """Call a function until it succeeds, with pauses of 1, 2, 4, ... up to 30 seconds.

    Args:
        call: the request.
        seconds: how long to try.

    Raises:
        OSError: the last error when the time is over, or the first one that is not transient.
    """
    deadline, pause = time.monotonic() + seconds, 1.0
    while True:
        try:
            return call()
        except OSError as error:
            if not is_transient(error) or time.monotonic() + pause > deadline:
                raise
            logger.warning("the object store does not answer; trying again: %s", one_line(error, 200))
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def is_transient(error: OSError) -> bool:
    """Return whether a request may succeed later: it is not forbidden, and its target is not missing."""
    # Errors of this machine's own files have an errno (no such file, disk full); those of a store do not.
    return error.errno is None and not any(name in str(error) for name in FINAL)
