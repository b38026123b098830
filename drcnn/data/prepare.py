"""Turn ``data.source`` into annotation tables on disk, once; other calls and processes open the same files.

>>> from tempfile import TemporaryDirectory
>>> data = DataConfig(source="digits", train_images=2, val_images=1)
>>> with TemporaryDirectory() as cache:
...     prepared = prepare(data, Path(cache))
...     len(Annotations.load(prepared.train))
2
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drcnn.config import DataConfig
from drcnn.data import coco, digits, voc
from drcnn.data.annotations import Annotations, DataError
from drcnn.data.faults import DataFaults

__all__ = ["PreparedData", "check", "prepare", "prepare_validation"]

# The modules that determine the content of a table.
READERS = ("annotations", "coco", "digits", "faults", "images", "voc")
FORMATS = {
    "voc": "a VOCdevkit year folder (JPEGImages/, Annotations/, ImageSets/Main/)",
    "coco": "a COCO folder (annotations/instances_*.json)",
}


@dataclass(frozen=True)
class PreparedData:
    """The paths of the prepared tables; a few strings, cheap to send to other processes.

    Attributes:
        train: path of the training split's table, for ``Annotations.load``; ``val`` likewise.
        classes: names; a label is an index into them.
        fingerprint: 16 hex digits of both splits' content, independent of their folder.
        skipped: one message for everything left out, training split first.
    """

    train: str
    val: str
    classes: tuple[str, ...]
    fingerprint: str
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """How to read a split, and the files whose change means reading it again."""

    read: Callable[[str, DataFaults], Annotations]
    files: Callable[[str], list[Path]]
    settings: tuple[object, ...]


def prepare(data: DataConfig, cache: Path) -> PreparedData:
    """Read both splits of ``data.source`` into ``cache``, or reuse what an earlier call left there.

    A table is made again when a file it was made from has changed (name, size or time). Several processes may
    prepare at once. ``data.train_split`` and ``data.val_split`` name the splits of a folder; ``digits`` has
    splits of its own.

    Raises:
        DataError: the source is missing, empty, of another format or damaged; see ``read_voc``.
    """
    source, splits = _open_source(data)
    skip = data.on_bad_data == "skip"
    counts = (data.train_images, data.val_images)
    paths, tables = zip(
        *(
            _table(source, split, count, cache, skip=skip)
            for split, count in zip(splits, counts, strict=True)
        ),
        strict=True,
    )
    train, val = tables
    if train.classes != val.classes:
        raise DataError(
            f"{data.source}: the classes of {splits[0]!r} and {splits[1]!r} differ; "
            "give splits with the same categories"
        )
    joint = hashlib.sha256(f"{train.fingerprint} {val.fingerprint}".encode()).hexdigest()[:16]
    return PreparedData(paths[0], paths[1], train.classes, joint, (*train.skipped, *val.skipped))


def prepare_validation(data: DataConfig, cache: Path) -> str:
    """Prepare the validation split only, which is enough to evaluate; return the path of its table.

    Raises:
        DataError: as ``prepare`` does.
    """
    source, (_, split) = _open_source(data)
    path, _ = _table(source, split, data.val_images, cache, skip=data.on_bad_data == "skip")
    return path


def check(data: DataConfig) -> list[str]:
    """Return one line for every fault in both splits; every image is decoded, nothing is written."""
    faults = DataFaults(skip=True)
    try:
        source, splits = _open_source(data)
    except DataError as error:
        return [str(error)]
    for split in dict.fromkeys(splits):
        try:
            source.read(split, faults)
        except DataError as error:
            faults.note(str(error))
    return faults.messages


def _open_source(data: DataConfig) -> tuple[_Source, tuple[str, str]]:
    scheme, _, where = data.source.partition(":")
    splits = (data.train_split, data.val_split)
    if data.source == "digits":
        counts = {"train": data.train_images or 500, "val": data.val_images or 150}
        return _digits_source(counts), ("train", "val")
    if scheme not in FORMATS or not where:
        raise DataError(
            f"--data {data.source}: expected 'digits', 'voc:DIR' or 'coco:DIR'{_hint(data.source)}"
        )
    if scheme == "voc":
        folders = [_folder(part, "voc") for part in where.split("+")]
        return _voc_source(folders), splits
    return _coco_source(_folder(where, "coco")), splits


def _digits_source(counts: dict[str, int]) -> _Source:
    return _Source(
        read=lambda split, _: digits.make_digits(counts[split], split=split),  # type: ignore[arg-type]
        files=lambda split: [],
        settings=("digits", digits.DIGITS_SEED, *counts.items()),
    )


def _voc_source(folders: list[Path]) -> _Source:
    parts = ("Annotations", "JPEGImages", "ImageSets/Main")
    return _Source(
        read=lambda split, faults: voc.read_voc(folders, split, faults),
        files=lambda split: [folder / part for folder in folders for part in parts],
        settings=("voc", *map(str, folders)),
    )


def _coco_source(folder: Path) -> _Source:
    return _Source(
        read=lambda split, faults: coco.read_coco(folder, split, faults),
        files=lambda split: list(coco.find_files(folder, split)),
        settings=("coco", str(folder)),
    )


def _table(
    source: _Source, split: str, count: int | None, cache: Path, *, skip: bool
) -> tuple[str, Annotations]:
    """Return the path and the opened table of a split's first images; make it if it does not exist."""
    content = [*map(str, source.settings), split, count, skip, _code_stamp(), *_stamps(source.files(split))]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    path = cache.absolute() / f"{source.settings[0]}-{split}-{key}.arrow"
    if path.exists():
        try:
            return str(path), Annotations.load(path)
        except DataError:
            pass  # damaged, or of another version: made again below
    table = source.read(split, DataFaults(skip=skip))
    (table if count is None else table.first(count)).save(path)
    return str(path), Annotations.load(path)


def _stamps(paths: list[Path]) -> list[tuple[str, int, int]]:
    """Name, size and modification time of the files, and of all files in the folders."""
    stamps = []
    for path in paths:
        files = (
            [path]
            if path.is_file()
            else [Path(top, name) for top, _, names in os.walk(path) for name in names]
        )
        for file in files:
            status = file.stat()
            stamps.append((str(file), status.st_size, status.st_mtime_ns))
    return sorted(stamps)


def _code_stamp() -> str:
    """A hash of the readers' and the generator's code, so that no table of an older version is reused."""
    sources = (Path(__file__).with_name(f"{name}.py").read_bytes() for name in READERS)
    return hashlib.sha256(b"".join(sources)).hexdigest()


def _folder(text: str, scheme: str) -> Path:
    folder = Path(text).expanduser().absolute()
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {state}; --data {scheme}: takes {FORMATS[scheme]}")
    if not any(folder.iterdir()):
        raise DataError(f"{folder}: the folder is empty; --data {scheme}: takes {FORMATS[scheme]}")
    recognised = _recognise(folder)
    if recognised is None:
        raise DataError(f"{folder}: not {FORMATS[scheme]}; it is neither VOC nor COCO")
    if recognised != scheme:
        raise DataError(
            f"{folder}: not {FORMATS[scheme]}; "
            f"it looks like {recognised.upper()}; use --data {recognised}:{text}"
        )
    return folder


def _recognise(folder: Path) -> str | None:
    """Return the format that a folder seems to have."""
    if any(folder.glob("annotations/instances_*.json")):
        return "coco"
    if any((folder / part).is_dir() for part in ("JPEGImages", "ImageSets")):
        return "voc"
    return None


def _hint(text: str) -> str:
    recognised = _recognise(Path(text).expanduser())
    if recognised is None:
        return ""
    return f"; the folder looks like {recognised.upper()}: use --data {recognised}:{text}"
