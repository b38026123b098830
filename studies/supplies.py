"""What a node needs before it works on a trial; nothing to fetch where all nodes share one OUTPUT."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studies.remote_data import RemoteFolder, fetch
from studies.storage import Storage
from studies.trials import Trial

__all__ = ["Supplies"]


@dataclass(frozen=True)
class Supplies:
    """Where a node gets a trial's files and data from; cheap to send to other processes.

    Attributes:
        storage: of trials' folders and prepared tables.
        remotes: data to fetch from an object store.
    """

    storage: Storage
    remotes: tuple[RemoteFolder, ...] = ()

    def bring(self, trial: Trial) -> None:
        """Bring here all that a trial needs.

        Raises:
            OSError: something cannot be had; the message names this node.
            DataError: data cannot be fetched.
        """
        fetch(self.remotes)
        for table in (trial.data.train, trial.data.val):
            try:
                self.storage.pull_file(Path(table))
                Path(table).stat()
            except OSError as error:
                raise OSError(
                    f"node {socket.gethostname()} cannot get {table}: {error}; --output must be a folder "
                    "that all nodes share, unless --storage is given"
                ) from None
        if trial.model is not None:
            self.storage.pull(trial.model.folder)
        self.storage.pull(trial.folder)

    def offer(self, trials: Sequence[Trial]) -> None:
        """Keep the trials' prepared tables where every node finds them; called by the driver."""
        for table in {path for trial in trials for path in (trial.data.train, trial.data.val)}:
            self.storage.push_file(Path(table))
