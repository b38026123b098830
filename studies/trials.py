"""Trials: what a study's settings become, and what their folders hold.

A trial's identity is a hash of everything that decides its result: the whole configuration with its seed, and
fingerprints in place of the paths of data and weights. Its folder, ``OUTPUT/trials/<id>``, is shared by all
studies of that OUTPUT and is the only record that resuming reads. Ray's own state is never read again: what
is on disk here says which trials are finished, and ``fit`` continues the others from their last epoch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import safe_open

from drcnn.config import Config, ConfigError, DataConfig
from drcnn.files import write_text
from studies.study import GridStudy, SearchStudy, Study

if TYPE_CHECKING:
    from drcnn.data.prepare import PreparedData

__all__ = ["Outcome", "Plan", "Trial", "check_search", "clear_verdict", "expand", "outcome", "write_verdict"]


@dataclass(frozen=True)
class Trial:
    """One configuration to train; ``varied`` holds the settings that its study varies."""

    id: str
    name: str
    config: Config
    varied: dict[str, Any]
    data: PreparedData
    folder: Path


@dataclass(frozen=True)
class Plan:
    """A study with all that the command line fixed; makes its trials."""

    name: str
    study: Study
    base: Config
    output: Path
    prepare: Callable[[DataConfig], PreparedData]

    @property
    def folder(self) -> Path:
        """Where the study keeps what is not a trial's."""
        return self.output / self.name

    def trial(self, changes: Mapping[str, Any], seed: int) -> Trial:
        """The trial of one setting.

        Raises:
            ConfigError: a value is not allowed, or a weights file does not exist.
        """
        config = self.base.with_changes({**changes, "seed": seed})
        settings = dict(config.flat())
        varied = {key: settings[key] for key in self.study.varied()}
        data = self.prepare(config.data)
        trial_id = _identity(config, data.fingerprint)
        return Trial(trial_id, _name(varied, seed), config, varied, data, self.output / "trials" / trial_id)


def expand(plan: Plan, seeds: int) -> list[Trial]:
    """All trials of a grid: every setting with each of its seeds.

    Raises:
        ConfigError: a setting is not allowed; the message names it.
    """
    assert isinstance(plan.study, GridStudy)
    trials = []
    for setting in plan.study.settings():
        for replicate in range(seeds):
            try:
                trials.append(plan.trial(setting, plan.base.seed + replicate))
            except ConfigError as error:
                raise ConfigError(f"{plan.name}, setting {setting}: {error}") from None
    return trials


def check_search(plan: Plan) -> Trial:
    """Try the space's ends and first points, so that a bad one is told before anything runs.

    Returns:
        A trial of the space, for its data.

    Raises:
        ConfigError: a value is not allowed; the message names it.
    """
    assert isinstance(plan.study, SearchStudy)
    middle = (
        plan.study.first[0] if plan.study.first else {k: s.ends()[0] for k, s in plan.study.space.items()}
    )
    points = [*plan.study.first, *({**middle, k: e} for k, s in plan.study.space.items() for e in s.ends())]
    for point in points:
        try:
            plan.trial(point, plan.base.seed)
        except ConfigError as error:
            raise ConfigError(f"{plan.name}, point {point}: {error}") from None
    return plan.trial(middle, plan.base.seed)


def _identity(config: Config, data_fingerprint: str) -> str:
    tree = config.model_dump(mode="json")
    tree["data"]["source"] = data_fingerprint
    if config.detector.weights not in {"imagenet", "none"}:
        try:
            with open(config.detector.weights, "rb") as file:
                tree["detector"]["weights"] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ConfigError(
                f"detector.weights = {config.detector.weights!r}: {error.strerror}; "
                "expected 'imagenet', 'none' or the path of a file"
            ) from None
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def _name(varied: Mapping[str, Any], seed: int) -> str:
    parts = [f"{key.rpartition('.')[2]}={_short(value)}" for key, value in varied.items() if key != "seed"]
    return " ".join([*parts, f"seed={seed}"])


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


Status = Literal["finished", "pruned", "failed", "unfinished"]


@dataclass(frozen=True)
class Outcome:
    """What a trial's folder says about it."""

    status: Status
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float | None = None
    error: str | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The figures of the last epoch; empty before the first."""
        return self.history[-1] if self.history else {}

    @property
    def done(self) -> bool:
        """Nothing is left to train."""
        return self.status in {"finished", "pruned"}


def outcome(folder: Path) -> Outcome:
    """Read what a trial's folder says; a missing or empty folder is a trial not yet begun."""
    result = _read(folder / "result.json")
    if result is not None:
        return Outcome(result["status"], result.get("history", []), result.get("seconds"))
    history = _history(folder / "last.safetensors")
    error = _read(folder / "error.json")
    if error is not None:
        return Outcome("failed", history, error=error["message"])
    return Outcome("unfinished", history)


def write_verdict(
    folder: Path, status: Literal["pruned", "failed"], message: str = "", trace: str = ""
) -> None:
    """Record why a trial that ``fit`` did not finish will not go on.

    A trial that finished meanwhile stays finished; the first of several errors stays.
    """
    before = outcome(folder)
    if before.done or before.status == status:
        return
    folder.mkdir(parents=True, exist_ok=True)
    if status == "failed":
        write_text(
            folder / "error.json",
            json.dumps({"message": " ".join(message.split()), "traceback": trace}),
        )
        return
    last = before.metrics
    record = {"status": status, "epoch": last.get("epoch", 0), "metrics": last, "history": before.history}
    write_text(folder / "result.json", json.dumps(record))


def clear_verdict(folder: Path) -> None:
    """Forget that a trial failed or was cut, so that it goes on from its last epoch."""
    (folder / "error.json").unlink(missing_ok=True)
    if outcome(folder).status == "pruned":
        (folder / "result.json").unlink()


def _history(checkpoint: Path) -> list[dict[str, float]]:
    """The epochs in a checkpoint's header: read here without torch, which the driver has no other use for."""
    if not checkpoint.exists():
        return []
    with safe_open(checkpoint, "np") as file:
        history: list[dict[str, float]] = json.loads(file.metadata()["state"])["history"]
    return history


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    assert isinstance(record, dict), f"{path} holds no JSON object"
    return record
