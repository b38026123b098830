"""Turn ``data.source`` into annotation tables on disk, once; other calls and processes open the same files.

>>> from tempfile import TemporaryDirectory
>>> data = DataConfig(source="digits", train_images=2, val_images=1, test_images=1)
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
from drcnn.data.checks import unusable, warnings_across_splits, warnings_of_split
from drcnn.data.faults import DataFaults
from drcnn.data.prepared import PreparedData
from drcnn.data.warnings import count_warnings, total

__all__ = ["PreparedData", "open_source", "prepare", "prepare_judged", "split_names"]

DIGITS_COUNTS = {"train": 500, "val": 150, "test": 300}
FORMATS = {
    "voc": "a VOCdevkit year folder (JPEGImages/, Annotations/, ImageSets/Main/)",
    "coco": "a COCO folder (annotations/instances_*.json)",
}


@dataclass(frozen=True)
class _Source:
    """How to read a split, the files whose change means reading it again, and which splits there are."""

    read: Callable[[str, DataFaults], Annotations]
    files: Callable[[str], list[Path]]
    has: Callable[[str], bool]
    settings: tuple[object, ...]


def prepare(data: DataConfig, cache: Path) -> PreparedData:
    """Read the splits of ``data.source`` into ``cache``, or reuse what an earlier call left there.

    A table is made again when a file it was made from has changed (name, size or time). Several processes may
    prepare at once. ``data.train_split``, ``val_split`` and ``test_split`` name the splits of a folder;
    ``digits`` has splits of its own.

    Raises:
        DataError: the source is missing, empty, of another format or damaged; see ``read_voc``.
    """
    source = open_source(data)
    names = split_names(data, source)
    made = {split: _table(source, name, split, data, cache) for split, name in names.items()}
    tables = {split: table for split, (_, table) in made.items()}
    _refuse_unusable(data, tables, names)
    across = count_warnings(warnings_across_splits(tables))
    content = " ".join(f"{split} {table.fingerprint}" for split, table in tables.items())
    return PreparedData(
        train=made["train"][0],
        val=made["val"][0] if "val" in made else None,
        test=made["test"][0] if "test" in made else None,
        classes=tables["train"].classes,
        fingerprint=hashlib.sha256(content.encode()).hexdigest()[:16],
        skipped=tuple(message for table in tables.values() for message in table.skipped),
        warnings=total([*(table.warnings for table in tables.values()), across]),
    )


def prepare_judged(data: DataConfig, cache: Path) -> str:
    """Prepare only the split that a detector is judged by (``PreparedData.judged``); return its table's path.

    Raises:
        DataError: as ``prepare`` does.
    """
    source = open_source(data)
    names = split_names(data, source)
    split = "test" if "test" in names else "val"
    path, table = _table(source, names[split], split, data, cache)
    _refuse_unusable(data, {split: table}, names)
    return path


def _refuse_unusable(data: DataConfig, tables: dict[str, Annotations], names: dict[str, str]) -> None:
    for message in unusable(tables, names):
        raise DataError(f"{data.source}: {message}")


def split_names(data: DataConfig, source: _Source) -> dict[str, str]:
    """Return what the data calls each of the splits ``train``, ``val`` and ``test`` that it has.

    Raises:
        DataError: nothing could be chosen or judged.
    """
    if data.source == "digits":
        wanted = {"train": "train", "val": data.val_split and "val", "test": data.test_split and "test"}
    else:
        test = data.test_split
        if test == "auto":
            test = "test" if source.has("test") else None
        wanted = {"train": data.train_split, "val": data.val_split, "test": test}
    names = {split: name for split, name in wanted.items() if name}
    if len(names) == 1:
        raise DataError(
            f"{data.source}: there is neither a split to choose by nor one to judge by; "
            "set data.val_split or data.test_split"
        )
    return names


def open_source(data: DataConfig) -> _Source:
    """Return how the source is read.

    Raises:
        DataError: it does not exist, or is of an unknown or another format.
    """
    scheme, _, where = data.source.partition(":")
    if data.source == "digits":
        counts = {
            split: getattr(data, f"{split}_images") or number for split, number in DIGITS_COUNTS.items()
        }
        return _digits_source(counts)
    if scheme not in FORMATS or not where:
        raise DataError(
            f"--data {data.source}: expected 'digits', 'voc:DIR' or 'coco:DIR'{_hint(data.source)}"
        )
    if scheme == "voc":
        return _voc_source([_folder(part, "voc") for part in where.split("+")])
    return _coco_source(_folder(where, "coco"))


def _digits_source(counts: dict[str, int]) -> _Source:
    return _Source(
        read=lambda split, _: digits.make_digits(counts[split], split=split),  # type: ignore[arg-type]
        files=lambda split: [],
        has=lambda split: split in counts,
        settings=("digits", digits.DIGITS_SEED, *counts.items()),
    )


def _voc_source(folders: list[Path]) -> _Source:
    parts = ("Annotations", "JPEGImages", "ImageSets/Main")
    return _Source(
        read=lambda split, faults: voc.read_voc(folders, split, faults),
        files=lambda split: [folder / part for folder in folders for part in parts],
        has=lambda split: any((folder / f"ImageSets/Main/{split}.txt").is_file() for folder in folders),
        settings=("voc", *map(str, folders)),
    )


def _coco_source(folder: Path) -> _Source:
    return _Source(
        read=lambda split, faults: coco.read_coco(folder, split, faults),
        files=lambda split: list(coco.find_files(folder, split)),
        has=lambda split: any(folder.glob(f"annotations/instances_{split}*.json")),
        settings=("coco", str(folder)),
    )


def _table(source: _Source, name: str, split: str, data: DataConfig, cache: Path) -> tuple[str, Annotations]:
    """Return the path and the opened table of a split's first images; make it if it does not exist.

    Args:
        source: of the data.
        name: what it calls the split.
        split: ``train``, ``val`` or ``test``.
        data: how many images, and whether bad ones are skipped.
        cache: the folder of the tables.
    """
    count: int | None = getattr(data, f"{split}_images")
    skip = data.on_bad_data == "skip"
    content = [
        *map(str, source.settings),
        name,
        split,
        count,
        skip,
        _code_stamp(),
        *_stamps(source.files(name)),
    ]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    path = cache.absolute() / f"{source.settings[0]}-{name}-{key}.arrow"
    if path.exists():
        try:
            return str(path), Annotations.load(path)
        except DataError:
            pass  # damaged, or of another version: made again below
    faults = DataFaults(skip=skip)
    table = source.read(name, faults)
    table = table if count is None else table.first(count)
    warnings = [*faults.warnings, *warnings_of_split(split, table)]
    table.with_warnings(count_warnings(warnings)).save(path)
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
    """A hash of this folder's code, so that no table of an older version is reused."""
    sources = (path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
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
