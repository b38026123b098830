"""Benchmark of the driver: a thousand trials of a stub objective on simulated nodes.

All of a launch is real but the training: the study is expanded, Ray Tune places the trials on as many raylets
as there are to be nodes (all on this machine, each with a GPU that is not there), MLflow is written, and the
same command is allocation again, once with everything finished and once with half of it. Run as
``python -m benchmarks.scale [--trials 1000] [--nodes 64] [--tracking-uri URI] [--output DIR] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ray import cloudpickle, tune
from ray.cluster_utils import Cluster
from rich.console import Console

from drcnn.config import DataConfig
from drcnn.engine.record import read_record, write_finished
from studies.definition.overrides import Overrides
from studies.definition.plan import Plan, Trial, expand
from studies.definition.request import Machines
from studies.definition.study import GridStudy
from studies.definition.trial import Inputs
from studies.execution.progress import Progress
from studies.execution.report_command import try_report
from studies.execution.trial_watcher import TuneRun
from studies.execution.tuning import run_trials
from studies.record.results import ranked, write_results
from studies.record.tracking.runs import Tracker
from studies.resources.connection import connect
from studies.resources.slots import Allocation
from studies.transfer.store import open_store
from studies.transfer.trial_folders import TrialFolders

if TYPE_CHECKING:
    from drcnn.data.prepare import PreparedData

__all__ = ["Figures", "Launch", "measure"]

EPOCHS = 3


@dataclass(frozen=True)
class Launch:
    """One command, in seconds.

    Attributes:
        expand: until all trials and their identities are known.
        known: then until MLflow has all trials that were finished before.
        run: of Ray Tune, until all others ended.
        begun: of ``run``, until the first trial began; 0 if there was none to begin.
        tables: of results.parquet.
        report: of the report, without detections to compare.
        close: of closing MLflow's runs.
        finished: trials that were finished in the end.
    """

    expand: float
    known: float
    run: float
    begun: float
    tables: float
    report: float
    close: float
    finished: int

    @property
    def seconds(self) -> float:
        """In all."""
        return self.expand + self.known + self.run + self.tables + self.report + self.close


@dataclass(frozen=True)
class Figures:
    """What was measured: times of a trial in the first launch, the driver's processor time and memory.

    Attributes:
        trials: of the study.
        nodes: simulated; each has one trial at a time.
        epochs: of each trial.
        cluster_seconds: until all nodes were there.
        early_ms: a trial, by the clock, while the second quarter of them ended; ``late_ms`` the last quarter.
        early_cpu_ms: a trial, the driver's processor time; ``late_cpu_ms`` likewise.
        memory_mib: before the first launch, when its first trial ended, when its last did, and the most ever.
        mlflow_ms: of a trial's start, of one epoch, and of a trial's end.
        mlflow_share: of the time of ``whole.run``.
        whole: the first launch.
        again: the same with all trials finished.
        half: the same with every other one finished.
    """

    trials: int
    nodes: int
    epochs: int
    cluster_seconds: float
    early_ms: float
    late_ms: float
    early_cpu_ms: float
    late_cpu_ms: float
    memory_mib: tuple[int, int, int, int]
    mlflow_ms: dict[str, float]
    mlflow_share: float
    whole: Launch
    again: Launch
    half: Launch


def measure(trials: int, nodes: int, output: Path, uri: str | None = None) -> Figures:
    """Run a study of so many trials on so many simulated nodes, thrice.

    Args:
        trials: 8 or more.
        nodes: one trial at a time each.
        output: absolute; of the study.
        uri: of MLflow's store; none keeps it in ``output``.
    """
    plan = _plan(trials, output)
    uri = uri or f"sqlite:///{output / 'mlflow.db'}"
    began = time.monotonic()
    with _simulated(nodes) as (machines, allocation):
        ready = time.monotonic() - began
        before, meter = _memory(), _Meter(uri, plan)
        whole = _launch(plan, machines, allocation, meter)
        memory = (before, meter.ends[0].memory, meter.ends[-1].memory, _most_memory())
        again = _launch(plan, machines, allocation, _Meter(uri, plan))
        for trial in expand(plan)[::2]:
            (trial.folder / "result.json").unlink()
        half = _launch(plan, machines, allocation, _Meter(uri, plan))
    early, late = meter.pace(0.25, 0.5), meter.pace(0.75, 1.0)
    return Figures(
        trials=trials,
        nodes=nodes,
        epochs=EPOCHS,
        cluster_seconds=ready,
        early_ms=early[0],
        late_ms=late[0],
        early_cpu_ms=early[1],
        late_cpu_ms=late[1],
        memory_mib=memory,
        mlflow_ms={name: 1000 * sum(each) / len(each) for name, each in meter.calls.items()},
        mlflow_share=sum(map(sum, meter.calls.values())) / whole.run,
        whole=whole,
        again=again,
        half=half,
    )


@dataclass(frozen=True)
class _NoData:
    """What a trial knows of its data; without torch, which this machine would load once for every node."""

    train: str = "train.arrow"
    val: str = "val.arrow"
    test: str | None = None
    judged: str = "val"
    judged_table: str = "val.arrow"
    classes: tuple[str, ...] = ("0", "1")
    fingerprint: str = "0" * 16
    skipped: tuple[str, ...] = ()

    @property
    def tables(self) -> dict[str, str]:
        return {"train": self.train, "val": self.val}


def _plan(trials: int, output: Path) -> Plan:
    def prepare(data: DataConfig) -> PreparedData:
        return cast("PreparedData", _NoData())

    values = [round(1 + number / trials, 6) for number in range(trials)]
    study = GridStudy(kind="grid", title="Scale", grid={"detector.lambda_reg": values})
    return Plan("scale", Overrides.resolve(study, "laptop", "digits", {}), output, Inputs(prepare))


def stub(config: Mapping[str, Any]) -> None:
    """In place of training: epochs that take no time, and the record of a finished trial."""
    trial: Trial = config["trial"]
    history = []
    for number in range(1, EPOCHS + 1):
        value = number / EPOCHS / trial.config.detector.lambda_reg
        figures = {f"val/{name}": value for name in ("AP", "AP50", "AP80", "AP90", *map(str, range(20)))}
        history.append({"epoch": float(number), **figures, "perf/eval_seconds": 1.0})
        tune.report(history[-1])
    write_finished(trial.folder, history, {}, 1.0, {})


@contextmanager
def _simulated(nodes: int) -> Iterator[tuple[Machines, Allocation]]:
    """A cluster of a head that has no trials and of nodes with one GPU each; joined as a study joins one."""
    # The stub goes to the nodes as it is, and nothing that this module imports.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]
    small: dict[str, Any] = {"object_store_memory": 80 << 20}
    # Nodes of their own would start processes in advance; here all would start at once, on one machine.
    os.environ.update(RAY_enable_worker_prestart="0", RAY_prestart_worker_first_driver="0")
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        # A Ray that shares nothing with others on this machine.
        os.environ.update(RAY_TMPDIR=folder, RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=0, include_dashboard=False, **small)
            for _ in range(nodes):
                cluster.add_node(wait=False, num_cpus=1, num_gpus=1, **small)
            cluster.wait_for_nodes(timeout=300)
            machines = Machines(cluster.address)
            with connect(machines) as allocation:
                yield machines, allocation
        finally:
            cluster.shutdown()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _End:
    """A trial ended: when, and what the driver had used by then (seconds, MiB)."""

    time: float
    cpu: float
    memory: int


class _Meter(Tracker):
    """Writes to MLflow as any study does, and looks at the clock."""

    def __init__(self, uri: str, plan: Plan) -> None:
        artifacts = None if uri.startswith("http") else f"file://{plan.output / 'artifacts'}"
        super().__init__(uri, artifacts, plan.name, plan.output)
        self.calls: dict[str, list[float]] = {"start": [], "epoch": [], "end": []}
        self.begins: list[float] = []
        self.ends: list[_End] = []

    def start(self, trial: Trial) -> None:
        self.begins.append(time.monotonic())
        self._timed("start", lambda: super(_Meter, self).start(trial))

    def log(self, trial: Trial, metrics: Mapping[str, float]) -> None:
        self._timed("epoch", lambda: super(_Meter, self).log(trial, metrics))

    def finish(self, trial: Trial) -> None:
        self._timed("end", lambda: super(_Meter, self).finish(trial))
        self.ends.append(_End(time.monotonic(), time.process_time(), _memory()))

    def pace(self, begin: float, end: float) -> tuple[float, float]:
        """Milliseconds a trial between two parts of all ends: by the clock, and of the processor."""
        first, last = (int(part * (len(self.ends) - 1)) for part in (begin, end))
        a, b, trials = self.ends[first], self.ends[last], last - first
        return 1000 * (b.time - a.time) / trials, 1000 * (b.cpu - a.cpu) / trials

    def _timed(self, name: str, call: Callable[[], None]) -> None:
        began = time.monotonic()
        call()
        self.calls[name].append(time.monotonic() - began)


def _launch(plan: Plan, machines: Machines, allocation: Allocation, tracker: _Meter) -> Launch:
    """What a launch of a study that lists its trials does (see ``studies.execution``), step by step."""
    laps = [time.monotonic()]
    trials = expand(plan)
    laps.append(time.monotonic())
    tracker.open("scale", "scale", "", fresh=False, tags={}, texts={})
    left = [trial for trial in trials if not _is_finished(trial)]
    for trial in trials:
        if trial not in left:
            tracker.finish(trial)
    laps.append(time.monotonic())
    if left:
        _run(plan, left, machines, allocation, tracker)
    laps.append(time.monotonic())
    write_results(plan.folder / "results.parquet", trials)
    laps.append(time.monotonic())
    reports, line = try_report(plan, trials)
    if not reports:
        raise RuntimeError(line)
    laps.append(time.monotonic())
    tracker.close("FINISHED", trials, ranked(trials, plan.study.chosen_by)[0], reports, plan.study.title)
    laps.append(time.monotonic())
    expanded, known, ran, tables, report, close = (b - a for a, b in pairwise(laps))
    begun = tracker.begins[0] - laps[2] if left else 0.0
    return Launch(expanded, known, ran, begun, tables, report, close, sum(map(_is_finished, trials)))


def _run(
    plan: Plan, remaining: Sequence[Trial], machines: Machines, allocation: Allocation, tracker: _Meter
) -> None:
    folders = TrialFolders(open_store(None, plan.output))
    with open(os.devnull, "w") as nowhere, Progress(Console(file=nowhere), len(remaining)) as progress:
        run = TuneRun(plan, machines, allocation, folders, tracker, progress)
        run_trials(run, remaining, trainable=stub)


def _is_finished(trial: Trial) -> bool:
    return read_record(trial.folder).is_finished


def _memory() -> int:
    """MiB of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--tracking-uri", help="of MLflow's store or server (default: SQLite)")
    parser.add_argument("--output", type=Path, help="where to keep the study (default: nowhere)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        output = (asked.output or Path(scratch)).resolve()
        output.mkdir(parents=True, exist_ok=True)
        found = measure(asked.trials, asked.nodes, output, asked.tracking_uri)
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
    ]
    launches = {"first launch": found.whole, "all finished": found.again, "half finished": found.half}
    for name, launch in launches.items():
        parts = ", ".join(f"{key} {value:.1f}" for key, value in asdict(launch).items() if key != "finished")
        lines.append(f"{name + ', s:':<26}{launch.seconds:.1f} in all: {parts}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
