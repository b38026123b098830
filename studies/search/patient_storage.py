"""Optuna's storage that waits while its database is locked or has no space, as all other writes do."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from sqlalchemy.exc import SQLAlchemyError

from studies.definition.errors import StudyError, one_line
from studies.record.databases import PATIENCE
from studies.record.tracking.addresses import sqlite_uri

__all__ = ["LOCK_SECONDS", "PatientStorage", "storage_fault"]

logger = logging.getLogger(__name__)

# How long one access waits for another process that holds the database.
LOCK_SECONDS = 30
PAUSE = 2.0
# What may pass: another process holds it, or the disk is full.
PASSING = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
# What Optuna's cache calls, beside the interface.
OF_THE_CACHE = {"_create_new_trial", "_get_trials", "_set_trial_param"}


class PatientStorage(optuna.storages.RDBStorage):
    """A search's storage for a launch. Each access is a transaction, so it may be repeated.

    Args:
        path: of the database.

    Attributes:
        fault: why it gave up after ``PATIENCE`` seconds; from then on it waits no longer.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.fault: StudyError | None = None
        super().__init__(sqlite_uri(path), engine_kwargs={"connect_args": {"timeout": LOCK_SECONDS}})
        for name in BaseStorage.__abstractmethods__ | OF_THE_CACHE:
            setattr(self, name, self._patient(getattr(self, name)))

    def _patient(self, access: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(access)
        def wait(*arguments: Any, **named: Any) -> Any:
            ends, was_told = time.monotonic() + PATIENCE, False
            while True:
                try:
                    return access(*arguments, **named)
                except StorageInternalError as error:
                    is_over = self.fault is not None or time.monotonic() + PAUSE > ends
                    if is_over or not _is_passing(error):
                        self.fault = storage_fault(self._path, error)
                        raise self.fault from None
                    if not was_told:
                        what = f"{self._path} cannot be used now: {_why(error)}"
                        logger.warning("%s; trying again for %.0f s", what, PATIENCE)
                        was_told = True
                time.sleep(PAUSE)

        return wait


def storage_fault(path: Path, error: StorageInternalError | SQLAlchemyError) -> StudyError:
    """An error of a search's database in one line that says what to do."""
    is_full = getattr(_cause(error), "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    remedy = "free space there" if is_full else "end what else uses it"
    return StudyError(
        f"{path}: Optuna's record of the search cannot be used: {_why(error)}; {remedy}, then run the "
        "study's command again: finished trials and epochs are kept, and a damaged record is made again from "
        "them"
    )


def _cause(error: StorageInternalError | SQLAlchemyError) -> BaseException:
    cause = error.__cause__ or error
    original = getattr(cause, "orig", None)
    return original if isinstance(original, BaseException) else cause


def _why(error: StorageInternalError | SQLAlchemyError) -> str:
    return one_line(_cause(error))


def _is_passing(error: StorageInternalError) -> bool:
    # The lower eight bits are the kind of the error, the others say more of it.
    return getattr(_cause(error), "sqlite_errorcode", 0) & 0xFF in PASSING
