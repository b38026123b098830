"""Data in an object store: ``--data voc:s3://bucket/VOC2007``. Every node fetches them once, to one path."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from drcnn.data.annotations import DataError
from studies.definition.errors import FetchError, StudyError
from studies.transfer.retry import with_retries
from studies.transfer.store import open_uri

__all__ = ["RemoteFolder", "check_datasets", "download_datasets", "localise"]

# A fetch of more than this is announced: it takes a while.
LARGE = 100e6
# Files at once: most are small, and each waits for its answers.
AT_ONCE = 16
# How long a file is asked for. What was fetched is kept, and whoever tries again goes on there.
SECONDS = 60.0


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of an object store, and the path where every node has it."""

    uri: str
    folder: Path


def localise(source: str, cache: Path) -> tuple[str, tuple[RemoteFolder, ...]]:
    """Say where the data will lie on each node.

    Args:
        source: as given to ``--data``; folders of an object store are ``voc:s3://...`` or ``coco:s3://...``.
        cache: absolute folder to fetch into.

    Returns:
        The source with local paths, and what is to be fetched. The paths change with what the store holds.

    Raises:
        StudyError: no such kind of address.
        DataError: the store cannot be reached, or holds nothing there.
    """
    scheme, _, where = source.partition(":")
    parts = where.split("+")
    remotes = {part: RemoteFolder(part, cache / _named(part)) for part in parts if "://" in part}
    if not remotes:
        return source, ()
    here = [str(remotes[part].folder) if part in remotes else part for part in parts]
    return f"{scheme}:{'+'.join(here)}", tuple(remotes.values())


def download_datasets(remotes: Sequence[RemoteFolder]) -> None:
    """Fetch what is not here yet; other processes of this node wait meanwhile. A killed fetch goes on.

    Raises:
        FetchError: the store does not give its files, or the disk is too small for them.
    """
    for remote in remotes:
        remote.folder.parent.mkdir(parents=True, exist_ok=True)
        with (remote.folder.parent / f".{remote.folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not remote.folder.exists():
                _Fetch(remote).run()


def check_datasets(remotes: Sequence[RemoteFolder]) -> None:
    """Find out, within seconds, whether this node can fetch what it lacks: a file of each, and the disk.

    Raises:
        FetchError: it cannot.
    """
    fetches = [_Fetch(remote) for remote in remotes if not remote.folder.exists()]
    for each in fetches:
        each.read_one()
    if fetches:
        _check_disk(fetches)


class _Fetch:
    """What is left to fetch of a folder.

    Raises:
        FetchError: the store does not list its files, or they are others than the driver saw.
    """

    def __init__(self, remote: RemoteFolder) -> None:
        self.remote = remote
        self.draft = remote.folder.with_name(f".{remote.folder.name}.draft")
        self.root = remote.folder.name
        try:
            # Bad moments too look like a wrong address: a bucket is asked for its region.
            self._store, self.root = open_uri(remote.uri)
            files = with_retries(partial(_list, self._store, self.root), SECONDS)
        except (pa.ArrowException, OSError, StudyError) as error:
            raise self._failure(error) from None
        if _name(self.root, files) != remote.folder.name:
            raise FetchError(f"{self.root} has changed since the study was started; start it again")
        # A file is there when all of it is: a killed fetch leaves some that are shorter.
        self.left = [info for info in files if _size(self._path(info)) != info.size]

    @property
    def needed(self) -> int:
        """Bytes of the files that are left, less what is here of them."""
        return sum(info.size - (_size(self._path(info)) or 0) for info in self.left)

    def run(self) -> None:
        """Fetch the files; the folder gets its name when all are there."""
        _check_disk([self])
        if self.needed > LARGE:
            print(f"Fetching {self.root}: {len(self.left)} files, {self.needed / 1e9:.1f} GB", flush=True)
        for folder in {self._path(info).parent for info in self.left}:
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                for _ in pool.map(self._copy, self.left):
                    pass
        except (pa.ArrowException, OSError) as error:
            raise self._failure(error) from None
        self.draft.rename(self.remote.folder)

    def read_one(self) -> None:
        """Read the beginning of a file: to list a folder is another right than to read it."""
        try:
            for info in self.left[:1]:
                with self._store.open_input_stream(info.path, compression=None) as source:
                    source.read(1)
        except (pa.ArrowException, OSError) as error:
            raise self._failure(error) from None

    def _copy(self, info: fs.FileInfo) -> None:
        def copy() -> None:
            with (
                self._store.open_input_stream(info.path, compression=None) as source,
                self._path(info).open("wb") as target,
            ):
                shutil.copyfileobj(source, target, 1 << 20)

        with_retries(copy, SECONDS)
        if _size(self._path(info)) != info.size:
            raise OSError(f"{info.path} ended before its {info.size} bytes")

    def _path(self, info: fs.FileInfo) -> Path:
        name: str = info.path.removeprefix(f"{self.root}/")
        return self.draft / name

    def _failure(self, error: Exception) -> FetchError:
        why = " ".join(str(error).split())[:300]
        return FetchError(f"{self.root} cannot be fetched on {socket.gethostname()}: {why}")


def _check_disk(fetches: Sequence[_Fetch]) -> None:
    folder = fetches[0].remote.folder.parent
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = sum(each.needed for each in fetches), shutil.disk_usage(folder).free
    if needed > free:
        roots = " and ".join(each.root for each in fetches)
        raise FetchError(
            f"{roots}: {needed / 1e9:.1f} GB are still to be fetched, but {folder} on "
            f"{socket.gethostname()} has {free / 1e9:.1f} GB free"
        )


def _named(uri: str) -> str:
    store, root = open_uri(uri)
    try:
        files = _list(store, root)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{root}: cannot be listed: {' '.join(str(error).split())[:300]}") from None
    if not files:
        raise DataError(f"{root}: holds no file; expected a folder of images and annotations")
    return _name(root, files)


def _list(store: fs.FileSystem, root: str) -> list[fs.FileInfo]:
    """The files there, in the order of their paths."""
    found = store.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
    return sorted((info for info in found if info.is_file), key=lambda info: info.path)


def _name(root: str, files: Sequence[fs.FileInfo]) -> str:
    """A folder's name here, which changes with the files there: their names, sizes and times."""
    stamps = [(info.path, info.size, info.mtime_ns) for info in files]
    digest = hashlib.sha256(repr(stamps).encode()).hexdigest()[:12]
    return f"{root.rpartition('/')[2]}-{digest}"


def _size(path: Path) -> int | None:
    """Of a file here, if there is one."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
