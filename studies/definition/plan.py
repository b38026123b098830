"""Trials: what a study's settings become.

A trial's identity is a hash of everything that decides its result: the whole configuration with its seed, and
fingerprints in place of the paths of data and weights. Its folder, ``OUTPUT/trials/<id>``, is shared by all
studies of that OUTPUT: what one has trained, no other trains again. An evaluation of a trained trial with
other settings of inference is a trial too; its identity is the trained one's and those settings.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drcnn import presets
from drcnn.config import Config, ConfigError, DataConfig
from drcnn.recipes import recipe
from studies.definition.labels import distinguishing_keys, trial_name
from studies.definition.settings import multiplied
from studies.definition.study import INFERENCE, Changes, EvaluateStudy, SearchStudy, Study

if TYPE_CHECKING:
    from drcnn.data.prepare import PreparedData

__all__ = [
    "Plan",
    "Trial",
    "check_search",
    "expand",
    "models",
    "search_points",
]

logger = logging.getLogger(__name__)

# Settings whose values may be names that bring others.
NAMED = ("detector.variant", "training.schedule")


@dataclass(frozen=True)
class Trial:
    """One configuration to train, or to evaluate.

    Attributes:
        id: the hash of all that decides the result.
        name: for tables.
        config: complete.
        varied: the settings that tell its study's trials apart.
        data: its prepared splits.
        folder: its own.
        model: the trained trial whose last epoch this one evaluates with other settings of inference; none:
            it trains its own. Its folder is inside the model's.
    """

    id: str
    name: str
    config: Config
    varied: dict[str, Any]
    data: PreparedData
    folder: Path
    model: Trial | None = None


@dataclass(frozen=True)
class Plan:
    """A study with all that the command line fixed; makes its trials.

    Attributes:
        name: of the study.
        study: what it varies.
        base: the configuration under every trial.
        output: absolute folder of all studies.
        prepare: makes the data ready.
        profile: decides which settings stand for the study's.
        fixed: settings that have the last word over what a named variant of the study brings.
    """

    name: str
    study: Study
    base: Config
    output: Path
    prepare: Callable[[DataConfig], PreparedData]
    profile: str = "laptop"
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the study keeps what is not a trial's."""
        return self.output / self.name

    def on_profile(self, changes: Mapping[str, Any]) -> Changes:
        """The settings that stand for these on this profile."""
        return multiplied(self.study.on(self.profile, changes), self.base)

    def config(self, changes: Mapping[str, Any], seed: int) -> Config:
        """The whole configuration of one setting.

        Raises:
            ConfigError: a value is not allowed.
        """
        own = self.on_profile(changes)
        brought = presets.expand(own)
        # The names themselves are in the base: again here, they would undo the study's own settings. And
        # weights that were given fit no backbone that stands for another and starts from scratch.
        kept = {*NAMED, *({"detector.weights"} & own.keys())}
        fixed = {key: value for key, value in self.fixed.items() if key not in kept}
        return self.base.with_changes({**brought, **fixed, "seed": seed})

    def trial(self, changes: Mapping[str, Any], seed: int, shown: Sequence[str] | None = None) -> Trial:
        """The trial of one setting; of kind evaluate, with the one that trains its detector.

        Args:
            changes: the setting.
            seed: of the training.
            shown: keys to name it by; none takes those of the study.

        Raises:
            ConfigError: a value is not allowed, or a weights file does not exist.
        """
        shown = self.shown() if shown is None else shown
        trial = self._trained(self.config(changes, seed), shown)
        if not isinstance(self.study, EvaluateStudy):
            return trial
        trained = {key: value for key, value in changes.items() if key not in INFERENCE}
        trained = {**self._inference_of_training(), **trained}
        model = self._trained(self.config(trained, seed), [key for key in shown if key not in INFERENCE])
        if model.id == trial.id:
            return trial
        settings = dict(trial.config.flat())
        own = json.dumps([model.id, *(settings[key] for key in INFERENCE)])
        own = hashlib.sha256(own.encode()).hexdigest()[:16]
        return replace(trial, id=own, folder=model.folder / "evaluations" / own, model=model)

    def of_config(self, config: Config, seed: int) -> Trial:
        """The trial of a whole configuration with another seed."""
        return self._trained(config.model_copy(update={"seed": seed}), self.shown())

    def shown(self) -> list[str]:
        """The keys that name the study's trials."""
        if isinstance(self.study, SearchStudy):
            return self._shown_of_search(self.study)
        flats = [dict(self.config(setting, 1).flat()) for setting in self.study.settings(self.profile)]
        # The paper's own keys; those that stand for them on a laptop come in where they are needed.
        return distinguishing_keys(self.study.varied(), flats)

    def _shown_of_search(self, study: SearchStudy) -> list[str]:
        keys: list[str] = []
        for key, space in study.space.items():
            flats = [dict(self.config({key: value}, 1).flat()) for value in space.choices]
            keys.extend(distinguishing_keys([key], flats) if flats else [key])
        return list(dict.fromkeys(keys))

    def _inference_of_training(self) -> Changes:
        """The recipe's settings of inference where the study's base has its own.

        A trained detector does not depend on them, so another study may have trained it already.
        """
        named = [key for key in self.on_profile(self.study.base) if key in INFERENCE]
        if not named:
            return {}
        usual = dict(Config().with_changes(recipe(self.profile, self.base.data.source)).flat())
        return {key: usual[key] for key in named}

    def _trained(self, config: Config, shown: Sequence[str]) -> Trial:
        settings = dict(config.flat())
        varied = {key: settings[key] for key in shown}
        data = self.prepare(config.data)
        trial_id = _identity(config, data.fingerprint)
        name = trial_name(varied, config.seed)
        return Trial(trial_id, name, config, varied, data, self.output / "trials" / trial_id)


def expand(plan: Plan, seeds: int | None = None) -> list[Trial]:
    """All trials of a study that lists its settings: each with each of its seeds.

    Args:
        plan: the study.
        seeds: of each setting; none takes the study's own number.

    Raises:
        ConfigError: a setting is not allowed; the message names it.
    """
    assert not isinstance(plan.study, SearchStudy)
    settings = plan.study.settings(plan.profile)
    for setting in settings:
        with _naming(plan, f"setting {setting}"):
            plan.config(setting, plan.base.seed)
    shown = plan.shown()
    trials = []
    for setting in settings:
        first = setting.get("seed", plan.base.seed)
        for replicate in range(seeds or plan.study.replicates):
            with _naming(plan, f"setting {setting}"):
                trials.append(plan.trial(setting, first + replicate, shown))
    found = list({trial.id: trial for trial in trials}.values())
    if len(found) < len(trials):
        logger.warning(
            "%s: %d of %d trials are left out: what is fixed makes them equal to others",
            plan.name,
            len(trials) - len(found),
            len(trials),
        )
    return found


def models(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that train what others of these evaluate, and are not among these themselves."""
    own = {trial.id for trial in trials}
    found = {trial.model.id: trial.model for trial in trials if trial.model is not None}
    return [model for model in found.values() if model.id not in own]


def check_search(plan: Plan) -> Trial:
    """Try the space's ends and first points, so that a bad one is told before anything runs.

    Returns:
        A trial of the space, for its data.

    Raises:
        ConfigError: a value is not allowed; the message names it.
    """
    return search_points(plan)[0]


def search_points(plan: Plan) -> list[Trial]:
    """A trial inside a search's space, and those at its ends.

    Raises:
        ConfigError: a value is not allowed; the message names it.
    """
    study = plan.study
    assert isinstance(study, SearchStudy)
    middle = study.first[0] if study.first else {key: space.ends()[0] for key, space in study.space.items()}
    points = [middle, *study.first, *({**middle, k: e} for k, s in study.space.items() for e in s.ends())]
    trials = []
    for point in points:
        with _naming(plan, f"point {point}"):
            trials.append(plan.trial(point, plan.base.seed))
    if study.confirm is not None:
        with _naming(plan, f"confirm.against {study.confirm.against}"):
            plan.trial(study.confirm.against, plan.base.seed)
    return trials


@contextmanager
def _naming(plan: Plan, what: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{plan.name}, {what}: {error}") from None


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
