"""What the command line asks for, and whether it can be met; nothing here writes anything."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from drcnn.data.formats.layouts import resolve_source
from studies.definition.errors import StudyError
from studies.definition.metrics import MARGIN
from studies.definition.overrides import Overrides, check_assignments, parse_weights
from studies.definition.paper_tables import paper_rows
from studies.definition.settings import Changes, Replicates
from studies.definition.study import SearchStudy, Study
from studies.definition.study_file import load

__all__ = ["Machines", "Request", "budget_text", "parse_budget", "resolve"]

SMOKE: Changes = {
    "training.epochs": 1,
    "training.milestones": (),
    "data.train_images": 32,
    "data.val_images": 16,
    "data.test_images": 16,
}
# Seeds of each setting, at most, where a budget decides how many.
MOST_SEEDS = 10
BUDGET = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?")


@dataclass(frozen=True)
class Machines:
    """What the command line says about where and how widely to run."""

    address: str = "local"
    workers: int = 1
    gpus_per_worker: float | None = None
    max_concurrent: int | None = None

    @property
    def is_cluster(self) -> bool:
        """Whether somebody else's Ray is joined."""
        return self.address != "local"


@dataclass(frozen=True)
class Request:
    """The options of ``run_study.py``, with their defaults; the parser fills the fields by these names."""

    study: str
    output: Path = Path("runs")
    profile: str = "laptop"
    source: str = "digits"
    assignments: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    seeds: int | None = None
    budget: float | None = None
    margin: float = MARGIN
    price: float | None = None
    on_bad_data: str = "fail"
    workers: int = 1
    gpus_per_worker: float | None = None
    max_concurrent: int | None = None
    address: str = "local"
    storage: str | None = None
    tracking_uri: str | None = None
    dry_run: bool = False
    smoke: bool = False
    fresh: bool = False

    @property
    def machines(self) -> Machines:
        """Where and how widely to run."""
        return Machines(self.address, self.workers, self.gpus_per_worker, self.max_concurrent)

    @property
    def is_open_ended(self) -> bool:
        """Whether the budget (seconds) decides how many seeds each listed setting gets."""
        return self.budget is not None and self.seeds is None and not self.smoke

    @property
    def listed_seeds(self) -> int | None:
        """Seeds of each listed setting; none takes the study's own number. No launch's budget changes it."""
        return MOST_SEEDS if self.is_open_ended else self.seeds


def parse_budget(text: str) -> float:
    """Seconds of a time written like ``2h``, ``90m``, ``1h30m`` or ``45s``.

    >>> parse_budget("1h30m")
    5400.0

    Raises:
        ValueError: it is written in another way, or is no time at all.
    """
    found = BUDGET.fullmatch(text)
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    if not hours and not minutes and not seconds:
        raise ValueError(f"expected a time such as 2h, 90m, 1h30m or 45s, got {text!r}")
    return float(3600 * hours + 60 * minutes + seconds)


def budget_text(seconds: float) -> str:
    """A budget as it is typed.

    >>> budget_text(5400)
    '1h30m'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return "".join(f"{value}{unit}" for value, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if value)


def resolve(request: Request) -> tuple[str, Overrides]:
    """Read the study and make the configuration under its trials.

    Returns:
        The study's name (a smoke run has one of its own), and all that decides its configurations.

    Raises:
        StudyError, ConfigError: the request cannot be met.
        DataError: there is no such folder, or its format is not known.
    """
    name, study = load(request.study)
    if request.smoke:
        name, study = f"{name}-smoke", _shortened(study)
    fixed = {**(SMOKE if request.smoke else {}), "data.on_bad_data": request.on_bad_data}
    fixed |= check_assignments(request.assignments, study, request.profile)
    weights = parse_weights(request.weights, study)
    source = resolve_source(request.source)
    overrides = Overrides.resolve(study, request.profile, source, fixed, weights)
    paper_rows(study.paper)
    _check_study_options(study, request)
    _check_machine_options(request)
    return name, overrides


def _check_study_options(study: Study, request: Request) -> None:
    if not isinstance(study, SearchStudy):
        return
    if request.seeds and study.confirm is None:
        raise StudyError(
            f"--seeds {request.seeds}: a search has one seed a setting; to train its best with several, "
            "give its file 'confirm'"
        )
    if study.minimise and request.workers > 1:
        raise StudyError(
            f"--workers-per-trial {request.workers}: a study that minimises {study.minimise} measures it "
            "with one worker; leave it at 1"
        )


def _check_machine_options(request: Request) -> None:
    if request.output.exists() and not request.output.is_dir():
        raise StudyError(f"--output {request.output}: is a file, expected a folder")
    if request.machines.is_cluster:
        if not request.output.is_absolute():
            raise StudyError(
                f"--output {request.output}: on a cluster give an absolute path: a folder that all nodes "
                "share or, with --storage, one that each node has for itself"
            )
        return
    cores = os.cpu_count() or 1
    if request.workers > cores:
        raise StudyError(f"--workers-per-trial {request.workers}: this machine has {cores} CPUs")


def _shortened(study: Study) -> Study:
    """The study with two settings: a search's first two trials, else the first and the last setting."""
    if isinstance(study, SearchStudy):
        confirm = study.confirm and study.confirm.model_copy(update={"top": 2, "seeds": 2})
        return study.model_copy(update={"trials": 2, "confirm": confirm})
    settings = study.settings()
    return study.model_copy(
        update={"rows": (settings[0], settings[-1]), "grid": {}, "replicates": Replicates()}
    )
