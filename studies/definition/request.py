"""What the command line asks for, and whether it can be met; nothing here writes anything."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from drcnn.config import Config, parse_assignments
from drcnn.recipes import recipe
from studies.definition.errors import StudyError
from studies.definition.machines import Machines
from studies.definition.paper_tables import paper_rows
from studies.definition.settings import multiplied
from studies.definition.study import Changes, SearchStudy, Study, load

__all__ = ["Request", "Resolved", "resolve"]

logger = logging.getLogger(__name__)

SMOKE: Changes = {
    "training.epochs": 1,
    "training.milestones": (),
    "data.train_images": 32,
    "data.val_images": 16,
}


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    study: str
    output: Path = Path("runs")
    profile: str = "laptop"
    source: str = "digits"
    assignments: tuple[str, ...] = ()
    seeds: int | None = None
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


@dataclass(frozen=True)
class Resolved:
    """A request that is good as far as its study and configuration go.

    Attributes:
        name: of the study; a smoke run has its own.
        study: what to run.
        base: the configuration under every trial.
        fixed: what of it has the last word, over the settings that a study's variants bring.
    """

    name: str
    study: Study
    base: Config
    fixed: Changes


def resolve(request: Request) -> Resolved:
    """Read the study, and make the configuration under its trials: defaults, recipe, study, then ``--set``.

    Raises:
        StudyError, ConfigError: the request cannot be met.
    """
    name, study = load(request.study)
    if request.smoke:
        name, study = f"{name}-smoke", _two(study)
    fixed = {**(SMOKE if request.smoke else {}), "data.on_bad_data": request.on_bad_data}
    fixed |= _absolute(_assignments(study, request))
    # The recipe first: a named variant brings settings that its recipe must not undo.
    base = Config().with_changes(recipe(request.profile, request.source))
    own = multiplied(study.on(request.profile, study.base), base)
    base = base.with_changes(_absolute({**own, **fixed}))
    _check(study, request)
    return Resolved(name, study, base, fixed)


def _assignments(study: Study, request: Request) -> Changes:
    changes = parse_assignments(list(request.assignments))
    varied, stands = study.varied(), study.varied(request.profile)
    for key in changes:
        if key == "detector.weights" and key in stands and key not in varied:
            # Without this a study of backbones could not use a file at all; see Plan.config.
            logger.warning("--set %s: not for the backbones that start from scratch on a laptop", key)
        elif key in varied or key in stands:
            where = "" if key in varied else " on a laptop"
            raise StudyError(
                f"--set {key}: the study varies this itself{where}; write a study file of your own to fix it"
            )
        if key in {"data.source", "data.on_bad_data"}:
            raise StudyError(
                f"--set {key}: use --{'data' if key == 'data.source' else 'on-bad-data'} instead"
            )
    return changes


def _absolute(changes: Changes) -> Changes:
    """With the whole path of a weights file: workers run elsewhere than where the command was typed."""
    weights = changes.get("detector.weights", "none")
    if isinstance(weights, str) and weights not in {"imagenet", "none"}:
        return {**changes, "detector.weights": str(Path(weights).resolve())}
    return changes


def _check(study: Study, request: Request) -> None:
    paper_rows(study.paper)
    if isinstance(study, SearchStudy):
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
    if request.output.exists() and not request.output.is_dir():
        raise StudyError(f"--output {request.output}: is a file, expected a folder")
    if request.machines.is_cluster:
        if not request.output.is_absolute():
            raise StudyError(
                f"--output {request.output}: on a cluster give an absolute path: of a folder that all nodes "
                "share or, with --storage, of one that each node has for itself"
            )
        return
    cores = os.cpu_count() or 1
    if request.workers > cores:
        raise StudyError(f"--workers-per-trial {request.workers}: this machine has {cores} CPUs")
    if request.gpus_per_worker:
        import torch

        gpus = torch.cuda.device_count()
        if request.workers * request.gpus_per_worker > gpus:
            raise StudyError(
                f"--gpus-per-worker {request.gpus_per_worker:g}: a trial needs "
                f"{request.workers * request.gpus_per_worker:g} GPUs, this machine has {gpus}"
            )


def _two(study: Study) -> Study:
    """The study with two settings: a search's two trials, else the first and the last."""
    if isinstance(study, SearchStudy):
        confirm = study.confirm and study.confirm.model_copy(update={"top": 2, "seeds": 2})
        return study.model_copy(update={"trials": 2, "confirm": confirm})
    settings = study.settings()
    return study.model_copy(update={"rows": (settings[0], settings[-1]), "grid": {}, "replicates": 1})
