"""How defaults, recipe, study, laptop substitutes, presets and ``--set`` become one configuration, once.

From weakest to strongest: the defaults of ``Config``; the recipe of profile and data; the study's ``base``; a
setting of the study; ``--set``. The study's changes are replaced by their laptop substitutes, multiples are
resolved against the recipe, and names of presets are expanded, each exactly once and in this order.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from drcnn import presets
from drcnn.assignments import parse_assignments
from drcnn.config import Config
from drcnn.recipes import recipe
from studies.definition.errors import StudyError
from studies.definition.settings import Changes, resolve_multiples
from studies.definition.study import INFERENCE, Study

__all__ = ["Overrides", "check_assignments"]

logger = logging.getLogger(__name__)

# Settings whose values may be names that bring others.
NAMED = ("detector.variant", "training.schedule")


@dataclass(frozen=True)
class Overrides:
    """All that decides a study's configurations, but for the setting itself.

    Attributes:
        study: whose settings and laptop substitutes they are.
        profile: ``laptop`` or ``paper``.
        base: the configuration under every trial: recipe, the study's base, and ``fixed``.
        fixed: what the command line fixes, over whatever the study's settings and presets bring.
    """

    study: Study
    profile: str
    base: Config
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def resolve(cls, study: Study, profile: str, source: str, fixed: Changes) -> Self:
        """Make the base configuration of a study.

        Raises:
            ConfigError: a value is not allowed.
        """
        fixed = _absolute_weights(fixed)
        # The recipe first: a named variant brings settings that its recipe must not undo.
        defaults = Config().with_changes(recipe(profile, source))
        own = resolve_multiples(study.substituted(study.base, profile), defaults)
        return cls(study, profile, defaults.with_changes(_absolute_weights({**own, **fixed})), fixed)

    def changes(self, setting: Mapping[str, Any]) -> Changes:
        """What a setting of the study changes on this profile, in numbers."""
        return resolve_multiples(self.study.substituted(setting, self.profile), self.base)

    def config(self, setting: Mapping[str, Any], seed: int) -> Config:
        """The whole configuration of one setting.

        Raises:
            ConfigError: a value is not allowed.
        """
        return self._config(self.changes(setting), seed)

    def training_config(self, setting: Mapping[str, Any], seed: int) -> Config:
        """The configuration that trains the detector which a setting of an evaluate study tries.

        Its settings of inference are the recipe's. A trained detector does not depend on them, so this is
        the very trial that another study may have trained already.
        """
        named = [key for key in self.changes(self.study.base) if key in INFERENCE]
        defaults = dict(Config().with_changes(recipe(self.profile, self.base.data.source)).flat())
        usual = {key: defaults[key] for key in named}
        own = {key: value for key, value in self.changes(setting).items() if key not in INFERENCE}
        return self._config({**usual, **own}, seed)

    def _config(self, own: Changes, seed: int) -> Config:
        # The names themselves are in the base: again here, they would undo the study's own settings. And
        # weights given with --set fit no substitute backbone, which starts from scratch.
        kept = {*NAMED, *({"detector.weights"} & own.keys())}
        fixed = {key: value for key, value in self.fixed.items() if key not in kept}
        return self.base.with_changes({**presets.expand(own), **fixed, "seed": seed})


def check_assignments(assignments: Sequence[str], study: Study, profile: str) -> Changes:
    """Read the ``KEY=VALUE`` pairs of ``--set``.

    Raises:
        ConfigError: a pair cannot be read.
        StudyError: the study varies the key itself, or an option of its own sets it.
    """
    changes = parse_assignments(list(assignments))
    varied, varied_here = study.varied(), study.varied(profile)
    for key in changes:
        if key == "detector.weights" and key in varied_here and key not in varied:
            # Without this a study of backbones could not use a file at all; see Overrides._config.
            logger.warning("--set %s: not used for backbones that start from scratch on a laptop", key)
        elif key in varied or key in varied_here:
            where = "" if key in varied else " on a laptop"
            raise StudyError(
                f"--set {key}: the study varies this itself{where}; write a study file of your own to fix it"
            )
        if key in {"data.source", "data.on_bad_data"}:
            option = "data" if key == "data.source" else "on-bad-data"
            raise StudyError(f"--set {key}: use --{option} instead")
    return changes


def _absolute_weights(changes: Changes) -> Changes:
    """With the whole path of a weights file: workers do not run where the command was typed."""
    weights = changes.get("detector.weights", "none")
    if isinstance(weights, str) and weights not in {"imagenet", "digits", "none"}:
        return {**changes, "detector.weights": str(Path(weights).resolve())}
    return changes
