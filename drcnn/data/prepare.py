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
from pathlib import Path

from drcnn import split_shares
from drcnn.config import DataConfig
from drcnn.data.annotations import Annotations, DataError
from drcnn.data.checks import few_to_judge, unusable, warnings_across_splits, warnings_of_split
from drcnn.data.faults import DataFaults
from drcnn.data.formats.classes import matched
from drcnn.data.formats.folders import all_files, as_split
from drcnn.data.formats.source import Source
from drcnn.data.formats.sources import open_source, split_names
from drcnn.data.prepared import PreparedData
from drcnn.data.table_checksum import checksum_file, matches_checksum, write_checksum
from drcnn.data.warnings import count_warnings, total

__all__ = ["PreparedData", "prepare", "prepare_judged"]


def prepare(data: DataConfig, cache: Path) -> PreparedData:
    """Read the splits of ``data.source`` into ``cache``, or reuse what an earlier call left there.

    A table is made again when a file it was made from has changed (name, size or time), and when it does not
    match the checksum beside it (``<table>.sha256``): loader workers and trials, which map it into memory, do
    not verify it. Several processes may prepare at once. ``data.train_split``, ``val_split`` and
    ``test_split`` name the splits of a folder; ``digits`` has splits of its own.

    Raises:
        DataError: the source is missing, empty, of another format or damaged; see ``read_voc``.
    """
    source = open_source(data)
    names = split_names(data, source)
    made = {split: _table(source, name, split, data, cache) for split, name in names.items()}
    classes = Annotations.load(made["train"]).classes
    for split, path in made.items():
        try:
            made[split] = matched(path, classes)
        except DataError as error:
            raise DataError(
                f"{data.source}: the classes of {names['train']!r} and {names[split]!r} differ: "
                f"{names[split]!r} has {error}; give splits with the same categories"
            ) from None
    tables = {split: Annotations.load(path) for split, path in made.items()}
    _refuse_unusable(data, tables, names)
    across = count_warnings(warnings_across_splits(tables))
    content = " ".join(f"{split} {table.fingerprint}" for split, table in tables.items())
    return PreparedData(
        train=made["train"],
        val=made.get("val"),
        test=made.get("test"),
        classes=classes,
        fingerprint=hashlib.sha256(content.encode()).hexdigest()[:16],
        skipped=tuple(dict.fromkeys(message for table in tables.values() for message in table.skipped)),
        warnings=total([*(table.warnings for table in tables.values()), across]),
        described=_described(source, tables, names),
    )


def prepare_judged(data: DataConfig, cache: Path) -> str:
    """Prepare only the split that a detector is judged by (``PreparedData.judged``); return its table's path.

    Raises:
        DataError: as ``prepare`` does.
    """
    source = open_source(data)
    names = split_names(data, source)
    split = "test" if "test" in names else "val"
    path = _table(source, names[split], split, data, cache)
    _refuse_unusable(data, {split: Annotations.load(path)}, names)
    return path


def _refuse_unusable(data: DataConfig, tables: dict[str, Annotations], names: dict[str, str]) -> None:
    for message in unusable(tables, names):
        raise DataError(f"{data.source}: {message}")


def _table(source: Source, name: str, split: str, data: DataConfig, cache: Path) -> str:
    """Return the path of the table of a split's first images; make it if it does not exist.

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
    if matches_checksum(path, checksum_file(path)):
        return str(path)
    faults = DataFaults(skip=skip)
    table = source.read(name, faults)
    warnings = [*faults.warnings, *few_to_judge(split, table, count)]
    table = table if count is None else table.first(count)
    warnings += warnings_of_split(split, table)
    table.with_warnings(count_warnings(warnings)).save(path)
    write_checksum(path)
    return str(path)


def _described(source: Source, tables: dict[str, Annotations], names: dict[str, str]) -> str:
    def count(split: str) -> str:
        # A split may serve as another one: COCO's val is the paper's test.
        other = "" if as_split(names[split]) == split else f" (its {names[split]})"
        return f"{split} {len(tables[split]):,}{other}"

    return f"{source.words}; images: {', '.join(map(count, tables))}" if source.words else ""


def _stamps(paths: list[Path]) -> list[tuple[str, int, int]]:
    """Name, size and modification time of the files, and of all files in the folders."""
    stamps = []
    for path in paths:
        for file in all_files(path) if path.is_dir() else [path]:
            # A link may lead nowhere; the reader says so if it needs the file.
            if file.exists():
                status = file.stat()
                stamps.append((str(file), status.st_size, status.st_mtime_ns))
    return sorted(stamps)


def _code_stamp() -> str:
    """A hash of the code that makes tables, so that none of an older version is reused."""
    paths = [*sorted(Path(__file__).parent.rglob("*.py")), Path(split_shares.__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
