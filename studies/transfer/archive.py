"""``--fresh``: moves what earlier launches of a study left out of the way, here and in the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from studies.definition.plan import Plan, Trial
from studies.record.study_trials import TRIALS, ids_in, note_trials, trials_of
from studies.transfer.trial_store import TrialStore

__all__ = ["archive_study", "keep_list"]

logger = logging.getLogger(__name__)

# In a study's folder: what its trials' folders do not hold.
RECORDS = ("optuna.db", "results.parquet", "looks.json")


def archive_study(plan: Plan, trials: Sequence[Trial], store: TrialStore) -> str:
    """Move a study's trials to ``OUTPUT/trials/old-<time>`` and its records to ``OUTPUT/<study>/old-<time>``.

    Trials that other studies of OUTPUT, or of the store, use too stay where they are.

    Args:
        plan: the study.
        trials: all of it.
        store: of the trials' folders.

    Returns:
        A line about what stays; empty if nothing does.
    """
    stamp = f"old-{time.strftime('%Y%m%d-%H%M%S')}"
    destination = plan.output / "trials" / stamp
    users = _users(plan.output, store)
    users.pop(plan.name, None)
    shared = [trial for trial in trials if any(trial.id in ids for ids in users.values())]
    own = [trial.folder for trial in trials if trial not in shared]
    _move(own, destination)
    for folder in own:
        store.archive(folder, destination / folder.name)
    store.archive(plan.folder, plan.folder / stamp)
    _move([plan.folder / name for name in RECORDS], plan.folder / stamp)
    if not shared:
        return ""
    ids = {trial.id for trial in shared}
    names = ", ".join(name for name, used in sorted(users.items()) if ids & used)
    return (
        f"--fresh: {len(shared)} of {len(trials)} trials stay as they are, since {names} has them too; give "
        "another --output to run them anew"
    )


def _users(output: Path, store: TrialStore) -> dict[str, set[str]]:
    """The trials of each study of an output folder and its store."""
    users = {path.parent.name: trials_of(path.parent) for path in output.glob(f"*/{TRIALS}")}
    for name, text in store.read_of_studies(TRIALS).items():
        users[name] = users.get(name, set()) | ids_in(text)
    return users


def keep_list(plan: Plan, trials: Iterable[Trial], store: TrialStore) -> None:
    """Remember which trials a study uses, for other studies' ``--fresh``."""
    note_trials(plan.folder, trials)
    try:
        store.upload(plan.folder, [TRIALS])
    except OSError as error:
        logger.warning("--storage: %s's list of trials cannot be uploaded: %s", plan.name, error)


def _move(paths: Sequence[Path], folder: Path) -> None:
    for path in paths:
        if path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            path.rename(folder / path.name)
