"""Publishing a detector in a real MLflow database; the files of the model are made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from studies.definition.plan import Plan, expand
from studies.record.tracking import published_model
from studies.record.tracking.published_model import publish

STUDY = "title: t\nkind: grid\ngrid: {detector.nms_reg: [0.7, 0.8]}\n"


@pytest.fixture(autouse=True)
def _made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def save(folder: Path, *more: Any) -> None:
        folder.mkdir()
        (folder / "MLmodel").write_text("flavors: {}")

    model = SimpleNamespace(checkpoint=Path("last.safetensors"), changes={})
    monkeypatch.setattr(published_model, "find_model", lambda name: model)
    monkeypatch.setattr("drcnn.engine.checkpoint.read_model", lambda path: None)
    monkeypatch.setattr(published_model, "_save", save)


def test_a_launch_that_was_killed_after_it_has_registered_a_model_registers_it_once(
    output: Path, make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    experiment = client.create_experiment("mine", (output / "artifacts").as_uri())
    runs = [client.create_run(experiment).info.run_id for _ in range(2)]
    first, second = expand(make_plan(STUDY), 1)

    def versions() -> list[tuple[str, str]]:
        found = client.search_model_versions("name = 'mine'")
        return sorted((version.run_id or "", version.description or "") for version in found)

    with monkeypatch.context() as patch:

        def fail(*arguments: Any) -> None:
            raise MlflowException("database is locked")

        patch.setattr(client, "set_tag", fail)
        with pytest.raises(MlflowException):
            publish(client, runs[0], output / "mine", first)
    assert versions() == [(runs[0], first.name)]
    for _ in range(2):
        publish(client, runs[0], output / "mine", first)
        assert versions() == [(runs[0], first.name)]
    assert client.get_run(runs[0]).data.tags["drcnn.published"] == first.id
    # Another detector, and another launch, have versions of their own.
    publish(client, runs[0], output / "mine", second)
    publish(client, runs[1], output / "mine", first)
    assert versions() == sorted([(runs[0], first.name), (runs[0], second.name), (runs[1], first.name)])
