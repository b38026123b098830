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

from filelock import FileLock

from drcnn.data.annotations import Annotations
from drcnn.engine.record import OUTCOME_FILES, reopen, write_failed
from studies.definition.plan import Trial
from studies.record.provenance import installed_versions
from studies.transfer.datasets import RemoteFolder, download_datasets
from studies.transfer.store import TrialStore

if TYPE_CHECKING:
    from drcnn.data.prepare import PreparedData

__all__ = ["TrialFolders", "unreadable_image"]


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
        with FileLock(trial.folder / ".lock"), self.store.claim(trial.folder, trial.name, waits=True):
            yield

    def prepare_node(self, trial: Trial) -> None:
        """Bring here all that a trial needs: data, prepared tables, its model's folder and its own.

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
                self.store.download_file(table)
                table.stat()
            except OSError as error:
                raise OSError(
                    f"{node} cannot get {table}: {error}; --output must be a folder "
                    "that all nodes share, unless --storage is given"
                ) from None
        fault = unreadable_image(trial.data)
        if fault is not None:
            raise OSError(f"{node} {fault}")
        if trial.model is not None:
            self.store.download(trial.model.folder)
        self.store.download(trial.folder)

    def upload(self, trial: Trial) -> None:
        """Upload what has changed in a trial's folder: after each epoch, before that epoch is reported."""
        self.store.upload(trial.folder)

    def fail(self, trial: Trial, message: str, trace: str = "") -> None:
        """Record that a trial failed for good, here and in the store."""
        write_failed(trial.folder, message, trace)
        self.store.upload(trial.folder, ["error.json"])

    def offer(self, trials: Sequence[Trial]) -> None:
        """Upload the trials' prepared tables, for every node; called by the driver."""
        for table in {path for trial in trials for path in _tables(trial)}:
            self.store.upload_file(table)

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
