"""The configuration of one trial: how it is changed, checked as a whole, written and read.

Its settings and their defaults are in ``drcnn.config_sections``. ``drcnn.recipes`` changes them for smaller
machines and other data, a study changes them per trial, and ``--set`` has the last word.

    >>> config = Config().with_changes({"detector.nms_reg": 0.7, "training.epochs": 16})
    >>> config.detector.nms_reg
    0.7
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError

from drcnn.config_errors import ConfigError, explain, unknown_key
from drcnn.config_sections import DataConfig, DetectorConfig, EvaluationConfig, Section, TrainingConfig
from drcnn.plain_yaml import YamlError, read_yaml
from drcnn.presets import expand

__all__ = ["Config", "ConfigError", "DataConfig", "DetectorConfig", "EvaluationConfig", "TrainingConfig"]


class Config(Section):
    """The complete configuration of a trial: with the data that it names, it rebuilds the trial exactly."""

    detector: DetectorConfig = DetectorConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: int = Field(
        1, ge=0, lt=2**63, description="of all random choices: weights, order, flips, sampled RoIs"
    )

    def with_changes(self, changes: Mapping[str, Any]) -> Config:
        """Return a copy with dotted keys replaced, checked as a whole.

        Args:
            changes: for example ``{"detector.nms_reg": 0.85}``; names of ``drcnn.presets`` stand for several.

        Raises:
            ConfigError: a key does not exist (the nearest one is named) or a value is not allowed.
        """
        return Config.from_tree(self.changed_tree(changes))

    def changed_tree(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return nested mappings with dotted keys replaced; the values are not checked yet.

        Raises:
            ConfigError: a key does not exist.
        """
        tree = self.model_dump()
        settings = dict(self.flat())
        for key, value in expand(changes).items():
            if key not in settings:
                raise ConfigError(unknown_key(key, settings))
            *groups, leaf = key.split(".")
            node = tree
            for group in groups:
                node = node[group]
            node[leaf] = value
        return tree

    def flat(self) -> Iterator[tuple[str, Any]]:
        """Yield every setting as (dotted key, value)."""
        for name, value in self:
            if isinstance(value, BaseModel):
                yield from ((f"{name}.{leaf}", setting) for leaf, setting in value)
            else:
                yield name, value

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Config:
        """Build from nested mappings, as ``model_dump`` gives them.

        Raises:
            ConfigError: with the dotted key, the value, and what was expected.
        """
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise ConfigError(explain(error.errors()[0])) from None

    def to_yaml(self) -> str:
        """Return the whole tree as YAML that ``from_yaml`` reads back unchanged."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str) -> Config:
        """Read what ``to_yaml`` wrote (safe loader).

        Raises:
            ConfigError: the text is no mapping, or a key or value in it is not allowed.
        """
        try:
            tree = read_yaml(text)
        except YamlError as error:
            raise ConfigError(f"a configuration that cannot be read: {error}") from None
        if not isinstance(tree, dict):
            raise ConfigError(f"a configuration is a mapping of keys to values, got {type(tree).__name__}")
        return cls.from_tree(tree)
