"""An object store, where trial folders are stored so that every node finds them.

The training loop writes a trial's folder and reads it again, on whichever node it runs. With an object store
(``--storage s3://bucket/prefix``) the stored copy is the one that counts: a node downloads a trial's folder
before it works there, and uploads what has changed after each epoch, before it reports that epoch.
``result.json`` is uploaded last, so a trial that is finished in the store is complete there. Requests are
repeated while the store does not answer.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from drcnn.data.table_checksum import checksum_file, matches_checksum
from drcnn.engine.record import OUTCOME_FILES
from drcnn.files import DAMAGED, replacing, write_text
from studies.definition.errors import StudyError, one_line
from studies.record.output_identity import IDENTITY, output_identity
from studies.record.tracking.addresses import redacted
from studies.transfer.claims import claimed
from studies.transfer.retry import with_retries
from studies.transfer.trial_store import TrialStore

__all__ = ["NOTES", "ObjectStore", "open_store", "open_uri"]

LOCAL = fs.LocalFileSystem()
# What tells why a process was killed begins so; it stays where it was written until it is uploaded.
NOTES = "killed-"
# Size and modification time of a file.
Stamp = tuple[int, int]
# How long a store may be silent to a node that looks whether it has access.
ACCESS_SECONDS = 120.0
# In OUTPUT: names the store that its trials were uploaded to.
MARK = ".storage"
TRIAL = "[0-9a-f]" * 16


class _DamagedTableError(Exception):
    """A table does not match its checksum."""


class ObjectStore(TrialStore):
    """Stores what matters of OUTPUT, which each node has for itself, under a URI of pyarrow's file systems.

    Args:
        uri: ``s3://bucket/prefix``, ``gs://...`` or ``file:///...``; one of S3 may end in
            ``?region=...&endpoint_override=...``.
        output: absolute; the same path on every node.

    Raises:
        StudyError: the address is of no known kind.
    """

    def __init__(self, uri: str, output: Path) -> None:
        self._uri, self._output = uri, output
        # Files here that equal the stored ones, with their stamps.
        self._synced: dict[Path, Stamp] = {}
        self._store, self._root = open_uri(uri)

    def __reduce__(self) -> tuple[type[ObjectStore], tuple[str, Path]]:
        return ObjectStore, (self._uri, self._output)

    def download(self, folder: Path, *, weights: bool = True) -> None:  # noqa: D102
        folder.mkdir(parents=True, exist_ok=True)
        infos = self._list(folder)
        stored = {info.base_name: info for info in infos if weights or not _is_weights(info.base_name)}
        here = [path for path in _files(folder) if weights or not _is_weights(path.name)]
        here = [path for path in here if path.name in stored or not path.name.startswith(NOTES)]
        if self._is_complete(folder, stored, here):
            return
        for path in here:
            if path.name not in stored:
                path.unlink()
        for name in sorted(stored, key=_outcome_last):
            # All files: S3's times are whole seconds, too coarse to tell whether a file has changed.
            self._download(folder / name)

    def _is_complete(self, folder: Path, stored: Mapping[str, fs.FileInfo], here: Sequence[Path]) -> bool:
        """Whether a finished trial is here already: it no longer changes, and its checkpoints are large."""
        result = folder / "result.json"
        if result.name not in stored or {path.name for path in here} != set(stored):
            return False
        if any((folder / name).stat().st_size != info.size for name, info in stored.items()):
            return False
        return with_retries(lambda: self._read(self._key(result))) == result.read_bytes()

    def upload(self, folder: Path, names: Sequence[str] | None = None) -> None:  # noqa: D102
        for path in sorted(_files(folder), key=lambda path: _outcome_last(path.name)):
            is_wanted = names is None or path.name in names
            if is_wanted and self._synced.get(path) != _stamp(path):
                self._upload(path)

    def has_copy(self, path: Path) -> bool:  # noqa: D102
        return bool(with_retries(lambda: self._store.get_file_info(self._key(path))).is_file)

    def delete(self, folder: Path, names: Sequence[str] | None = None) -> None:  # noqa: D102
        for info in self._list(folder):
            if names is None or any(fnmatch(info.base_name, name) for name in names):
                with_retries(partial(self._store.delete_file, info.path))
                self._synced.pop(folder / info.base_name, None)

    def archive(self, folder: Path, destination: Path) -> None:  # noqa: D102
        for info in self._list(folder):
            self._make_folder(self._key(destination))
            with_retries(partial(self._store.copy_file, info.path, self._key(destination / info.base_name)))
        self.delete(folder)

    def read_of_studies(self, name: str) -> dict[str, str]:  # noqa: D102
        selector = fs.FileSelector(self._root, allow_not_found=True)
        infos = with_retries(lambda: self._store.get_file_info(selector))
        keys = {info.base_name: self._key(self._output / info.base_name / name) for info in infos}
        found = with_retries(lambda: self._store.get_file_info([*keys.values()]))
        stored = [study for study, info in zip(keys, found, strict=True) if info.is_file]
        texts = {study: with_retries(partial(self._read, keys[study])) for study in stored}
        return {study: text.decode(errors="replace") for study, text in texts.items()}

    def claim(self, folder: Path, what: str, *, waits: bool) -> AbstractContextManager[None]:  # noqa: D102
        return claimed(self._store, self._key(folder), what, waits=waits)

    def adopt(self) -> None:  # noqa: D102
        self._share_identity()
        mark = self._output / MARK
        # A hash, since the address may hold a key.
        digest = hashlib.sha256(self._uri.encode()).hexdigest()
        if mark.is_file() and mark.read_text(encoding="utf-8", errors="replace") == digest:
            return
        trials = self._output / "trials"
        for folder in [*trials.glob(TRIAL), *trials.glob(f"{TRIAL}/evaluations/{TRIAL}")]:
            # A trial that is stored already must not be mixed with what is here.
            if not self._list(folder):
                self.upload(folder)
        write_text(mark, digest)

    def _share_identity(self) -> None:
        identity = self._output / IDENTITY
        if self.has_copy(identity):
            if not identity.exists():
                self._download(identity)
        else:
            output_identity(self._output)
            self._upload(identity)

    def download_table(self, path: Path) -> None:  # noqa: D102
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            with suppress(_DamagedTableError), replacing(path) as draft:
                self._download(checksum_file(path))
                self._copy_here(path, draft)
                # Before it gets its name: whoever finds it there takes it as it is.
                if not matches_checksum(draft, checksum_file(path)):
                    raise _DamagedTableError
                return
        raise OSError(
            f"{self._key(path)} in the store does not match its checksum, {checksum_file(path).name}; delete "
            "both there and run the same command again, which uploads them anew"
        )

    def upload_table(self, path: Path) -> None:  # noqa: D102
        for file in (checksum_file(path), path):
            if not self.has_copy(file):
                self._upload(file)

    def ended_trials(self) -> set[Path]:  # noqa: D102
        selector = fs.FileSelector(f"{self._root}/trials", recursive=True, allow_not_found=True)
        infos = with_retries(lambda: self._store.get_file_info(selector))
        outcomes = [Path(info.path) for info in infos if info.base_name in OUTCOME_FILES]
        return {(self._output / path.relative_to(self._root)).parent for path in outcomes}

    def check_access(self) -> None:  # noqa: D102
        with_retries(self._try_access, ACCESS_SECONDS)

    def _try_access(self) -> None:
        content = uuid.uuid4().hex
        key = f"{self._root}/.probe-{content}"
        self._make_folder(self._root)
        with self._store.open_output_stream(key) as stream:
            stream.write(content.encode())
        stored = self._read(key)
        self._store.delete_file(key)
        if stored != content.encode():
            raise OSError(f"{self._root} returned something else than was written to it")

    def _list(self, folder: Path) -> list[fs.FileInfo]:
        selector = fs.FileSelector(self._key(folder), allow_not_found=True)
        return [info for info in with_retries(lambda: self._store.get_file_info(selector)) if info.is_file]

    def _read(self, key: str) -> bytes:
        with self._store.open_input_stream(key) as stream:
            return bytes(stream.read())

    def _download(self, path: Path) -> None:
        with replacing(path) as draft:
            self._copy_here(path, draft)
        self._synced[path] = _stamp(path)

    def _copy_here(self, path: Path, target: Path) -> None:
        with_retries(partial(fs.copy_files, self._key(path), str(target), self._store, LOCAL))

    def _upload(self, path: Path) -> None:
        # Before copying: a file that changes meanwhile is uploaded again.
        stamp = _stamp(path)
        self._make_folder(self._key(path.parent))
        with_retries(partial(fs.copy_files, str(path), self._key(path), LOCAL, self._store))
        self._synced[path] = stamp

    def _make_folder(self, key: str) -> None:
        """Make a folder where keys are paths; object stores have no folders."""
        if self._store.type_name == "local":
            self._store.create_dir(key)

    def _key(self, path: Path) -> str:
        return f"{self._root}/{path.relative_to(self._output).as_posix()}"


def open_store(uri: str | None, output: Path) -> TrialStore:
    """Open the store of an absolute output folder: an object store, or without a URI the folder itself.

    Raises:
        StudyError: the address is of no known kind.
    """
    return TrialStore() if uri is None else ObjectStore(uri, output)


def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """Open one of pyarrow's file systems; return it and the path in it, without a slash at its end.

    Raises:
        StudyError: the address is of no known kind.
    """
    try:
        store, path = fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise StudyError(
            f"{redacted(uri)}: expected s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or the like: "
            f"{one_line(redacted(str(error)))}"
        ) from None
    return store, path.rstrip("/")


def _files(folder: Path) -> list[Path]:
    """Return a trial's files: not drafts and locks, whose names begin with a dot, nor what was put aside."""
    listed = folder.iterdir() if folder.is_dir() else ()
    files = [path for path in listed if path.is_file() and not path.name.startswith(".")]
    return [path for path in files if DAMAGED not in path.name]


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors")


def _outcome_last(name: str) -> tuple[bool, str]:
    """Sort key for copying: the file that says how a trial ended also says that all others are there."""
    return name in OUTCOME_FILES, name


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
