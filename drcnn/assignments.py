"""Single settings from outside: ``KEY=VALUE`` texts of the command line, and the check of one value."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from drcnn.config import Config
from drcnn.config_errors import ConfigError, explain, unknown_key
from drcnn.plain_text import shown
from drcnn.plain_yaml import YamlError, read_yaml

__all__ = ["check_setting", "parse_assignments"]


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` strings of the command line; values are YAML scalars or lists.

    >>> parse_assignments(["detector.nms_reg=0.85", "training.milestones=[6, 8]"])
    {'detector.nms_reg': 0.85, 'training.milestones': [6, 8]}

    Raises:
        ConfigError: a string has no ``=`` or its value is not YAML; or a key does not exist.
    """
    defaults = dict(Config().flat())
    changes: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(
                f"--set {shown(assignment)}: expected KEY=VALUE, for example detector.nms_reg=0.85"
            )
        if key not in defaults:
            raise ConfigError(unknown_key(key, defaults))
        try:
            value = read_yaml(text)
        except YamlError as error:
            raise ConfigError(f"--set {key}={shown(text)}: is not a YAML value: {error}") from None
        # YAML 1.1 reads "1e-4" as text, and "none" is no null.
        if isinstance(value, str):
            value = _number_or_text(value)
        if value == "none" and not isinstance(defaults[key], str):
            value = None
        changes[key] = value
    return changes


def check_setting(key: str, value: Any) -> None:
    """Refuse a value that a setting cannot have, whatever the other settings are.

    Raises:
        ConfigError: the key does not exist, or the value is not allowed.
    """
    try:
        Config.model_validate(Config().changed_tree({key: value}))
    except ValidationError as error:
        for details in error.errors():
            # Settings that do not go together are reported at their group, not at the setting.
            if ".".join(str(part) for part in details["loc"]).startswith(key):
                raise ConfigError(explain(details)) from None


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
