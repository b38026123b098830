"""Benchmark of the driver: a thousand trials of a stub objective on simulated nodes.

All of a launch is real but the training (``simulated``): the study is expanded, Ray Tune places the trials on
as many raylets as there are to be nodes, each leaves its files in an object store, the driver collects them,
MLflow is written, and the same command is given again, with everything finished and with half of it:
``python -m benchmarks.scale [--trials 1000] [--nodes 64] [--checkpoint-mb 600] [--tracking-uri URI]
[--output DIR] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from rich.console import Console

from benchmarks.driver_meter import Meter, memory_mib, most_memory_mib
from benchmarks.simulated import EPOCHS, disk_mib, make_plan, simulated_cluster, stub_of
from drcnn.engine.record import read_record
from studies.definition.plan import Plan, Trial, expand
from studies.definition.request import Machines
from studies.execution.progress import Progress
from studies.execution.report_command import Outcome
from studies.execution.trial_watcher import TuneRun
from studies.execution.tuning import run_trials
from studies.record.results import ranked, write_results
from studies.resources.slots import Allocation
from studies.transfer.store import open_store
from studies.transfer.trial_folders import TrialFolders

__all__ = ["Figures", "Launch", "measure"]


@dataclass(frozen=True)
class Launch:
    """One command, in seconds.

    Attributes:
        expand: until all trials and their identities are known.
        known: then until the driver and MLflow have all trials that were finished before.
        run: of Ray Tune, until all others ended.
        begun: of ``run``, until the first trial began; 0 if there was none to begin.
        tables: of results.parquet.
        report: of the report, without detections to compare.
        weights: of downloading the best trial's.
        close: of closing MLflow's runs.
        finished: trials that were finished in the end.
    """

    expand: float
    known: float
    run: float
    begun: float
    tables: float
    report: float
    weights: float
    close: float
    finished: int

    @property
    def seconds(self) -> float:
        """In all."""
        parts = (self.expand, self.known, self.run, self.tables, self.report, self.weights, self.close)
        return sum(parts)


@dataclass(frozen=True)
class Figures:
    """What was measured: times of a trial in the first launch, the driver's processor time and memory.

    Attributes:
        trials: of the study.
        nodes: simulated; each has one trial at a time.
        epochs: of each trial.
        checkpoint_mb: millions of bytes of each checkpoint.
        cluster_seconds: until all nodes were there.
        early_ms: a trial, by the clock, while the second quarter of them ended; ``late_ms`` the last quarter.
        early_cpu_ms: a trial, the driver's processor time; ``late_cpu_ms`` likewise.
        memory_mib: before the first launch, when its first trial ended, when its last did, and the most ever.
        mlflow_ms: of a trial's start, of one epoch, and of a trial's end.
        mlflow_share: of the time of ``whole.run``.
        head_mib: of the head's disk, after the first launch's trials, and after the best one's weights came.
        whole: the first launch.
        again: the same with all trials finished.
        half: the same with every other one finished.
    """

    trials: int
    nodes: int
    epochs: int
    checkpoint_mb: int
    cluster_seconds: float
    early_ms: float
    late_ms: float
    early_cpu_ms: float
    late_cpu_ms: float
    memory_mib: tuple[int, int, int, int]
    mlflow_ms: dict[str, float]
    mlflow_share: float
    head_mib: tuple[float, float]
    whole: Launch
    again: Launch
    half: Launch


def measure(
    trials: int, nodes: int, output: Path, uri: str | None = None, checkpoint_mb: int = 600
) -> Figures:
    """Run a study of so many trials on so many simulated nodes, thrice.

    Args:
        trials: 8 or more.
        nodes: one trial at a time each.
        output: absolute; of the study.
        uri: of MLflow's store; none keeps it in ``output``.
        checkpoint_mb: millions of bytes of a checkpoint.
    """
    plan = make_plan(trials, output)
    uri = uri or f"sqlite:///{output / 'mlflow.db'}"
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as bucket, simulated_cluster(nodes) as (machines, allocation):
        ready = time.monotonic() - began
        cluster = _Cluster(machines, allocation, Path(bucket), checkpoint_mb)
        before, meter = memory_mib(), Meter(uri, plan)
        whole, *head_mib = _launch(plan, cluster, meter)
        memory = (before, meter.ends[0].memory, meter.ends[-1].memory, most_memory_mib())
        again, *_ = _launch(plan, cluster, Meter(uri, plan))
        for trial in expand(plan)[::2]:
            for place in (plan.output, cluster.bucket):
                (place / trial.folder.relative_to(plan.output) / "result.json").unlink()
        half, *_ = _launch(plan, cluster, Meter(uri, plan))
    early, late = meter.pace(0.25, 0.5), meter.pace(0.75, 1.0)
    return Figures(
        trials=trials,
        nodes=nodes,
        epochs=EPOCHS,
        checkpoint_mb=checkpoint_mb,
        cluster_seconds=ready,
        early_ms=early[0],
        late_ms=late[0],
        early_cpu_ms=early[1],
        late_cpu_ms=late[1],
        memory_mib=memory,
        mlflow_ms={name: 1000 * sum(each) / len(each) for name, each in meter.calls.items()},
        mlflow_share=sum(map(sum, meter.calls.values())) / whole.run,
        head_mib=(head_mib[0], head_mib[1]),
        whole=whole,
        again=again,
        half=half,
    )


@dataclass(frozen=True)
class _Cluster:
    """Where trials run, and the folder that stands for the object store."""

    machines: Machines
    allocation: Allocation
    bucket: Path
    checkpoint_mb: int


def _launch(plan: Plan, cluster: _Cluster, tracker: Meter) -> tuple[Launch, float, float]:
    """What a launch of a study that lists its trials does (see ``studies.execution``), step by step.

    Returns:
        Its times, and the MiB of the head's disk before and after the best trial's weights came.
    """
    laps = [time.monotonic()]
    trials = expand(plan)
    laps.append(time.monotonic())
    folders = TrialFolders(open_store(cluster.bucket.as_uri(), plan.output))
    folders.collect_ended(trials, folders.store.ended_trials())
    tracker.open("scale", "scale", "", fresh=False, tags={}, texts={})
    left = [trial for trial in trials if not _is_finished(trial)]
    for trial in trials:
        if trial not in left:
            tracker.finish(trial)
    laps.append(time.monotonic())
    if left:
        _run(plan, left, cluster, folders, tracker)
    laps.append(time.monotonic())
    write_results(plan.folder / "results.parquet", trials)
    laps.append(time.monotonic())
    reports, line = Outcome(plan, trials).write_report()
    if not reports:
        raise RuntimeError(line)
    laps.append(time.monotonic())
    best, disk = ranked(trials, plan.study.chosen_by)[0][0], disk_mib(plan.output)
    folders.collect_weights(best)
    laps.append(time.monotonic())
    tracker.close("FINISHED", trials, best, reports, plan.study.title)
    laps.append(time.monotonic())
    expanded, known, ran, tables, report, weights, close = (b - a for a, b in pairwise(laps))
    begun = tracker.begins[0] - laps[2] if left else 0.0
    finished = sum(map(_is_finished, trials))
    launch = Launch(expanded, known, ran, begun, tables, report, weights, close, finished)
    return launch, disk, disk_mib(plan.output)


def _run(
    plan: Plan, remaining: Sequence[Trial], cluster: _Cluster, folders: TrialFolders, tracker: Meter
) -> None:
    stub = stub_of(cluster.bucket, plan.output, cluster.checkpoint_mb)
    with open(os.devnull, "w") as nowhere, Progress(Console(file=nowhere), len(remaining)) as progress:
        run = TuneRun(plan, cluster.machines, cluster.allocation, folders, tracker, progress)
        run_trials(run, remaining, trainable=stub)


def _is_finished(trial: Trial) -> bool:
    return read_record(trial.folder).is_finished


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--checkpoint-mb", type=int, default=600, help="size of a checkpoint (default: 600)")
    parser.add_argument("--tracking-uri", help="of MLflow's store or server (default: SQLite)")
    parser.add_argument("--output", type=Path, help="where to keep the study (default: nowhere)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        output = (asked.output or Path(scratch)).resolve()
        output.mkdir(parents=True, exist_ok=True)
        found = measure(asked.trials, asked.nodes, output, asked.tracking_uri, asked.checkpoint_mb)
    if asked.json:
        print(json.dumps(asdict(found), indent=2))
        return
    print(_text(found))


def _text(found: Figures) -> str:
    before, first, last, most = found.memory_mib
    calls = ", ".join(f"{name} {milliseconds:.0f}" for name, milliseconds in found.mlflow_ms.items())
    lines = [
        f"{found.trials} trials of {found.epochs} epochs on {found.nodes} nodes, "
        f"which took {found.cluster_seconds:.0f} s to start",
        f"ms a trial, 2nd quarter:  {found.early_ms:.0f} by the clock, {found.early_cpu_ms:.0f} of a core",
        f"ms a trial, last quarter: {found.late_ms:.0f} by the clock, {found.late_cpu_ms:.0f} of a core",
        f"memory, MiB:              {before} before, {first} at the first trial's end, "
        f"{last} at the last's, {most} at most",
        f"MLflow, ms:               {calls}; {found.mlflow_share:.0%} of the time",
        f"disk of the head, MiB:    {found.head_mib[0]:.1f} without weights ({found.checkpoint_mb} MB each), "
        f"{found.head_mib[1]:.1f} with the best trial's",
    ]
    launches = {"first launch": found.whole, "all finished": found.again, "half finished": found.half}
    for name, launch in launches.items():
        parts = ", ".join(f"{key} {value:.1f}" for key, value in asdict(launch).items() if key != "finished")
        lines.append(f"{name + ', s:':<26}{launch.seconds:.1f} in all: {parts}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
