"""How defaults, recipe, study, laptop substitutes, presets and ``--set`` become one configuration, once.

From weakest to strongest: the defaults of ``Config``; the recipe of profile and data, with what the backbone
starts from; the study's ``base``; a setting of the study; ``--set``; ``--weights``. The study's changes are
replaced by their laptop substitutes, multiples are resolved against the recipe, and names of presets are
expanded, each exactly once and in this order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from drcnn import presets
from drcnn.assignments import check_setting, parse_assignments
from drcnn.backbone_weights import WEIGHT_NAMES, are_offered
from drcnn.config import Config, ConfigError
from drcnn.identity import EVALUATION
from drcnn.recipes import configured, recipe, start_of
from studies.definition.errors import StudyError
from studies.definition.labels import label
from studies.definition.settings import Changes, resolve_multiples
from studies.definition.study import SearchStudy, Study

__all__ = ["Overrides", "check_assignments", "check_weights", "parse_weights"]

# Settings whose values may be names that bring others.
NAMED = ("detector.variant", "training.schedule", "training.init")


class Start(NamedTuple):
    """A setting of a study: its label and backbone, and the weights or whole detector that it starts from."""

    setting: str
    backbone: str
    width: float
    weights: str
    init: str


@dataclass(frozen=True)
class Overrides:
    """All that decides a study's configurations, but for the setting itself.

    Attributes:
        study: whose settings and laptop substitutes they are.
        profile: ``laptop`` or ``paper``.
        base: the configuration under every trial: recipe, the study's base, and ``fixed``.
        fixed: what the command line fixes, over whatever the study's settings and presets bring.
        weights: files that the command line gives for backbones, by the backbone's name.
    """

    study: Study
    profile: str
    base: Config
    fixed: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def resolve(
        cls,
        study: Study,
        profile: str,
        source: str,
        fixed: Changes,
        weights: Mapping[str, str] | None = None,
    ) -> Self:
        """Make the base configuration of a study.

        Raises:
            ConfigError: a value is not allowed.
        """
        fixed = _absolute_files(fixed)
        chooses = isinstance(study, SearchStudy)
        defaults = Config().with_changes(recipe(profile, source, chooses=chooses))
        own = resolve_multiples(study.substituted(study.base, profile), defaults)
        # Only pruning looks at val after each epoch.
        prunes = isinstance(study, SearchStudy) and study.prune is not None
        own = {"evaluation.every": 1 if prunes else None, **own}
        base = configured(profile, source, _absolute_files({**own, **fixed}), chooses=chooses)
        return cls(study, profile, base, fixed, weights or {})

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
        """The configuration that trains the detector which a setting tries.

        Its settings of inference and evaluation are the recipe's. A trained detector does not depend on them,
        so this is the very trial that another study may have trained already.
        """
        defaults = dict(Config().with_changes(recipe(self.profile, self.base.data.source)).flat())
        usual = {key: defaults[key] for key in EVALUATION}
        own = {key: value for key, value in self.changes(setting).items() if key not in EVALUATION}
        config = self._config(own, seed)
        return config.with_changes(usual)

    def _config(self, own: Changes, seed: int) -> Config:
        return self.base.with_changes({**self._values(own), "seed": seed})

    def _values(self, own: Changes) -> Changes:
        """All that is changed over the base, not yet checked as a whole."""
        # The names themselves are in the base: again here, they would undo the study's own settings.
        fixed = {key: value for key, value in self.fixed.items() if key not in NAMED}
        explicit = _absolute_files({**presets.expand(own), **fixed})
        backbone, width = (
            explicit.get(f"detector.{name}", getattr(self.base.detector, name))
            for name in ("backbone", "backbone_width")
        )
        # A whole detector brings its backbone.
        is_whole = explicit.get("training.init", self.base.training.init) != "none"
        start = {} if is_whole else start_of(self.profile, self.base.data.source, backbone, width)
        in_base = presets.expand(self.changes(self.study.base))
        given = {"detector.weights": self.weights[backbone]} if backbone in self.weights else {}
        return {key: value for key, value in start.items() if key not in in_base} | explicit | given

    def starts(self) -> Iterator[Start]:
        """What the backbone of each setting starts from; of a search, of points that stand for its space."""
        study = self.study
        settings = study.settings() if not isinstance(study, SearchStudy) else study.points()
        if isinstance(study, SearchStudy) and study.confirm is not None:
            settings.append(dict(study.confirm.against))
        for setting in settings:
            values = dict(self.base.flat()) | self._values(self.changes(setting))
            init = values["training.init"]
            # A whole detector brings its backbone.
            weights = values["detector.weights"] if init == "none" else "none"
            backbone, width = values["detector.backbone"], values["detector.backbone_width"]
            yield Start(label(setting), backbone, width, weights, init)


def check_assignments(assignments: Sequence[str], study: Study, profile: str) -> Changes:
    """Read the ``KEY=VALUE`` pairs of ``--set``.

    Raises:
        ConfigError: a pair cannot be read.
        StudyError: the study varies the key itself, or an option of its own sets it.
    """
    changes = parse_assignments(list(assignments))
    varied, varied_here = study.varied(), study.varied(profile)
    for key in changes:
        if key in varied or key in varied_here:
            where = "" if key in varied else " on a laptop"
            raise StudyError(
                f"--set {key}: the study varies this itself{where}; write a study file of your own to fix it"
            )
        if key in {"data.source", "data.on_bad_data"}:
            option = "data" if key == "data.source" else "on-bad-data"
            raise StudyError(f"--set {key}: use --{option} instead")
    return changes


def parse_weights(pairs: Sequence[str], study: Study) -> dict[str, str]:
    """Read the ``BACKBONE=FILE`` pairs of ``--weights``: the whole path of the file for each backbone.

    Raises:
        StudyError: a pair cannot be read, names no backbone, or the study varies the weights itself.
    """
    files: dict[str, str] = {}
    for pair in pairs:
        backbone, equals, file = pair.partition("=")
        if not equals or not file:
            raise StudyError(f"--weights {pair}: expected BACKBONE=FILE, as resnext101_32x4d=weights.pth")
        try:
            check_setting("detector.backbone", backbone)
        except ConfigError as error:
            raise StudyError(f"--weights {pair}: {error}") from None
        if "detector.weights" in study.varied():
            raise StudyError(f"--weights {pair}: the study varies detector.weights itself; leave it out")
        files[backbone] = str(Path(file).resolve())
    return files


def check_weights(name: str, overrides: Overrides) -> None:
    """Ask for the weights that a study lacks, before anything runs.

    Args:
        name: of the study.
        overrides: its configurations.

    Raises:
        StudyError: a backbone has no weights, a file does not exist or is for no backbone of the study, or
            several are to start from one.
    """
    starts = list(overrides.starts())
    unused = [
        backbone for backbone in overrides.weights if all(start.backbone != backbone for start in starts)
    ]
    if unused:
        raise StudyError(
            f"--weights {unused[0]}: {name} has no such backbone on this profile; its backbones are "
            + ", ".join(dict.fromkeys(start.backbone for start in starts))
        )
    _check_files(name, starts)
    lacking: dict[str, list[str]] = {}
    for start in starts:
        if not are_offered(start.weights, start.backbone, start.width):
            lacking.setdefault(start.backbone, []).append(start.setting)
    if lacking:
        settings = "; ".join(dict.fromkeys(setting for each in lacking.values() for setting in each))
        options = " ".join(f"--weights {backbone}=FILE" for backbone in lacking)
        raise StudyError(
            f"{name}: torchvision offers no ImageNet weights for {' and '.join(lacking)} (needed by: "
            f"{settings}); give {options} with torchvision's names, as OpenMMLab's resnext101_32x4d has them"
        )


def _check_files(name: str, starts: Sequence[Start]) -> None:
    """Refuse a file that does not exist, or that several backbones or widths would start from."""
    for file in dict.fromkeys(start.init for start in starts if start.init not in {"none", "coco"}):
        if not Path(file).is_file():
            raise StudyError(f"training.init = {file!r}: no such file; expected a checkpoint, or 'coco'")
    for file in dict.fromkeys(start.weights for start in starts if start.weights not in WEIGHT_NAMES):
        if not Path(file).is_file():
            raise StudyError(f"detector.weights = {file!r}: no such file; expected a backbone's weights")
        fitting = {(start.backbone, start.width) for start in starts if start.weights == file}
        if len(fitting) > 1:
            found = " and ".join(f"{backbone} of width {width:g}" for backbone, width in sorted(fitting))
            raise StudyError(
                f"{name}: {file} fits one backbone, but the study starts {found} from it; "
                "use --weights BACKBONE=FILE for each, or set detector.weights in a study file of your own"
            )


def _absolute_files(changes: Changes) -> Changes:
    """With the whole paths of files to start from: workers do not run where the command was typed."""
    absolute = dict(changes)
    for key, names in (("detector.weights", WEIGHT_NAMES), ("training.init", ("none", "coco"))):
        file = changes.get(key, "none")
        if isinstance(file, str) and file not in names:
            absolute[key] = str(Path(file).resolve())
    return absolute
