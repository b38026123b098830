"""Waits for an object store that has a bad moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["is_transient", "with_retries"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

# A store that is away for longer is one that somebody has to look at.
SECONDS = 600.0
LONGEST_PAUSE = 30.0
# What the SDKs say of requests that will be refused tomorrow as well.
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
    """Call until it works, with longer and longer pauses.

    Raises:
        OSError: the last one, after so many seconds, or one that waiting does not mend.
    """
    until, pause = time.monotonic() + seconds, 1.0
    while True:
        try:
            return call()
        except OSError as error:
            if not is_transient(error) or time.monotonic() + pause > until:
                raise
            logger.warning("the storage does not answer, tried again: %s", " ".join(str(error).split())[:200])
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def is_transient(error: OSError) -> bool:
    """Whether it may be another time: a store's trouble, not a file's or a right's."""
    # Of this machine's files errno is known (no such file, disk full); of a store's requests it is not.
    return error.errno is None and not any(word in str(error) for word in FINAL)
