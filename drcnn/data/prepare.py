"""Turn ``data.source`` into annotation tables on disk, once; other calls and processes open the same files.

>>> prepared = prepare(config.data, Path("runs/data"))
>>> Annotations.load(prepared.train).classes
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
from drcnn.data.findings import Findings

__all__ = ["PreparedData", "check", "prepare", "prepare_validation"]

# The modules that decide what a table holds.
READERS = ("annotations", "coco", "digits", "findings", "images", "voc")
FORMATS = {
    "voc": "a VOCdevkit year folder (JPEGImages/, Annotations/, ImageSets/Main/)",
    "coco": "a COCO folder (annotations/instances_*.json)",
}


@dataclass(frozen=True)
class PreparedData:
    """Where the prepared tables lie; a few strings, cheap to send to other processes.

    Attributes:
        train: path of the training split's table, for ``Annotations.load``; ``val`` likewise.
        classes: names; a label is an index into them.
        fingerprint: 16 hex digits of both splits' content, whichever folder they lie in.
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

    read: Callable[[str, Findings], Annotations]
    files: Callable[[str], list[Path]]
    settings: tuple[object, ...]


def prepare(data: DataConfig, cache: Path) -> PreparedData:
    """Read both splits of ``data.source`` into ``cache``, or reuse what an earlier call left there.

    A table is read again when a file it was made from changed (name, size or time). Several processes may
    prepare at once. The splits of ``digits`` are always its own; ``data.train_split`` and ``val_split`` name
    those of a folder.

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
    """Prepare the validation split alone, all that evaluation needs; return its table's path.

    Raises:
        DataError: as ``prepare`` does.
    """
    source, (_, split) = _open_source(data)
    path, _ = _table(source, split, data.val_images, cache, skip=data.on_bad_data == "skip")
    return path


def check(data: DataConfig) -> list[str]:
    """Return one line for every fault in both splits; every image is decoded, nothing is written."""
    findings = Findings(skip=True)
    try:
        source, splits = _open_source(data)
    except DataError as error:
        return [str(error)]
    for split in dict.fromkeys(splits):
        try:
            source.read(split, findings)
        except DataError as error:
            findings.note(str(error))
    return findings.messages


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
        read=lambda split, findings: voc.read_voc(folders, split, findings),
        files=lambda split: [folder / part for folder in folders for part in parts],
        settings=("voc", *map(str, folders)),
    )


def _coco_source(folder: Path) -> _Source:
    return _Source(
        read=lambda split, findings: coco.read_coco(folder, split, findings),
        files=lambda split: list(coco.find_files(folder, split)),
        settings=("coco", str(folder)),
    )


def _table(
    source: _Source, split: str, count: int | None, cache: Path, *, skip: bool
) -> tuple[str, Annotations]:
    """Return the path and the opened table of a split's first images, made if it is not there."""
    content = [*map(str, source.settings), split, count, skip, _code_stamp(), *_stamps(source.files(split))]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    path = cache.absolute() / f"{source.settings[0]}-{split}-{key}.arrow"
    if path.exists():
        try:
            return str(path), Annotations.load(path)
        except DataError:
            pass  # left by a crashed disk or another version; made anew below
    table = source.read(split, Findings(skip=skip))
    (table if count is None else table.first(count)).save(path)
    return str(path), Annotations.load(path)


def _stamps(paths: list[Path]) -> list[tuple[str, int, int]]:
    """Name, size and time of the files, and of all files in the folders."""
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
    """Change whenever the readers or the generator do, so that no table of an older version is reused."""
    sources = (Path(__file__).with_name(f"{name}.py").read_bytes() for name in READERS)
    return hashlib.sha256(b"".join(sources)).hexdigest()


def _folder(text: str, scheme: str) -> Path:
    folder = Path(text).expanduser().absolute()
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {state}; --data {scheme}: takes {FORMATS[scheme]}")
    if not any(folder.iterdir()):
        raise DataError(f"{folder}: the folder is empty; --data {scheme}: takes {FORMATS[scheme]}")
    found = _looks_like(folder)
    if found != scheme:
        looks = (
            f"looks like {found.upper()}; use --data {found}:{text}" if found else "is neither VOC nor COCO"
        )
        raise DataError(f"{folder}: not {FORMATS[scheme]}; it {looks}")
    return folder


def _looks_like(folder: Path) -> str | None:
    if any(folder.glob("annotations/instances_*.json")):
        return "coco"
    if any((folder / part).is_dir() for part in ("JPEGImages", "ImageSets")):
        return "voc"
    return None


def _hint(text: str) -> str:
    found = _looks_like(Path(text).expanduser())
    return f"; the folder looks like {found.upper()}: use --data {found}:{text}" if found else ""
