"""Opens the store of MLflow's runs for a launch: says what is wrong with it before anything is trained."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from PIL.Image import Image
from sqlalchemy.exc import SQLAlchemyError

from studies.definition.errors import StudyError, one_line
from studies.definition.plan import Plan, Trial
from studies.record.tracking.addresses import artifacts_of, default_uri, is_server, without_password
from studies.record.tracking.moved_output import follow_move, known_places
from studies.record.tracking.runs import OUTPUT, Tracker

__all__ = ["open_tracker"]


def open_tracker(uri: str, plan: Plan, draw: Callable[[Trial], Mapping[str, Image]]) -> Tracker:
    """The tracker of a study.

    Args:
        uri: of the tracking store.
        plan: the study.
        draw: sample pictures of a finished trial, by file name.

    Raises:
        StudyError: the store of runs cannot be used.
    """
    is_own = uri == default_uri(plan.output)
    if not is_server(uri) and (uri.startswith("file:") or "://" not in uri):
        raise StudyError(
            f"--tracking-uri {uri}: MLflow writes to folders no longer; leave it and $MLFLOW_TRACKING_URI "
            "out for mlflow.db in --output, or give a database (sqlite:////FOLDER/mlflow.db) or a server"
        )
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        if is_own:
            # Makes the database, where there is none yet.
            MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
            follow_move(plan.output, OUTPUT)
        places = known_places(plan.output)
        return Tracker(uri, artifacts_of(uri, plan.output), plan.name, plan.output, draw, places)
    except (MlflowException, SQLAlchemyError, sqlite3.Error) as error:
        place = plan.output / "mlflow.db" if is_own else f"--tracking-uri {without_password(uri)}"
        raise StudyError(f"{place}: MLflow cannot use it: {one_line(error)}") from None
