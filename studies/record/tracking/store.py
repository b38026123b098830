"""Opens the store of MLflow's runs for a launch: says what is wrong with it before anything is trained."""

from __future__ import annotations

import logging
import sqlite3

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from studies.definition.errors import StudyError, one_line
from studies.definition.plan import Plan
from studies.record.tracking.moved_output import follow_move
from studies.record.tracking.runs import OUTPUT, Tracker
from studies.record.tracking.addresses import artifacts_of, default_uri, without_password

__all__ = ["open_tracker"]


def open_tracker(uri: str, plan: Plan) -> Tracker:
    """The tracker of a study.

    Raises:
        StudyError: the store of runs cannot be used.
    """
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        if uri == default_uri(plan.output):
            # Makes the database, where there is none yet.
            MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
            follow_move(plan.output, OUTPUT)
        return Tracker(uri, artifacts_of(uri, plan.output), plan.name, plan.output)
    except (MlflowException, SQLAlchemyError, sqlite3.Error) as error:
        raise StudyError(f"MLflow's record, {without_password(uri)}: {one_line(error)}") from None
