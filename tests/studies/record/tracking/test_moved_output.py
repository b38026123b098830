from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from studies.definition.plan import Plan, Trial, expand
from studies.record.tracking.moved_output import known_places
from studies.record.tracking.runs import Tracker


@pytest.fixture
def trial(make_plan: Callable[..., Plan]) -> Trial:
    return expand(make_plan("nms_sweep"), 1)[0]


def test_a_moved_folder_knows_its_places_and_a_copy_only_its_own(tmp_path: Path) -> None:
    first, second, copy = (tmp_path / name for name in ("a", "b\u00e9", "c"))
    first.mkdir()
    assert known_places(first) == [str(first)]
    first.rename(second)
    assert known_places(second) == known_places(second) == [str(first), str(second)]
    shutil.copytree(second, copy)
    assert known_places(copy) == [str(copy)]
    second.rename(first)
    assert known_places(first) == [str(second), str(first)]


def test_on_a_shared_server_a_moved_output_goes_on_with_its_runs_and_a_copy_does_not(
    output: Path, trial: Trial, tmp_path: Path
) -> None:
    uri = f"sqlite:///{output / 'mlflow.db'}"

    def launch(folder: Path) -> None:
        tracker = Tracker(uri, None, "mine", folder, earlier=known_places(folder))
        tracker.open("key", "mine", "A title", fresh=False, tags={}, texts={})
        tracker.start(trial)
        tracker.close("FINISHED", [trial], None, [], "A title")

    first, second, copy = (tmp_path / name for name in ("a", "b", "c"))
    first.mkdir()
    launch(first)
    first.rename(second)
    launch(second)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("mine")
    assert len(client.search_runs([experiment.experiment_id])) == 2
    shutil.copytree(second, copy)
    launch(copy)
    assert len(client.search_runs([experiment.experiment_id])) == 4
