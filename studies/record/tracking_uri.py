"""Where MLflow's runs are kept, and how to look at them."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["artifacts_of", "ui_command"]


def artifacts_of(uri: str, output: Path) -> str | None:
    """Where the artifacts of a tracking store are kept; a tracking server knows that itself."""
    is_server = uri.startswith(("http://", "https://", "databricks"))
    # A database's default would be the current folder.
    return None if is_server else f"file://{output / 'artifacts'}"


def ui_command(uri: str) -> str:
    """The command that shows the runs, or the address that does; without a password."""
    uri = re.sub(r"(?<=://)([^:/@]*):[^@/]*@", r"\1:***@", uri)
    if uri.startswith(("http://", "https://")):
        return uri
    return f"mlflow ui --backend-store-uri {uri} --host 127.0.0.1 --port 5000"
