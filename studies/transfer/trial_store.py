"""What is asked of whatever stores trial folders for all nodes; a shared OUTPUT has nothing to do for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

__all__ = ["TrialStore"]


class TrialStore:
    """Stores the files of OUTPUT for all nodes; cheap to send to other processes.

    This class is for an OUTPUT that all nodes share: there is nothing to copy.
    """

    def download(self, folder: Path, *, weights: bool = True) -> None:
        """Make a folder here equal to the stored one; folders inside it are left alone.

        Args:
            folder: of a trial or a study.
            weights: whether checkpoints too; else those that are here are left alone.
        """
        if folder.exists():
            # NFS may answer from its cache for seconds; listing the folder makes it ask the server.
            os.listdir(folder)

    def upload(self, folder: Path, names: Sequence[str] | None = None) -> None:
        """Upload the files of a folder that have changed; with ``names``, only these files."""

    def has_copy(self, path: Path) -> bool:
        """Whether a file is stored elsewhere than here."""
        return False

    def delete(self, folder: Path, names: Sequence[str] | None = None) -> None:
        """Delete the files of a folder from the store; with ``names``, only these, which may be patterns."""

    def archive(self, folder: Path, destination: Path) -> None:
        """Move the stored files of a folder to another folder of the store."""

    def read_of_studies(self, name: str) -> dict[str, str]:
        """The stored texts of a file that studies have in their folders, by study."""
        return {}

    def claim(self, folder: Path, what: str, *, waits: bool) -> AbstractContextManager[None]:
        """Keep other machines out of a stored folder; where OUTPUT is shared, its locks do.

        Args:
            folder: of a trial or a study.
            what: it is, for messages.
            waits: until nobody else works there; else it is an error.

        Raises:
            StudyError: another process works there.
            OSError: the store cannot be reached, or not be written.
        """
        return nullcontext()

    def adopt(self) -> None:
        """Upload the trials that OUTPUT has from before it was used with this store; called by the driver.

        A new OUTPUT takes over the identity that the store has.
        """

    def download_table(self, path: Path) -> None:
        """Download a prepared table, which never changes, unless it is here.

        Raises:
            OSError: the store does not have it, or has another file than was uploaded.
        """

    def upload_table(self, path: Path) -> None:
        """Upload a prepared table and its checksum, unless they are stored."""

    def ended_trials(self) -> set[Path]:
        """Return the folders of all stored trials that finished, failed or were pruned."""
        return set()

    def check_access(self) -> None:
        """Write, read and delete a small file.

        Raises:
            OSError: one of these does not work.
        """
