"""What the command line asks for, and whether it can be met; nothing here writes anything."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from drcnn.config import Config, parse_assignments
from drcnn.recipes import recipe
from studies.results import paper_rows
from studies.study import SearchStudy, Study, StudyError, load

__all__ = ["Request", "resolve"]

SMOKE = {"training.epochs": 1, "data.train_images": 32, "data.val_images": 16}


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    study: str
    output: Path = Path("runs")
    profile: str = "laptop"
    source: str = "digits"
    assignments: tuple[str, ...] = ()
    seeds: int = 1
    on_bad_data: str = "fail"
    workers: int = 1
    gpus_per_worker: float | None = None
    max_concurrent: int | None = None
    address: str = "local"
    tracking_uri: str | None = None
    dry_run: bool = False
    smoke: bool = False
    fresh: bool = False


def resolve(request: Request) -> tuple[str, Study, Config]:
    """The study's name, the study, and the configuration under every trial.

    Raises:
        StudyError, ConfigError: the request cannot be met.
    """
    name, study = load(request.study)
    if request.smoke:
        name, study = f"{name}-smoke", _two(study)
    base = _base(study, request)
    _check(study, request)
    return name, study, base


def _base(study: Study, request: Request) -> Config:
    """The configuration under every trial: defaults, recipe, study, then ``--set``."""
    changes = parse_assignments(list(request.assignments))
    for key in changes:
        if key in study.varied():
            raise StudyError(
                f"--set {key}: the study varies this itself; write a study file of your own to fix it"
            )
        if key in {"data.source", "data.on_bad_data"}:
            raise StudyError(
                f"--set {key}: use --{'data' if key == 'data.source' else 'on-bad-data'} instead"
            )
    layers = {
        **recipe(request.profile, request.source),
        **study.base,
        **(SMOKE if request.smoke else {}),
        "data.on_bad_data": request.on_bad_data,
        **changes,
    }
    weights = layers.get("detector.weights", "none")
    if isinstance(weights, str) and weights not in {"imagenet", "none"}:
        # Workers run elsewhere than where the command was typed.
        layers["detector.weights"] = str(Path(weights).resolve())
    return Config().with_changes(layers)


def _check(study: Study, request: Request) -> None:
    paper_rows(study.paper)
    if isinstance(study, SearchStudy) and request.seeds > 1:
        raise StudyError(
            f"--seeds {request.seeds}: a search has one seed a setting; replicate its best in a grid"
        )
    if request.output.exists() and not request.output.is_dir():
        raise StudyError(f"--output {request.output}: is a file, expected a folder")
    if request.address != "local":
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
    if isinstance(study, SearchStudy):
        return study.model_copy(update={"trials": 2})
    settings = study.settings()
    return study.model_copy(update={"rows": (settings[0], settings[-1]), "grid": {}})
