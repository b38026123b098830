"""What a node needs before it works on a trial; nothing to fetch where all nodes share one OUTPUT."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from drcnn.data.annotations import Annotations
from studies.definition.plan import Trial
from studies.transfer.datasets import RemoteFolder, download_datasets
from studies.transfer.store import TrialStore

if TYPE_CHECKING:
    from drcnn.data.prepare import PreparedData

__all__ = ["Supplies", "unreadable"]


def _versions() -> dict[str, str]:
    found = {name: metadata.version(name) for name in ("ray", "torch", "torchvision")}
    return {"python": platform.python_version(), **found}


@dataclass(frozen=True)
class Supplies:
    """Where a node gets a trial's files and data from; cheap to send to other processes.

    Attributes:
        storage: of trials' folders and prepared tables.
        remotes: data to fetch from an object store.
        versions: the driver's, which every node must have: also those that join when the study runs.
    """

    storage: TrialStore
    remotes: tuple[RemoteFolder, ...] = ()
    versions: dict[str, str] = field(default_factory=_versions)

    def bring(self, trial: Trial) -> None:
        """Bring here all that a trial needs.

        Raises:
            OSError: something cannot be had here; the message names this node. Another may be better.
        """
        node = f"node {socket.gethostname()}"
        for name, version in _versions().items():
            if version != self.versions[name]:
                raise OSError(f"{node} has {name} {version}, but the driver {self.versions[name]}")
        download_datasets(self.remotes)
        for table in (trial.data.train, trial.data.val):
            try:
                self.storage.download_file(Path(table))
                Path(table).stat()
            except OSError as error:
                raise OSError(
                    f"{node} cannot get {table}: {error}; --output must be a folder "
                    "that all nodes share, unless --storage is given"
                ) from None
        fault = unreadable(trial.data)
        if fault is not None:
            raise OSError(f"{node} {fault}")
        if trial.model is not None:
            self.storage.download(trial.model.folder)
        self.storage.download(trial.folder)

    def offer(self, trials: Sequence[Trial]) -> None:
        """Keep the trials' prepared tables where every node finds them; called by the driver."""
        for table in {path for trial in trials for path in (trial.data.train, trial.data.val)}:
            self.storage.upload_file(Path(table))


def unreadable(data: PreparedData) -> str | None:
    """What is wrong here with the first and the last image of each split; nothing: they can be read."""
    for path in (data.train, data.val):
        table = Annotations.load(path)
        for row in (0, len(table) - 1):
            source = table.source(row)
            if isinstance(source, str) and not os.access(source, os.R_OK):
                return (
                    f"cannot read {source}; put the data at the same path on every node, on a folder that "
                    "all share, or in an object store (--data voc:s3://BUCKET/FOLDER)"
                )
    return None
