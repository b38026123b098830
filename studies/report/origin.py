"""What it takes to find or make a study's results again: command, versions, data, seeds, trial ids."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from studies.analysis.replicates import Replicate
from studies.definition.metrics import MISSING, name_of, points
from studies.definition.plan import Plan
from studies.record import provenance
from studies.report.table import Cell, Table

__all__ = ["origin"]

PACKAGES = ("torch", "torchvision", "ray", "optuna", "mlflow", "numpy", "pycocotools")


def origin(plan: Plan, replicates: Sequence[Replicate]) -> dict[str, object]:
    """What ``origin.md.j2`` tells of the results of these trials."""
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return {
        "command": _command(plan),
        "output": _typed(plan.output),
        "commit": provenance.tags().get("mlflow.source.git.commit", "unknown"),
        "is_changed": bool(provenance.git_diff()),
        "versions": f"Python {platform.python_version()}, {packages}",
        "machine": f"{platform.machine()}, {platform.system()}",
        "fingerprints": sorted({replicate.trial.data.fingerprint for replicate in replicates}),
        "seeds": sorted({replicate.trial.config.seed for replicate in replicates}),
        "trials": _trials_table(replicates, plan.study.metric),
    }


def _trials_table(replicates: Sequence[Replicate], metric: str) -> Table:
    rows = [
        [
            replicate.trial.name,
            points(replicate.record.metric(metric)),
            Cell(replicate.trial.id, is_code=True),
            Cell(replicate.trial.model.id, is_code=True) if replicate.trial.model else MISSING,
        ]
        for replicate in replicates
    ]
    caption = "Every trial with its figure after its last epoch, finished or not, and its id."
    columns = ("trial", f"{name_of(metric)} × 100", "id", "trained by")
    return Table(caption, columns, rows, words=("id", "trained by")).without_empty_columns()


def _command(plan: Plan) -> str:
    """The launch as its folder remembers it: what decides results, and nothing that may hold a password."""
    try:
        request = json.loads((plan.folder / "request.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"python studies/run_study.py {shlex.quote(plan.name)} --profile {plan.profile}"
    words = ["python", "studies/run_study.py", request["study"], "--profile", request["profile"]]
    words += ["--data", request["source"], "--output", _typed(plan.output)]
    words += ["--set", *request["assignments"]] if request["assignments"] else []
    words += ["--seeds", str(request["seeds"])] if request["seeds"] else []
    words += ["--workers-per-trial", str(request["workers"])] if request["workers"] > 1 else []
    words += ["--on-bad-data", "skip"] if request["on_bad_data"] == "skip" else []
    words += ["--smoke"] if request["smoke"] else []
    return shlex.join(words)


def _typed(path: Path) -> str:
    """A path as it would be typed here: without what leads to the current folder."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
