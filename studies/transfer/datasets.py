"""Data in an object store (``--data voc:s3://bucket/VOC2007``): each node downloads them once.

Each file is verified by its size, and where the folder has ``SHA256SUMS`` by its checksum.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from drcnn.data.annotations import DataError
from drcnn.data.formats.folders import joined_folders
from drcnn.locks import file_lock
from studies.definition.errors import FetchError, StudyError, one_line
from studies.transfer.data_checksums import SUMS, has_checksum, read_sums
from studies.transfer.retry import with_retries
from studies.transfer.store import open_uri

__all__ = ["RemoteFolder", "check_datasets", "download_datasets", "localise"]

# Downloads of more bytes than this are announced: they take a while.
LARGE = 100e6
# Files downloaded at the same time: most are small, and each waits for its requests.
PARALLEL_FILES = 16
# How long a request is repeated. A later attempt keeps the files that are here already.
RETRY_SECONDS = 60.0


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of an object store, and the path that it gets on every node."""

    uri: str
    folder: Path


def localise(source: str, cache: Path) -> tuple[str, tuple[RemoteFolder, ...]]:
    """Replace the object-store folders of a data source by the paths that they get on each node.

    Args:
        source: as given to ``--data``; folders of an object store are ``voc:s3://...`` or ``coco:s3://...``.
        cache: absolute folder to download into.

    Returns:
        The source with local paths, and what to download. A path changes when the files in the store do.

    Raises:
        StudyError: an address is of no known kind.
        DataError: the store cannot be reached, or has no files there.
    """
    format_name, _, folders = source.partition(":")
    parts = joined_folders(folders)
    remotes = {part: RemoteFolder(part, cache / _cached_name(part)) for part in parts if "://" in part}
    if not remotes:
        return source, ()
    local_parts = [str(remotes[part].folder) if part in remotes else part for part in parts]
    return f"{format_name}:{'+'.join(local_parts)}", tuple(remotes.values())


def download_datasets(remotes: Sequence[RemoteFolder]) -> None:
    """Download the folders that are missing here; other processes of this node wait for it.

    A download that was killed is continued.

    Raises:
        FetchError: the store does not deliver the files, or the disk is too small for them.
    """
    for remote in remotes:
        cache = remote.folder.parent
        cache.mkdir(parents=True, exist_ok=True)
        with file_lock(cache / f".{remote.folder.name}.lock"):
            if not remote.folder.exists():
                _Download(remote).run()


def check_datasets(remotes: Sequence[RemoteFolder]) -> None:
    """Check within seconds that this node can download the missing folders: access, and disk space.

    Raises:
        FetchError: it cannot.
    """
    downloads = [_Download(remote) for remote in remotes if not remote.folder.exists()]
    for download in downloads:
        download.check_access()
    if downloads:
        _check_disk(downloads)


class _Download:
    """The files of a folder that are still to be downloaded.

    Raises:
        FetchError: the store does not list its files, or they have changed since the driver listed them.
    """

    def __init__(self, remote: RemoteFolder) -> None:
        self.remote = remote
        self.draft = remote.folder.with_name(f".{remote.folder.name}.draft")
        with _errors_named(remote.folder.name):
            self._store, self.root = open_uri(remote.uri)
        with _errors_named(self.root):
            files = with_retries(partial(_list, self._store, self.root), RETRY_SECONDS)
        if _name(self.root, files) != remote.folder.name:
            raise FetchError(f"{self.root} has changed since the study was started; start it again")
        self.files = {file.path.removeprefix(f"{self.root}/"): file for file in files}
        # A killed download leaves some files that are too short.
        self.missing = [file for file in files if _size(self._path(file)) != file.size]
        self.missing_bytes = sum(file.size - (_size(self._path(file)) or 0) for file in self.missing)

    def run(self) -> None:
        """Download the files; the folder gets its final name when it is complete, and verified."""
        _check_disk([self])
        if self.missing_bytes > LARGE:
            amount = f"{len(self.missing)} files, {self.missing_bytes / 1e9:.1f} GB"
            how = "" if SUMS in self.files else f"; no {SUMS} there: verified by size only"
            print(f"Downloading {self.root}: {amount}{how}", flush=True)
        for folder in {self._path(file).parent for file in self.missing}:
            folder.mkdir(parents=True, exist_ok=True)
        with _errors_named(self.root), ThreadPoolExecutor(PARALLEL_FILES) as pool:
            sums = self._sums()
            # As a list: a file's error is raised when its result is taken.
            list(pool.map(lambda name: self._fetch(self.files[name], sums.get(name)), self.files))
        self.draft.rename(self.remote.folder)

    def check_access(self) -> None:
        """Read the first byte of a file: permission to list a folder does not include reading it."""
        with _errors_named(self.root):
            for file in self.missing[:1]:
                with self._open(file) as stream:
                    stream.read(1)

    def _sums(self) -> dict[str, str]:
        if SUMS not in self.files:
            return {}

        def read() -> bytes:
            with self._open(self.files[SUMS]) as stream:
                return bytes(stream.read())

        try:
            return read_sums(with_retries(read, RETRY_SECONDS), self.files)
        except ValueError as error:
            raise OSError(str(error)) from None

    def _fetch(self, file: fs.FileInfo, checksum: str | None) -> None:
        """Copy a file, unless it is here; once more if it came damaged."""
        path = self._path(file)
        for attempts_left in (2, 1, 0):
            if _size(path) == file.size and has_checksum(path, checksum):
                return
            if attempts_left:
                self._copy(file)
        raise OSError(
            f"{file.path} does not match its checksum in {SUMS}, also when fetched again; upload both anew"
        )

    def _copy(self, file: fs.FileInfo) -> None:
        path = self._path(file)

        def copy() -> None:
            with self._open(file) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)

        with_retries(copy, RETRY_SECONDS)
        if _size(path) != file.size:
            raise OSError(f"{file.path} ended before its {file.size} bytes")

    def _open(self, file: fs.FileInfo) -> pa.NativeFile:
        # Left alone, pyarrow decompresses files whose names end in .gz.
        return self._store.open_input_stream(file.path, compression=None)

    def _path(self, file: fs.FileInfo) -> Path:
        name: str = file.path.removeprefix(f"{self.root}/")
        return self.draft / name


@contextmanager
def _errors_named(root: str) -> Iterator[None]:
    """Turn errors into FetchErrors that name the folder and this node."""
    try:
        yield
    # StudyError: open_uri asks an S3 bucket for its region, so that an outage looks like a bad address.
    except (pa.ArrowException, OSError, StudyError) as error:
        node = socket.gethostname()
        named = FetchError(f"{root} cannot be downloaded on {node}: {one_line(error)}")
        # Of this node's own files, which waiting does not mend (``retry.is_transient``).
        named.errno = getattr(error, "errno", None)
        raise named from None


def _check_disk(downloads: Sequence[_Download]) -> None:
    cache = downloads[0].remote.folder.parent
    cache.mkdir(parents=True, exist_ok=True)
    missing, free = sum(download.missing_bytes for download in downloads), shutil.disk_usage(cache).free
    if missing > free:
        roots = " and ".join(download.root for download in downloads)
        error = FetchError(
            f"{roots}: {missing / 1e9:.1f} GB are still to be downloaded, but {cache} on "
            f"{socket.gethostname()} has {free / 1e9:.1f} GB free"
        )
        error.errno = errno.ENOSPC
        raise error


def _cached_name(uri: str) -> str:
    store, root = open_uri(uri)
    try:
        files = _list(store, root)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{root}: cannot be listed: {one_line(error)}") from None
    if not files:
        raise DataError(f"{root}: holds no file; expected a folder of images and annotations")
    return _name(root, files)


def _list(store: fs.FileSystem, root: str) -> list[fs.FileInfo]:
    """Return the files of a folder and of all folders in it, sorted by path."""
    infos = store.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
    return sorted((info for info in infos if info.is_file), key=lambda info: info.path)


def _name(root: str, files: Sequence[fs.FileInfo]) -> str:
    """Return the name of the local copy; it changes with the names, sizes and times of the stored files."""
    stamps = [(file.path, file.size, file.mtime_ns) for file in files]
    digest = hashlib.sha256(repr(stamps).encode()).hexdigest()[:12]
    return f"{root.rpartition('/')[2]}-{digest}"


def _size(path: Path) -> int | None:
    """Return the size of a local file in bytes; none if it does not exist."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
