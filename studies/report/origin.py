"""Where a study's results are from: command, commit, versions, data, seeds and trial ids."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from importlib import metadata

from drcnn.report.blocks import Cell, Table
from studies.analysis.replicates import Replicate
from studies.definition.metrics import MISSING, points
from studies.definition.plan import Plan
from studies.definition.study import SearchStudy
from studies.record import provenance
from studies.record.launch_request import as_typed, launch_command

__all__ = ["mixture", "origin"]

PACKAGES = ("torch", "torchvision", "ray", "optuna", "mlflow", "numpy", "pycocotools")


UNKNOWN = "not recorded"


def origin(plan: Plan, replicates: Sequence[Replicate]) -> dict[str, object]:
    """What ``origin.md.j2`` tells of the results of these trials."""
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return {
        "command": launch_command(plan),
        "output": as_typed(plan.output),
        "commit": provenance.tags().get("mlflow.source.git.commit", "unknown"),
        "is_changed": bool(provenance.git_diff()),
        "versions": f"Python {platform.python_version()}, {packages}",
        "machine": f"{platform.machine()}, {platform.system()}",
        "fingerprints": sorted({replicate.trial.data.fingerprint for replicate in replicates}),
        "seeds": sorted({replicate.trial.config.seed for replicate in replicates}),
        "trials": _trials_table(replicates, _metric(plan)),
    }


def _metric(plan: Plan) -> str:
    """Of a search val's: nobody shall choose among its single runs by test."""
    study = plan.study
    return study.chosen_by if isinstance(study, SearchStudy) else study.metric


def _trials_table(replicates: Sequence[Replicate], metric: str) -> Table:
    rows = [
        [
            replicate.trial.name,
            points(replicate.figure(metric)),
            Cell(replicate.trial.id, is_code=True),
            Cell(replicate.trial.model.id, is_code=True) if replicate.trial.model else MISSING,
        ]
        for replicate in replicates
    ]
    caption = "Every trial with its figure after its last epoch, finished or not, and its id."
    columns = ("trial", f"{metric} × 100", "id", "trained by")
    return Table(caption, columns, rows, words=("id", "trained by")).without_empty_columns()


def mixture(replicates: Sequence[Replicate]) -> str:
    """Say in what the making of the finished trials differs, such as torch's version; empty if in nothing."""
    made = [replicate.record.made_by for replicate in replicates if replicate.is_finished]
    differing = []
    for name in dict.fromkeys(name for one in made for name in one):
        counts = Counter(one.get(name, UNKNOWN) for one in made)
        # One that went on with another counts, even where all did.
        if len(counts) > 1 or any(", then " in value for value in counts):
            differing.append(f"{name} {_counted(counts)}")
    return f"Trials were made by different {'; '.join(differing)}." if differing else ""


def _counted(counts: Counter[str]) -> str:
    """Each value and how many trials have it, fewest first as they are the exception."""
    (first, trials), *rest = sorted(counts.items(), key=lambda pair: (pair[1], pair[0]))
    texts = [f"{first} ({trials} {'trial' if trials == 1 else 'trials'})"]
    return ", ".join([*texts, *(f"{value} ({count})" for value, count in rest)])
