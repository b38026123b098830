"""What the tests of studies share: a migrated MLflow database, plans, and finished trials."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from study_helpers import TINY, epoch, papers_data

from drcnn.config import DataConfig
from drcnn.data.prepare import PreparedData
from studies.definition.overrides import Overrides
from studies.definition.plan import Plan
from studies.definition.study_file import load, parse
from studies.definition.trial import Inputs


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one takes seconds of migrations."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def output(tmp_path: Path, migrated: Path) -> Path:
    """An output folder whose MLflow database is ready."""
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(migrated, folder / "mlflow.db")
    return folder


@pytest.fixture
def make_plan(tmp_path: Path) -> Callable[..., Plan]:
    """Plans of a study (a name or YAML text) whose data need not exist."""

    def make(
        study: str,
        fingerprint: str = "f" * 16,
        profile: str = "laptop",
        source: str | None = None,
        **changes: Any,
    ) -> Plan:
        name, found = (
            load(study) if "\n" not in study else ("mine", parse(textwrap.dedent(study), "mine.yaml"))
        )
        source = source or ("digits" if profile == "laptop" else papers_data(name))
        fixed = {key.replace("__", "."): value for key, value in changes.items()}
        small = TINY if source == "digits" else {}
        overrides = Overrides.resolve(found, profile, source, fixed)
        base = overrides.base.with_changes({**small, **found.substituted(found.base, profile), **fixed})
        overrides = replace(overrides, base=base)

        def prepare(data: DataConfig) -> PreparedData:
            return PreparedData("train.arrow", "val.arrow", None, ("0", "1"), fingerprint, ())

        return Plan(name, overrides, tmp_path / "runs", Inputs(prepare))

    return make


@pytest.fixture
def finish() -> Callable[..., None]:
    """Write what ``fit`` writes when a trial is finished."""

    def write(folder: Path, values: list[float], status: str = "finished") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        history = [epoch(number, value) for number, value in enumerate(values, start=1)]
        result = {
            "status": status,
            "epoch": len(values),
            "metrics": history[-1],
            "history": history,
            "seconds": 1.0,
        }
        (folder / "result.json").write_text(json.dumps(result))

    return write
