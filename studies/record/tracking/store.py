"""Opens the store of MLflow's runs for a launch: says what is wrong with it before anything is trained."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import mlflow
from alembic.script import ScriptDirectory
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from PIL.Image import Image
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from studies.definition.errors import StudyError
from studies.definition.plan import Plan, Trial
from studies.record.databases import PATIENCE, ready_database
from studies.record.output_identity import output_identity
from studies.record.tracking.addresses import artifacts_of, default_uri, is_server, redacted, sqlite_uri
from studies.record.tracking.delivery import is_store_fault, why
from studies.record.tracking.experiments import OUTPUT
from studies.record.tracking.moved_output import follow_move
from studies.record.tracking.runs import Tracker

__all__ = ["open_tracker"]

# What becomes of the runs of a damaged database.
LOSS = (
    "this study's runs are written again, from the trials' folders, and those of other studies when their "
    "commands are given again"
)
# How often MLflow's client repeats a request, and how long it waits for an answer (seconds). Its own 7 and
# 120 would keep every trial waiting for minutes when a server is gone; ``Delivery`` repeats what fails.
REQUESTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
# How long a database server may take to answer at first, for the drivers that know this option.
CONNECT_SECONDS = 10
WITH_TIMEOUT = {"psycopg2", "psycopg", "pymysql", "mysqldb"}
# Take a lock that no other program would take, in the words of each server; 0 or false if another has it.
LOCKS = {
    "postgresql": f"SELECT pg_try_advisory_lock({int.from_bytes(b'drcnn', 'big')})",
    "mysql": "SELECT GET_LOCK('drcnn', 0)",
    "mariadb": "SELECT GET_LOCK('drcnn', 0)",
}


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
    _quieten()
    if not is_server(uri):
        if not uri.startswith("file:") and "://" not in uri and ":" in uri:
            raise _no_address(uri)
        if uri.startswith("file:") or "://" not in uri:
            raise StudyError(
                f"--tracking-uri {redacted(uri)}: MLflow writes to folders no longer; leave it and "
                "$MLFLOW_TRACKING_URI out for mlflow.db in --output, or give a database "
                "(sqlite:////FOLDER/mlflow.db) or a server"
            )
        _ready(uri, plan.output)
    try:
        if is_own:
            follow_move(plan.output, OUTPUT)
        identity = "" if is_own else output_identity(plan.output)
        return Tracker(uri, artifacts_of(uri, plan.output), plan.name, plan.output, draw, identity)
    except Exception as error:
        if not is_store_fault(error):
            raise
        place = plan.output / "mlflow.db" if is_own else f"--tracking-uri {redacted(uri)}"
        raise StudyError(f"{place}: MLflow cannot use it: {why(error)}") from None


def _no_address(uri: str) -> StudyError:
    return StudyError(
        f"--tracking-uri {redacted(uri)}: not the address of a database; expected such as "
        "sqlite:////FOLDER/mlflow.db, postgresql://USER@HOST/NAME, or a server's, http://HOST:5000"
    )


def _quieten() -> None:
    """Leave it to the tracker to tell of a store that cannot be reached: in a line, not a page each time."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    for name in ("mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name, value in REQUESTS.items():
        os.environ.setdefault(name, value)


def _ready(uri: str, output: Path) -> None:
    """See to it that a database can be used: MLflow tries for minutes, then shows a page of Python."""
    try:
        url = make_url(uri)
        url.get_dialect().import_dbapi()
    except (ArgumentError, NoSuchModuleError):
        raise _no_address(uri) from None
    except ImportError as error:
        raise StudyError(
            f"--tracking-uri {redacted(uri)}: needs a driver that is not installed ({error.name}); for "
            "PostgreSQL: pip install 'psycopg[binary]', or postgresql+psycopg2:// where psycopg2 is"
        ) from None
    if "@" in (url.host or ""):
        # Its end would be taken for the host, and shown in errors.
        raise StudyError(f"--tracking-uri {redacted(uri)}: write an @ in a name or password as %40")
    if url.get_backend_name() != "sqlite":
        _ready_server(url, uri, output)
        return
    if not url.database or url.database == ":memory:":
        raise StudyError(
            f"--tracking-uri {redacted(uri)}: names no file; expected sqlite:////FOLDER/mlflow.db"
        )
    path = Path(url.database).absolute()
    try:
        ready_database(path, partial(_make, artifacts=artifacts_of(uri, output)), _is_whole, LOSS)
    except (MlflowException, SQLAlchemyError, sqlite3.Error) as error:
        raise StudyError(f"{path}: MLflow cannot make its database: {why(error)}") from None


def _make(path: Path, artifacts: str | None) -> None:
    SqlAlchemyStore(sqlite_uri(path), artifacts).engine.dispose()  # type: ignore[no-untyped-call]


def _is_whole(database: sqlite3.Connection) -> bool:
    """Whether all tables are there, or runs at least: of another version's MLflow says what to do."""
    migrations = Path(mlflow.__file__).parent / "store" / "db_migrations"
    newest = ScriptDirectory(str(migrations)).get_current_head()
    if database.execute("SELECT version_num FROM alembic_version").fetchone() == (newest,):
        return True
    return database.execute("SELECT 1 FROM runs").fetchone() is not None


def _ready_server(url: URL, uri: str, output: Path) -> None:
    """Make the tables of a database server where they are not there, one launch at a time.

    Two that made them at once would both fail. MLflow takes all steps or none, where the server can.
    """
    shown = f"--tracking-uri {redacted(uri)}"
    options = {"connect_timeout": CONNECT_SECONDS} if url.get_driver_name() in WITH_TIMEOUT else {}
    engine = create_engine(url, connect_args=options, isolation_level="AUTOCOMMIT")
    try:
        # The lock ends with the connection, also when this process is killed.
        with engine.connect() as connection:
            ends = time.monotonic() + PATIENCE
            while not _locked(connection):
                if time.monotonic() > ends:
                    raise StudyError(
                        f"{shown}: another launch has been making the tables for {PATIENCE:.0f} s; end it, "
                        "then run the same command again"
                    )
                time.sleep(0.5)
            try:
                SqlAlchemyStore(uri, artifacts_of(uri, output))  # type: ignore[no-untyped-call]
            except (MlflowException, SQLAlchemyError) as error:
                raise StudyError(f"{shown}: MLflow cannot use it: {why(error)}") from None
    except SQLAlchemyError as error:
        raise StudyError(f"{shown}: the database cannot be reached: {why(error)}") from None
    finally:
        engine.dispose()


def _locked(connection: Connection) -> bool:
    """Take the server's own lock of our name; true where it has none that we know."""
    statement = LOCKS.get(connection.dialect.name)
    return statement is None or bool(connection.execute(text(statement)).scalar())
