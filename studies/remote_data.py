"""Data in an object store: ``--data voc:s3://bucket/VOC2007``. Every node fetches them once, to one path."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from drcnn.data.annotations import DataError
from studies.storage import LOCAL, open_uri

__all__ = ["RemoteFolder", "fetch", "localised"]


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of an object store, and the path where every node has it."""

    uri: str
    folder: Path


def localised(source: str, cache: Path) -> tuple[str, tuple[RemoteFolder, ...]]:
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
    remotes = {part: RemoteFolder(part, cache / _name(part)) for part in parts if "://" in part}
    if not remotes:
        return source, ()
    here = [str(remotes[part].folder) if part in remotes else part for part in parts]
    return f"{scheme}:{'+'.join(here)}", tuple(remotes.values())


def fetch(remotes: Sequence[RemoteFolder]) -> None:
    """Fetch what is not here yet; other processes of this node wait meanwhile.

    Raises:
        DataError: the store cannot be read.
    """
    for remote in remotes:
        remote.folder.parent.mkdir(parents=True, exist_ok=True)
        with (remote.folder.parent / f".{remote.folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not remote.folder.exists():
                _copy(remote)


def _copy(remote: RemoteFolder) -> None:
    draft = remote.folder.with_name(f".{remote.folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    store, root = open_uri(remote.uri)
    try:
        fs.copy_files(root, str(draft), source_filesystem=store, destination_filesystem=LOCAL)
    except (pa.ArrowException, OSError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise DataError(f"{root}: cannot be fetched: {' '.join(str(error).split())[:300]}") from None
    draft.rename(remote.folder)


def _name(uri: str) -> str:
    """A folder's name here, which changes with the files there: their names, sizes and times."""
    store, root = open_uri(uri)
    try:
        found = store.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{root}: cannot be listed: {' '.join(str(error).split())[:300]}") from None
    files = sorted((info.path, info.size, info.mtime_ns) for info in found if info.is_file)
    if not files:
        raise DataError(f"{root}: holds no file; expected a folder of images and annotations")
    digest = hashlib.sha256(repr(files).encode()).hexdigest()[:12]
    return f"{root.rpartition('/')[2]}-{digest}"
