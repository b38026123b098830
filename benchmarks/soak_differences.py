"""What is not in a study that was disturbed as in one that was not: trials, metrics, MLflow's runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlflow import MlflowClient

from drcnn.engine.record import read_record

__all__ = ["EPOCHS", "NAME", "differences"]

# Of the study: its name, and the epochs of each trial.
NAME = "soak"
EPOCHS = 3


def differences(calm: Path, disturbed: Path, trials: int, uri: str) -> Iterator[str]:
    """Yield what is wrong with a study that was disturbed, a line each.

    Args:
        calm: output folder of the study that was not; ``disturbed`` of the other.
        trials: of the study.
        uri: of the disturbed study's MLflow.
    """
    before = {folder.name: read_record(folder) for folder in calm.glob("trials/*")}
    after = {folder.name: read_record(folder) for folder in disturbed.glob("trials/*")}
    if not len(before) == len(after) == trials or set(before) != set(after):
        yield f"{len(before)} and {len(after)} trials, expected {trials} and the same ones"
    for name in sorted(set(before) & set(after)):
        if not after[name].is_finished:
            yield f"{name}: {after[name].status}: {after[name].error}"
            continue
        pairs = zip(before[name].history, after[name].history, strict=False)
        if len(before[name].history) != len(after[name].history):
            yield f"{name}: {len(after[name].history)} epochs, expected {len(before[name].history)}"
        for one, other in pairs:
            yield from (f"{name}: epoch {one['epoch']:g}: {line}" for line in _unequal(one, other))
    yield from _differences_of_mlflow({name: found.metrics for name, found in after.items()}, uri)


def _unequal(one: Mapping[str, float], other: Mapping[str, float]) -> Iterator[str]:
    """Metrics that are not equal bit by bit; times are none of them."""
    for key in sorted({*one, *other}):
        if key.startswith("perf/"):
            continue
        a, b = one.get(key, math.inf), other.get(key, math.inf)
        if a != b and not (math.isnan(a) and math.isnan(b)):
            yield f"{key} is {b!r}, expected {a!r}"


def _differences_of_mlflow(trials: Mapping[str, Mapping[str, float]], uri: str) -> Iterator[str]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(NAME)
    if experiment is None:
        yield f"MLflow has no experiment {NAME}"
        return
    runs = client.search_runs([experiment.experiment_id], max_results=10_000)
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    for run in runs:
        if run.info.status != "FINISHED":
            yield f"MLflow's run {run.info.run_name} is {run.info.status}"
    if len(runs) - len(children) != 1:
        yield f"MLflow has {len(runs) - len(children)} parent runs, expected 1"
    names = Counter(run.data.tags.get("drcnn.trial_id", "") for run in children)
    for name in sorted({*names, *trials}):
        if names[name] != 1 or name not in trials:
            yield f"MLflow has {names[name]} runs of trial {name}, expected {int(name in trials)}"
    for run in children:
        name = run.data.tags.get("drcnn.trial_id", "")
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")]
        if sorted(steps) != list(range(1, EPOCHS + 1)):
            yield f"MLflow's run {run.info.run_name} has the epochs {steps}"
        own = trials.get(name, {})
        shown = {key: value for key, value in run.data.metrics.items() if key in own}
        last = {key: own[key] for key in shown}
        yield from (f"MLflow's run {run.info.run_name}: {line}" for line in _unequal(last, shown))
