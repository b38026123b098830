"""Moves trial folders: a node downloads one, works in it and uploads it; the driver collects it.

A trial's folder lies at the same path on every node. Where all nodes share OUTPUT nothing is copied; with an
object store the store is the truth (see ``store``).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from drcnn.config import Config, ConfigError
from drcnn.data.annotations import Annotations
from drcnn.engine.detections_file import DETECTIONS, has_detections
from drcnn.engine.record import OUTCOME_FILES, read_record, reopen, write_failed
from drcnn.files import DiskFullError, put_aside, write_text
from drcnn.identity import effective_settings
from drcnn.locks import LOCK, file_lock
from drcnn.trained_model import CHECKPOINT
from studies.definition.plan import Trial
from studies.record.provenance import installed_versions
from studies.transfer.datasets import RemoteFolder, download_datasets
from studies.transfer.node_disk import drop_idle_weights, drop_weights
from studies.transfer.store import NOTES
from studies.transfer.trial_store import TrialStore

if TYPE_CHECKING:
    from drcnn.data.prepare import PreparedData

__all__ = ["KILL_NOTE", "TrialFolders", "mended", "unreadable_image"]

# Left in a trial's folder by what kills its process: why, in one line, and stacks.
KILL_NOTE = f"{NOTES}{{attempt}}-{{rank}}.txt"


@dataclass(frozen=True)
class TrialFolders:
    """Where a node gets a trial's files and data from; cheap to send to other processes.

    Attributes:
        store: of trial folders and prepared tables.
        datasets: data to download from an object store.
        versions: the driver's, which every node must have: also those that join while the study runs.
    """

    store: TrialStore
    datasets: tuple[RemoteFolder, ...] = ()
    versions: Mapping[str, str] = field(default_factory=installed_versions)

    @contextmanager
    def locked(self, trial: Trial) -> Iterator[None]:
        """Wait until nobody else works in the trial's folder, here or in the store, and keep others out."""
        trial.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(trial.folder / LOCK), self.store.claim(trial.folder, trial.name, waits=True):
            yield

    def prepare_data(self, trial: Trial) -> None:
        """Bring here the data and the prepared tables of a trial.

        Raises:
            OSError: something cannot be had here; the message names this node. Another may be better.
        """
        node = f"node {socket.gethostname()}"
        for name, version in installed_versions().items():
            if version != self.versions[name]:
                raise OSError(f"{node} has {name} {version}, but the driver {self.versions[name]}")
        download_datasets(self.datasets)
        for table in _tables(trial):
            try:
                self.store.download_table(table)
            except DiskFullError:
                raise
            except OSError as error:
                raise OSError(f"{node} cannot get {table}: {error}") from None
            if not table.exists():
                raise OSError(
                    f"{node} has no {table}: --output must be a folder that all nodes share, unless "
                    "--storage is given"
                )
        fault = unreadable_image(trial.data)
        if fault is not None:
            raise OSError(f"{node} {fault}")

    def prepare_node(self, trial: Trial) -> None:
        """Bring here all that a trial needs: data, prepared tables, its model's folder and its own.

        Raises:
            OSError: as ``prepare_data`` does.
        """
        self.prepare_data(trial)
        trained = (trial.model or trial).folder
        drop_idle_weights(self.store, trained.parent, {trained})
        if trial.model is not None:
            self.store.download(trial.model.folder)
        # What an attempt was killed for, here: downloading deletes what is not stored.
        notes = trial.folder.glob(KILL_NOTE.format(attempt="*", rank="*"))
        self.store.upload(trial.folder, [note.name for note in notes])
        self.store.download(trial.folder)

    def upload(self, trial: Trial) -> None:
        """Upload what has changed in a trial's folder: after each epoch, before that epoch is reported."""
        self.store.upload(trial.folder)

    def drop_weights(self, trial: Trial) -> None:
        """Delete a trial's weights on this node once the store has them; it gives them back when asked."""
        drop_weights(self.store, trial.folder)

    def forget_kills(self, trial: Trial) -> None:
        """Delete what tells why processes were killed in earlier launches, here and in the store."""
        pattern = KILL_NOTE.format(attempt="*", rank="*")
        for note in trial.folder.glob(pattern):
            if note.is_dir():
                put_aside(note)
            else:
                note.unlink(missing_ok=True)
        self.store.delete(trial.folder, [pattern])

    def fail(self, trial: Trial, message: str, trace: str = "") -> None:
        """Record that a trial failed for good, here and in the store."""
        write_failed(trial.folder, message, trace)
        self.store.upload(trial.folder, ["error.json"])

    def offer(self, trials: Sequence[Trial]) -> None:
        """Upload the trials' prepared tables, for every node; called by the driver."""
        for table in {path for trial in trials for path in _tables(trial)}:
            self.store.upload_table(table)

    def collect(self, trial: Trial) -> None:
        """Download what a node has left of a trial, but for its weights; called by the driver."""
        self.store.download(trial.folder, weights=False)

    def collect_weights(self, trial: Trial) -> None:
        """Download the detector of a trial, to publish it; called by the driver."""
        self.store.download((trial.model or trial).folder)

    def collect_ended(self, trials: list[Trial], ended: set[Path]) -> list[Trial]:
        """Collect those trials that ended on another machine; others are downloaded where they run."""
        for trial in trials:
            if trial.folder in ended:
                self.collect(trial)
        return trials

    def upload_outcome(self, trial: Trial) -> None:
        """Upload how a trial ended where only the driver knows it, as of one that was pruned."""
        self.store.upload(trial.folder, OUTCOME_FILES)

    def reopen(self, trial: Trial) -> None:
        """Forget that a trial failed or was pruned, here and in the store, so that it goes on."""
        reopen(trial.folder)
        self.store.delete(trial.folder, OUTCOME_FILES)


def mended(trials: Sequence[Trial], folders: TrialFolders) -> list[str]:
    """See to it that damaged files of trials that were begun are made again; called by the driver.

    Settings are written anew. A finished trial whose detections are damaged or missing is opened again, as
    long as its detector is here or in the store: it then detects anew. What else may be damaged is noticed
    where it is read.

    Returns:
        A line about each.
    """
    lines = []
    for trial in trials:
        record = read_record(trial.folder)
        if not record.is_finished and not record.epoch:
            continue
        settings = trial.folder / "config.yaml"
        if not _holds(settings, trial):
            lines.append(f"{settings} is damaged or missing: written anew")
            write_text(settings, trial.config.to_yaml())
            folders.store.upload(trial.folder, [settings.name])
        if record.is_finished and not has_detections(trial.folder):
            checkpoint = (trial.model or trial).folder / CHECKPOINT
            if checkpoint.is_file() or folders.store.has_copy(checkpoint):
                lines.append(f"{trial.folder / DETECTIONS} is damaged or missing: detected anew")
                (trial.folder / "result.json").unlink()
                folders.store.delete(trial.folder, OUTCOME_FILES)
    return lines


def _holds(path: Path, trial: Trial) -> bool:
    """Whether a file holds the settings of a trial."""
    try:
        config = Config.from_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError):
        return False
    return effective_settings(config) == effective_settings(trial.config)


def unreadable_image(data: PreparedData) -> str | None:
    """What is wrong here with the first or the last image of a split; none if they can be read."""
    for path in data.tables.values():
        table = Annotations.load(path)
        for row in (0, len(table) - 1):
            source = table.source(row)
            if isinstance(source, str) and not os.access(source, os.R_OK):
                return (
                    f"cannot read {source}; put the data at the same path on every node, on a folder that "
                    "all share, or in an object store (--data voc:s3://BUCKET/FOLDER)"
                )
    return None


def _tables(trial: Trial) -> list[Path]:
    return list(map(Path, trial.data.tables.values()))
