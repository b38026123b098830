"""Every file of an output, damaged: the same command ends with the undisturbed figures, or names the file.

The whole command runs but for Ray, whose place a loop takes, and MLflow.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from launch_helpers import results, write_study
from study_helpers import assignments

from drcnn import files
from drcnn.engine.record import read_record
from drcnn.engine.run_options import RunOptions
from drcnn.sealed import write_sealed
from studies.definition.plan import Trial
from studies.execution.trial_watcher import TuneRun
from studies.resources.slots import Allocation
from studies.run_study import main
from studies.worker.faults import failures_recorded
from studies.worker.job import Job, WorkerGroup
from studies.worker.trial_run import _with_whole_detector, work_watched
from tests.damage import DAMAGES, Filler, flip_bit, small_disk

pytestmark = pytest.mark.slow

EPOCHS = 3
# A detector is trained, and evaluated in two ways; then a second one, and the launch is stopped meanwhile.
STUDY = "title: Mine\nkind: grid\ngrid: {{training.lr: {rates}, detector.nms_final: [0.5, 0.6]}}\n"
RECORD = ("config.yaml", "detections.parquet", "result.json")
# What lies in an output that a launch left when it was stopped.
FILES = [
    *(f"trials/FINISHED/{name}" for name in (*RECORD, "last.safetensors")),
    *(f"trials/FINISHED/evaluations/*/{name}" for name in (*RECORD, ".resamples.npz")),
    *(f"trials/BEGUN/{name}" for name in ("config.yaml", "last.safetensors", ".previous-last.safetensors")),
    "mine/request.json",
    "mine/results.parquet",
    "mine/published.json",
    "data/digits-train-*.arrow",
    "data/digits-test-*.arrow",
    "data/digits-test-*.arrow.sha256",
]


class NoTracker:
    """Stands for MLflow."""

    def __getattr__(self, name: str) -> Callable[..., str]:
        return lambda *arguments, **named: ""


class Here:
    """Stands for Ray: runs one trial after another in this process."""

    def __init__(self, stop_after: int = 99) -> None:
        self.stop_after, self.epochs = stop_after, 0

    def __call__(self, run: TuneRun, remaining: Sequence[Trial], ended: Sequence[Trial] = ()) -> None:
        group = WorkerGroup(1, 1, 0, "")
        job = Job(run.folders, RunOptions(threads=1), group, measures_latency=False)
        for trial in remaining:
            run.folders.reopen(trial)
            with failures_recorded(trial, run.folders):
                _with_whole_detector(trial, job, 0, lambda: work_watched(trial, job, 0, self.report))  # noqa: B023

    def report(self, metrics: dict[str, float]) -> None:
        self.epochs += 1
        if self.epochs == self.stop_after:
            raise KeyboardInterrupt


@contextmanager
def no_ray(machines: object) -> Iterator[Allocation]:
    yield Allocation(1, 1, 0.0)


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable[..., int]]:
    """Give the command of the study; returns its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("studies.record.tracking.store.open_tracker", lambda *arguments: NoTracker())
        patch.setattr("studies.resources.connection.connect", no_ray)

        def run(output: Path, stop_after: int = 99) -> int:
            patch.setattr("studies.execution.tuning.run_trials", Here(stop_after))
            sets = assignments(training__epochs=EPOCHS, training__milestones=[])
            return main([str(output / "mine.yaml"), "--output", str(output), "--set", *sets])

        yield run


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory, launch: Callable[..., int]) -> tuple[Path, Path]:
    """An output of a launch that was stopped, and the same after another launch."""
    output, whole = (tmp_path_factory.mktemp("outputs") / name for name in ("stopped", "whole"))
    output.mkdir()
    write_study(output, STUDY.format(rates=[0.01]))
    assert launch(output) == 0
    write_study(output, STUDY.format(rates=[0.01, 0.02]))
    assert launch(output, stop_after=2) == 130
    shutil.copytree(output, whole)
    assert launch(whole) == 0
    return output, whole


def figures(output: Path) -> list[dict[str, str]]:
    """The study's table without times, and every trial's curve."""
    rows = [*pq.read_table(output / "mine" / "results.parquet").to_pylist()]
    rows += [
        epoch | {"trial": trial}
        for trial, record in sorted(results(output).items())
        for epoch in record["history"]
    ]
    timed = ("perf/", "seconds")
    return [{key: repr(value) for key, value in row.items() if not key.startswith(timed)} for row in rows]


def find(output: Path, pattern: str) -> Path:
    for folder in output.glob("trials/*"):
        word = "FINISHED" if read_record(folder).is_finished else "BEGUN"
        pattern = pattern.replace(word, folder.name)
    return next(output.glob(pattern))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(name, marks=pytest.mark.faults if name == "one bit flipped" else pytest.mark.long)
        for name in DAMAGES
    ],
)
def test_the_same_command_ends_with_the_undisturbed_figures(
    file: str,
    damage: str,
    outputs: tuple[Path, Path],
    launch: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stopped, whole = outputs
    output = Path(shutil.copytree(stopped, tmp_path / "output"))
    DAMAGES[damage](find(output, file))
    assert launch(output) == 0
    assert figures(output) == figures(whole)
    assert "cannot be" not in capsys.readouterr().out


@pytest.mark.faults
def test_a_detector_that_cannot_be_evaluated_is_trained_again(
    outputs: tuple[Path, Path], launch: Callable[..., int], tmp_path: Path
) -> None:
    _, whole = outputs
    output = Path(shutil.copytree(whole, tmp_path / "output"))
    (trained,) = {path.parents[2] for path in [next(output.glob("trials/*/evaluations/*/result.json"))]}
    flip_bit(trained / "last.safetensors", 0.9)
    shutil.rmtree(trained / "evaluations")
    assert launch(output) == 0
    assert figures(output) == figures(whole)
    assert read_record(trained).notes == [f"{trained / 'last.safetensors'} was damaged; training starts anew"]
    assert not list(trained.glob("*.damaged"))


@pytest.mark.faults
@pytest.mark.parametrize("name", DAMAGES)
def test_a_failure_that_cannot_be_read_is_forgotten(
    name: str, outputs: tuple[Path, Path], launch: Callable[..., int], tmp_path: Path
) -> None:
    stopped, whole = outputs
    output = Path(shutil.copytree(stopped, tmp_path / "output"))
    error = find(output, "trials/BEGUN/config.yaml").with_name("error.json")
    write_sealed(error, {"message": "why", "traceback": "", "host": ""})
    DAMAGES[name](error)
    assert not read_record(error.parent).is_terminal
    assert launch(output) == 0
    assert figures(output) == figures(whole)


@pytest.mark.faults
def test_a_disk_that_is_full_at_the_start_is_named_and_nothing_stays(
    launch: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path, STUDY.format(rates=[0.01]))
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        Filler(disk)
        assert main([study, "--output", str(disk / "runs"), "--set", *assignments()]) == 2
        assert [path.name for path in disk.iterdir()] == ["filler"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"run_study: no space left in {disk / 'runs'}")
    assert line.endswith("free space there and run the same command again")


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk with room for an output; nobody waits for space on it."""
    monkeypatch.setattr(files, "SECONDS", 0.0)
    with small_disk(tmp_path / "disk", megabytes=100) as folder:
        yield folder


@pytest.mark.faults
def test_a_disk_that_is_full_meanwhile_ends_the_launch_in_order(
    outputs: tuple[Path, Path], launch: Callable[..., int], disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped, whole = outputs
    output = Path(shutil.copytree(stopped, disk / "output"))
    filler = Filler(disk)
    assert launch(output) == 2
    assert "run_study: no space left in" in capsys.readouterr().err
    filler.remove()
    assert not list(output.glob("trials/**/error.json"))
    assert launch(output) == 0
    assert figures(output) == figures(whole)


@pytest.mark.faults
def test_a_disk_that_is_full_when_all_is_trained_loses_the_report_only(
    outputs: tuple[Path, Path], launch: Callable[..., int], disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, whole = outputs
    output = Path(shutil.copytree(whole, disk / "output"))
    trained = results(output)
    report = output / "mine" / "report.html"
    report.unlink()
    filler = Filler(disk)
    assert launch(output) == 2
    assert "no space left in" in capsys.readouterr().err
    assert not report.exists()
    filler.remove()
    assert launch(output) == 0
    assert report.exists()
    assert results(output) == trained
