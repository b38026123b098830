"""Where trials' folders are kept between nodes: in a folder that all of them share, or in an object store.

The training loop writes a trial's folder and reads it again, whichever node it runs on. With an object
store (``--storage s3://bucket/prefix``) the store is the truth: a node pulls a trial's folder before it works
there, and pushes what has changed after each epoch, before that epoch is reported. ``result.json`` goes last,
so that a trial is finished there only when all of it is there. A store that does not answer is waited for.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from drcnn.engine.record import OUTCOME_FILES
from drcnn.files import replacing, write_text
from studies.definition.errors import StudyError
from studies.transfer.retry import with_retries

__all__ = ["ObjectStore", "TrialStore", "open_store", "open_uri"]

LOCAL = fs.LocalFileSystem()
# Size and time of a file.
Stamp = tuple[int, int]
# In OUTPUT: which store it is used with.
MARK = ".storage"
TRIAL = "[0-9a-f]" * 16


class TrialStore:
    """Keeps the files of OUTPUT where every node finds them; cheap to send to other processes.

    This class is for an OUTPUT that all nodes share: nothing has to be copied.
    """

    def download(self, folder: Path) -> None:
        """Make a folder here equal to the stored one; folders inside it are left alone."""
        if folder.exists():
            # NFS may answer from its cache for seconds; listing the folder makes it ask the server.
            os.listdir(folder)

    def upload(self, folder: Path, names: Sequence[str] | None = None) -> None:
        """Upload the files of a folder that have changed; with ``names``, only these files."""

    def delete(self, folder: Path, names: Sequence[str] | None = None) -> None:
        """Delete a folder's files from the store; with ``names``, only these files."""

    def archive(self, folder: Path, destination: Path) -> None:
        """Move a folder's files to another folder of the store."""

    def adopt(self) -> None:
        """Upload the trials of an OUTPUT that was used without this store before; called by the driver."""

    def download_file(self, path: Path) -> None:
        """Download a file that never changes, unless it is here."""

    def upload_file(self, path: Path) -> None:
        """Upload a file that never changes, unless it is stored."""

    def ended_trials(self) -> set[Path]:
        """Return the folders of stored trials that finished, failed or were pruned."""
        return set()

    def check_access(self) -> None:
        """Write, read and delete a small object.

        Raises:
            OSError: one of these does not work.
        """


class ObjectStore(TrialStore):
    """OUTPUT is each node's own; what matters of it is kept under a URI of pyarrow's file systems.

    Args:
        uri: ``s3://bucket/prefix``, ``gs://...`` or ``file:///...``; S3's may end in
            ``?region=...&endpoint_override=...``.
        output: absolute; the same path on every node.

    Raises:
        StudyError: no such kind of address.
    """

    def __init__(self, uri: str, output: Path) -> None:
        self._uri, self._output = uri, output
        # Files here that are kept as they are: by path, size and time.
        self._same: dict[Path, Stamp] = {}
        self._store, self._root = open_uri(uri)

    def __reduce__(self) -> tuple[type[ObjectStore], tuple[str, Path]]:
        return ObjectStore, (self._uri, self._output)

    def download(self, folder: Path) -> None:  # noqa: D102
        folder.mkdir(parents=True, exist_ok=True)
        kept = {info.base_name: info for info in self._list(folder)}
        if self._is_whole(folder, kept):
            return
        for path in _files(folder):
            if path.name not in kept:
                path.unlink()
        for name in sorted(kept, key=_last):
            # Always: S3's times are whole seconds, and say too little about whether two files are the same.
            self._fetch(folder / name)

    def _is_whole(self, folder: Path, kept: Mapping[str, fs.FileInfo]) -> bool:
        """Whether a finished trial is here already: it changes no more, and its checkpoints are large."""
        result = folder / "result.json"
        if result.name not in kept or {path.name for path in _files(folder)} != set(kept):
            return False
        if any((folder / name).stat().st_size != info.size for name, info in kept.items()):
            return False
        return self._read(self._key(result)) == result.read_bytes()

    def upload(self, folder: Path, names: Sequence[str] | None = None) -> None:  # noqa: D102
        for path in sorted(_files(folder), key=lambda path: _last(path.name)):
            is_asked = names is None or path.name in names
            if is_asked and self._same.get(path) != _stamp(path):
                self._keep(path)

    def delete(self, folder: Path, names: Sequence[str] | None = None) -> None:  # noqa: D102
        for info in self._list(folder):
            if names is None or info.base_name in names:
                with_retries(partial(self._store.delete_file, info.path))

    def archive(self, folder: Path, destination: Path) -> None:  # noqa: D102
        for info in self._list(folder):
            self._make_folder(self._key(destination))
            with_retries(partial(self._store.copy_file, info.path, self._key(destination / info.base_name)))
        self.delete(folder)

    def adopt(self) -> None:  # noqa: D102
        mark = self._output / MARK
        # Not the address itself, which may hold a key.
        known = hashlib.sha256(self._uri.encode()).hexdigest()
        if mark.exists() and mark.read_text(encoding="utf-8") == known:
            return
        trials = self._output / "trials"
        for folder in [*trials.glob(TRIAL), *trials.glob(f"{TRIAL}/evaluations/{TRIAL}")]:
            # What the store has of a trial is what counts; pulling would remove the rest.
            if not self._list(folder):
                self.upload(folder)
        write_text(mark, known)

    def download_file(self, path: Path) -> None:  # noqa: D102
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fetch(path)

    def upload_file(self, path: Path) -> None:  # noqa: D102
        if not with_retries(lambda: self._store.get_file_info(self._key(path))).is_file:
            self._keep(path)

    def ended_trials(self) -> set[Path]:  # noqa: D102
        selector = fs.FileSelector(f"{self._root}/trials", recursive=True, allow_not_found=True)
        found = (info for info in self._store.get_file_info(selector) if info.base_name in OUTCOME_FILES)
        return {(self._output / Path(info.path).relative_to(self._root)).parent for info in found}

    def check_access(self) -> None:  # noqa: D102
        name = uuid.uuid4().hex
        key = f"{self._root}/.probe-{name}"
        self._make_folder(self._root)
        with self._store.open_output_stream(key) as written:
            written.write(name.encode())
        with self._store.open_input_stream(key) as kept:
            found = kept.read()
        self._store.delete_file(key)
        if found != name.encode():
            raise OSError(f"{self._root} gives back something else than was written")

    def _list(self, folder: Path) -> list[fs.FileInfo]:
        selector = fs.FileSelector(self._key(folder), allow_not_found=True)
        return [info for info in with_retries(lambda: self._store.get_file_info(selector)) if info.is_file]

    def _read(self, key: str) -> bytes:
        def read() -> bytes:
            with self._store.open_input_stream(key) as file:
                found: bytes = file.read()
            return found

        return with_retries(read)

    def _fetch(self, path: Path) -> None:
        with replacing(path) as draft:
            with_retries(
                lambda: fs.copy_files(
                    self._key(path), str(draft), source_filesystem=self._store, destination_filesystem=LOCAL
                )
            )
        self._same[path] = _stamp(path)

    def _keep(self, path: Path) -> None:
        stamp = _stamp(path)
        self._make_folder(self._key(path.parent))
        with_retries(
            lambda: fs.copy_files(
                str(path), self._key(path), source_filesystem=LOCAL, destination_filesystem=self._store
            )
        )
        self._same[path] = stamp

    def _make_folder(self, key: str) -> None:
        """Where keys are paths: object stores have no folders, only objects that look like some."""
        if self._store.type_name == "local":
            self._store.create_dir(key)

    def _key(self, path: Path) -> str:
        return f"{self._root}/{path.relative_to(self._output).as_posix()}"


def open_store(uri: str | None, output: Path) -> TrialStore:
    """The storage of an absolute output folder: shared, or with a URI an object store.

    Raises:
        StudyError: no such kind of address.
    """
    return TrialStore() if uri is None else ObjectStore(uri, output)


def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """A file system of pyarrow's, and the path in it, without a slash at its end.

    Raises:
        StudyError: no such kind of address.
    """
    try:
        store, path = fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, ValueError, OSError) as error:
        why = " ".join(str(error).split())[:200]
        raise StudyError(
            f"{uri}: expected s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or the like: {why}"
        ) from None
    return store, path.rstrip("/")


def _files(folder: Path) -> list[Path]:
    """A trial's files; not drafts and locks, which begin with a dot."""
    return [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]


def _last(name: str) -> tuple[bool, str]:
    """Order of copying: a verdict says that all the rest is there."""
    return name in OUTCOME_FILES, name


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
