from __future__ import annotations

import shlex
from pathlib import Path

import optuna
import pytest

from studies.record.tracking.addresses import default_uri, sqlite_uri, ui_command


@pytest.mark.parametrize("name", ["plain", "my runs", "a#1", "50%20off", "q?x=1", "{x}", "é+ü", "%41"])
def test_a_database_is_made_at_its_path_and_nothing_else(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    optuna.storages.RDBStorage(sqlite_uri(folder / "optuna.db"))
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*")] == [
        Path(name),
        Path(name, "optuna.db"),
    ]


def test_the_command_that_shows_the_runs_is_quoted() -> None:
    words = shlex.split(ui_command(default_uri(Path("/my runs/a;b"))))
    assert words[:4] == ["mlflow", "ui", "--backend-store-uri", "sqlite:////my runs/a;b/mlflow.db"]


def test_where_the_runs_are_is_said_without_a_password() -> None:
    assert ui_command("sqlite:////a/mlflow.db").startswith(
        "mlflow ui --backend-store-uri sqlite:////a/mlflow.db "
    )
    assert ui_command("http://head:5000") == "http://head:5000"
    assert "secret" not in ui_command("postgresql://me:secret@db/mlflow")
    assert "secret" not in ui_command("https://me:secret@head/mlflow")
