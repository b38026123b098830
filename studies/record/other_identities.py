"""Finds trials of the same settings under another identity: their figures must not be taken for these.

A trial's id changes with the content of its data and weights and with the version of the numerics
(``drcnn.identity``). What was trained before such a change stays where it is, and is not used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from drcnn.config import Config, ConfigError
from drcnn.identity import effective_settings
from studies.definition.trial import Trial

__all__ = ["find_other_identities", "note_on_other_identities"]

MAX_NAMED = 3  # folders


def note_on_other_identities(output: Path, trials: Sequence[Trial]) -> str:
    """Say that there are such trials and why they are not used; empty if there are none."""
    folders = find_other_identities(output, trials)
    if not folders:
        return ""
    names = ", ".join(folder.name for folder in folders[:MAX_NAMED])
    return (
        f"{len(folders)} trials of the same settings in {output / 'trials'} are not used: they were made of "
        "other data or weights, or before a change of the numerics "
        f"({names}{', …' if len(folders) > MAX_NAMED else ''})"
    )


def find_other_identities(output: Path, trials: Sequence[Trial]) -> list[Path]:
    """The folders of trials with the settings of one of ``trials``, but another id."""
    trained = [trial for trial in trials if not trial.is_evaluation]
    own_folders = {trial.folder.name for trial in trained}
    wanted = {_settings(trial.config) for trial in trained}
    found = []
    for path in sorted(output.glob("trials/*/config.yaml")):
        if path.parent.name in own_folders:
            continue
        try:
            config = Config.from_yaml(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ConfigError):
            continue  # of a version with other settings
        if _settings(config) in wanted:
            found.append(path.parent)
    return found


def _settings(config: Config) -> str:
    return json.dumps(effective_settings(config), sort_keys=True)
