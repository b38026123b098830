"""Reaching MLflow's store when it is locked, gone or full: training does not wait, and what is owed is told.

While trials run, the store is left alone for a while after it has failed. At the beginning and the end of a
launch it is tried again and again, for a stated time.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import time
from collections.abc import Callable

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE, ErrorCode
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from studies.definition.errors import one_line
from studies.record.tracking.addresses import redacted

__all__ = ["Delivery", "is_passing", "is_store_fault", "why"]

logger = logging.getLogger(__name__)

# Seconds that a store which has failed is left alone while trials run: a locked SQLite database holds each
# call for 20 seconds, in which no trial goes on.
AWAY = 60.0
PAUSE = 2.0
PASSING = {ErrorCode.Name(TEMPORARILY_UNAVAILABLE), ErrorCode.Name(INTERNAL_ERROR)}
CAUSE = re.compile(r"Caused by \w+\(.*?: (.*?)\)\)*$")


def is_store_fault(error: BaseException) -> bool:
    """Whether an error is of the store, not of what was to be written."""
    return isinstance(error, (MlflowException, SQLAlchemyError, sqlite3.Error, OSError))


def is_passing(error: BaseException) -> bool:
    """Whether the store may take later what it refuses now: it is locked, or does not answer."""
    if isinstance(error, MlflowException):
        return error.error_code in PASSING
    if isinstance(error, OSError):
        # Those of this machine's own files have a number and do not pass; those of a server have none.
        return error.errno is None or isinstance(error, (ConnectionError, TimeoutError))
    return isinstance(error, (OperationalError, sqlite3.OperationalError))


def why(error: BaseException) -> str:
    """What an error of the store says, in one line without a password."""
    text = redacted(str(error))
    # SQLAlchemy adds the statement with its parameters, and a page to read.
    text = text.partition("\n[SQL:")[0].partition("(Background on this error")[0]
    if found := CAUSE.search(" ".join(text.split())):
        text = f"it does not answer: {found[1]}"
    return one_line(text).strip('"') or type(error).__name__


class Delivery:
    """Tries what is to be written to a store.

    Args:
        place: the store, as it may be shown.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._away_until = 0.0

    def attempt(self, action: Callable[[], None]) -> bool:
        """Do something while trials run; returns whether it was done. What was not is for the caller to keep.

        A locked or unreachable store must not cost hours of training.
        """
        if time.monotonic() < self._away_until:
            return False
        try:
            action()
        except Exception as error:
            if is_store_fault(error) and not self._away_until:
                logger.warning(
                    "MLflow: %s cannot be written now: %s; what it lacks is written as soon as it can be",
                    self._place,
                    why(error),
                )
            elif not is_store_fault(error):
                logger.warning("MLflow: not logged: %s", why(error))
            if is_passing(error):
                self._away_until = time.monotonic() + AWAY
            return False
        if self._away_until:
            self._away_until = 0.0
            logger.warning("MLflow: %s can be written again", self._place)
        return True

    def persist(self, action: Callable[[], None], patience: float) -> str:
        """Do something that may be repeated until it is done, or for so long; returns why it is not done.

        Raises:
            Exception: an error that is not the store's.
        """
        deadline, was_told = time.monotonic() + patience, False
        while True:
            try:
                action()
            except Exception as error:
                if not is_store_fault(error):
                    raise
                if not is_passing(error) or time.monotonic() + PAUSE > deadline:
                    return why(error)
                if not was_told:
                    logger.warning(
                        "MLflow: %s cannot be written now: %s; trying again for %.0f s",
                        self._place,
                        why(error),
                        patience,
                    )
                    was_told = True
            else:
                self._away_until = 0.0
                return ""
            time.sleep(PAUSE)
