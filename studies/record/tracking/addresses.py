"""Where MLflow's and Optuna's records are kept, as the addresses they take, and how to look at the runs.

A path may hold anything that the file system allows. In an address ``#``, ``?`` and ``%`` mean something, so
paths are percent-encoded where they hold one of these.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from urllib.parse import quote, urlencode

__all__ = [
    "UI",
    "artifacts_of",
    "default_uri",
    "is_server",
    "redacted",
    "sqlite_uri",
    "trials_link",
    "ui_command",
]

HOST, PORT = "127.0.0.1", 5000
# Where `ui_command` serves the pages.
UI = f"http://{HOST}:{PORT}"
# Optuna fills in what stands in braces.
SPECIAL = re.compile(r"[#?%{}]")


def sqlite_uri(path: Path) -> str:
    """The address of an SQLite database, for SQLAlchemy 2.1, which decodes it."""
    if not SPECIAL.search(str(path)):
        return f"sqlite:///{path}"
    # With the driver's name: of "sqlite:///" addresses MLflow makes the folder, as it is written there.
    return f"sqlite+pysqlite:///{quote(str(path))}"


def default_uri(output: Path) -> str:
    """The tracking store of an absolute output folder, where no other is asked for."""
    return sqlite_uri(output / "mlflow.db")


def is_server(uri: str) -> bool:
    """Whether a tracking store is a server, not a database."""
    return uri.startswith(("http://", "https://", "databricks"))


def artifacts_of(uri: str, output: Path) -> str | None:
    """Where the artifacts of a tracking store are kept; a tracking server knows that itself."""
    # A database's default would be the current folder.
    return None if is_server(uri) else (output / "artifacts").as_uri()


def ui_command(uri: str) -> str:
    """The command that shows the runs, or the address that does; without a password."""
    uri = redacted(uri)
    if uri.startswith(("http://", "https://")):
        return uri
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)} --host {HOST} --port {PORT}"


def trials_link(uri: str, experiment: str, parent: str, metric: str) -> str:
    """The page that lists the trials of a launch, best first, without their parent.

    Args:
        uri: of the tracking store; for a database it is the page of ``ui_command``'s server.
        experiment, parent: ids.
        metric: key of the metric that they are sorted by.
    """
    query = {
        "workflowType": "machine_learning",
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent}'",
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": "false",
    }
    base = redacted(uri).rstrip("/") if uri.startswith(("http://", "https://")) else UI
    return f"{base}/#/experiments/{experiment}/runs?{urlencode(query, quote_via=quote, safe='')}"


def redacted(text: str) -> str:
    """A text without the passwords, tokens and keys of the addresses in it.

    >>> redacted("no route to postgresql://me:secret@db/mlflow")
    'no route to postgresql://me:***@db/mlflow'
    >>> redacted("https://token@head, s3://bucket?secret_key=x&region=y")
    'https://***@head, s3://bucket?secret_key=***&region=y'
    """
    # To the last @: a password that was not encoded may hold one, or a slash.
    # An address of a slash too few is none, but may hold a password as well.
    text = re.sub(r"(?i)\b([a-z][a-z0-9+.-]*:/{0,2}[^:/@\s]*):\S*@", r"\1:***@", text)
    text = re.sub(r"(?i)(https?:/{0,2})[^:/@\s]+@", r"\1***@", text)
    return re.sub(r"(?i)([?&][a-z_]*(?:password|passwd|token|secret|key)[a-z_]*=)[^&\s]+", r"\1***", text)
