"""A plan: a study with all that the command line fixed. It makes the study's trials.

To name trials takes no I/O; a trial's identity needs the content of its data and weights (``Inputs``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from drcnn.config import Config, ConfigError
from drcnn.identity import EVALUATION
from studies.definition.labels import distinguishing_keys, trial_name
from studies.definition.metrics import MARGIN
from studies.definition.overrides import Overrides
from studies.definition.study import SearchStudy, Study
from studies.definition.trial import Inputs, Trial, evaluation_id, training_id

__all__ = ["Plan", "Trial", "expand", "search_points", "trained_models"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A study with all that the command line fixed; makes its trials.

    Attributes:
        name: of the study.
        overrides: what the study varies, and all that is fixed under it.
        output: absolute folder of all studies.
        inputs: the data and weights that trials read.
        margin: AP points within which two settings are equivalent.
        price: dollars a GPU hour, for the report; none if nobody said.
    """

    name: str
    overrides: Overrides
    output: Path
    inputs: Inputs
    margin: float = MARGIN
    price: float | None = None

    @property
    def study(self) -> Study:
        """What is varied."""
        return self.overrides.study

    @property
    def profile(self) -> str:
        """``laptop`` or ``paper``."""
        return self.overrides.profile

    @property
    def base(self) -> Config:
        """The configuration under every trial."""
        return self.overrides.base

    @property
    def folder(self) -> Path:
        """Where the study keeps what is not a trial's."""
        return self.output / self.name

    @cached_property
    def naming_keys(self) -> list[str]:
        """The keys that name the study's trials."""
        study = self.study
        if isinstance(study, SearchStudy):
            keys: list[str] = []
            for key, space in study.space.items():
                configs = [self.overrides.config({key: value}, 1) for value in space.choices]
                keys += distinguishing_keys([key], [dict(config.flat()) for config in configs])
            return list(dict.fromkeys(keys))
        configs = [self.overrides.config(setting, 1) for setting in study.settings()]
        # The paper's own keys; those of their laptop substitutes come in where they are needed.
        return distinguishing_keys(study.varied(), [dict(config.flat()) for config in configs])

    def trial(self, setting: Mapping[str, Any], seed: int) -> Trial:
        """The trial of one setting and seed, with the trial that trains its detector where that is another.

        Raises:
            ConfigError: a value is not allowed, or a weights file does not exist.
        """
        trial = self.trial_of_config(self.overrides.config(setting, seed))
        if isinstance(self.study, SearchStudy):
            return trial
        keys = [key for key in self.naming_keys if key not in EVALUATION]
        model = self._training(self.overrides.training_config(setting, seed), keys)
        if model.id == trial.id:
            return trial
        own_id = evaluation_id(model.id, trial.config)
        folder = model.folder / "evaluations" / own_id
        return replace(trial, id=own_id, folder=folder, model=model)

    def trial_of_config(self, config: Config) -> Trial:
        """The trial of a whole configuration."""
        return self._training(config, self.naming_keys)

    def _training(self, config: Config, keys: Sequence[str]) -> Trial:
        settings = dict(config.flat())
        varied = {key: settings[key] for key in keys}
        own_id = training_id(config, self.inputs)
        name = trial_name(varied, config.seed)
        data = self.inputs.data(config.data)
        return Trial(own_id, name, config, varied, data, self.output / "trials" / own_id)


def expand(plan: Plan, seeds: int | None = None) -> list[Trial]:
    """All trials of a study that lists its settings, in the order they run: seed after seed.

    Every setting is trained with its first seed before any has its second, so a study that is stopped early
    still compares settings with about as many seeds each.

    Args:
        plan: the study.
        seeds: of each setting; none takes the study's own number.

    Raises:
        ConfigError: a setting is not allowed; the message names it.
    """
    assert not isinstance(plan.study, SearchStudy)
    settings = plan.study.settings()
    for setting in settings:
        with _naming(plan, f"setting {setting}"):
            plan.overrides.config(setting, plan.base.seed)
    trials = []
    for replicate in range(seeds or plan.study.replicates.on(plan.profile)):
        for setting in settings:
            with _naming(plan, f"setting {setting}"):
                trials.append(plan.trial(setting, setting.get("seed", plan.base.seed) + replicate))
    distinct = list({trial.id: trial for trial in trials}.values())
    if len(distinct) < len(trials):
        logger.warning(
            "%s: %d of %d trials are left out: --set or laptop substitutes make them equal to others",
            plan.name,
            len(trials) - len(distinct),
            len(trials),
        )
    return distinct


def trained_models(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that train the detectors which these evaluate, and are not among these themselves."""
    own = {trial.id for trial in trials}
    models = {trial.model.id: trial.model for trial in trials if trial.model is not None}
    return [model for model in models.values() if model.id not in own]


def search_points(plan: Plan) -> list[Trial]:
    """A trial inside a search's space, and those at its ends: a bad one is found before anything runs.

    Raises:
        ConfigError: a value is not allowed; the message names it.
    """
    study = plan.study
    assert isinstance(study, SearchStudy)
    trials = []
    for point in study.points():
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
