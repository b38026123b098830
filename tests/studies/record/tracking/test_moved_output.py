from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from studies.definition.plan import Plan, Trial, expand
from studies.record.output_identity import output_identity
from studies.record.tracking.runs import Tracker


@pytest.fixture
def trial(make_plan: Callable[..., Plan]) -> Trial:
    return expand(make_plan("nms_sweep"), 1)[0]


def test_on_a_shared_server_a_moved_output_goes_on_with_its_runs_and_a_copy_does_not(
    output: Path, trial: Trial, tmp_path: Path
) -> None:
    uri = f"sqlite:///{output / 'mlflow.db'}"

    def launch(folder: Path) -> None:
        tracker = Tracker(uri, None, "mine", folder, identity=output_identity(folder))
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


def test_two_machines_with_the_same_path_have_runs_of_their_own(
    output: Path, trial: Trial, tmp_path: Path
) -> None:
    uri = f"sqlite:///{output / 'mlflow.db'}"
    place, elsewhere = tmp_path / "place", tmp_path / "elsewhere"
    place.mkdir()
    first = Tracker(uri, None, "mine", place, identity=output_identity(place))
    first.open("key", "mine", "A title", fresh=False, tags={}, texts={})
    first.start(trial)
    # What stands there now is another machine's disk.
    place.rename(elsewhere)
    place.mkdir()
    second = Tracker(uri, None, "mine", place, identity=output_identity(place))
    second.open("key", "mine", "A title", fresh=False, tags={}, texts={})
    second.start(trial)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("mine")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["RUNNING"] * 4
    assert len({run.data.tags["drcnn.output_id"] for run in runs}) == 2
