"""How each kind of data is read: ``data.source`` opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from drcnn.config import DataConfig
from drcnn.data import digits
from drcnn.data.annotations import Annotations, DataError
from drcnn.data.faults import DataFaults
from drcnn.data.formats import coco, coco_layout, voc, voc_pairs, yolo, yolo_layout
from drcnn.data.formats.classes import concatenated
from drcnn.data.formats.folders import (
    as_split,
    distinct_names,
    instead_of,
    is_folder,
    joined_folders,
)
from drcnn.data.formats.label_pairs import Pair, Pairs, find_pairs, label_faults
from drcnn.data.formats.layouts import FORMATS, has_lists, not_of_format, resolve_source
from drcnn.data.formats.made_splits import divided, with_missing_splits
from drcnn.data.formats.source import Source
from drcnn.file_names import is_possible, typed_path

__all__ = ["open_source", "split_names"]

DIGITS_COUNTS = {"train": 500, "val": 150, "test": 300}


def open_source(data: DataConfig) -> Source:
    """Find the files of ``data.source``; nothing is read yet.

    Raises:
        DataError: there is no such folder, or it is not of the format.
    """
    if data.source == "digits":
        counts = {
            split: getattr(data, f"{split}_images") or number for split, number in DIGITS_COUNTS.items()
        }
        return _digits_source(counts)
    return with_missing_splits(_open_folders(data), data)


def _open_folders(data: DataConfig) -> Source:
    form, _, where = resolve_source(data.source).partition(":")
    if not where:
        raise DataError(f"--data {data.source}: names no folder; expected {form}:DIR")
    folders = [_folder(part, form) for part in joined_folders(where)]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise DataError(f"--data {data.source}: {folder} is given twice; name every folder once")
    if form == "voc" and all(has_lists(folder) for folder in folders):
        return _voc_source(folders)
    openers = {"voc": _xml_source, "coco": _coco_source, "yolo": _yolo_source}
    sources = [openers[form](folder, data.split) for folder in folders]
    return sources[0] if len(sources) == 1 else _joined_source(sources, distinct_names(folders))


def split_names(data: DataConfig, source: Source) -> dict[str, str]:
    """Return what the data call each of the splits ``train``, ``val`` and ``test``, of those that they have.

    Raises:
        DataError: there is nothing to choose or to judge by.
    """
    if data.source == "digits":
        wanted = {"train": "train", "val": data.val_split and "val", "test": data.test_split and "test"}
    else:
        test = source.find("test") if data.test_split == "auto" else data.test_split
        val = data.val_split
        if val == "auto":
            # Without a test split val is looked at once, to judge by, and nothing chooses.
            val, test = (source.find("val"), test) if test or not data.test_split else (None, "val")
        wanted = {"train": data.train_split, "val": val, "test": test}
    names = {split: source.find(name) or name for split, name in wanted.items() if name}
    if len(names) == 1:
        raise DataError(
            f"{data.source}: there is neither a split to choose by nor one to judge by; "
            "set data.val_split or data.test_split"
        )
    return names


def _folder(text: str, form: str) -> Path:
    folder = typed_path(text).absolute()
    if not is_folder(folder):
        state = "is not a folder" if is_possible(folder) and folder.exists() else "no such folder"
        raise DataError(f"{folder}: {state}; --data {form}: takes a folder of {FORMATS[form]}")
    return folder


def _digits_source(counts: dict[str, int]) -> Source:
    return Source(
        read=lambda split, _: digits.make_digits(counts[split], split=split),  # type: ignore[arg-type]
        files=lambda split: [],
        find=lambda split: split if split in counts else None,
        settings=("digits", digits.DIGITS_SEED, *counts.items()),
        words="",
    )


def _voc_source(folders: list[Path]) -> Source:
    parts = ("Annotations", "JPEGImages", "ImageSets/Main")
    lists = [path.stem for folder in folders for path in sorted(folder.glob("ImageSets/Main/*.txt"))]
    return Source(
        read=lambda split, faults: voc.read_voc(folders, split, faults),
        files=lambda split: [folder / part for folder in folders for part in parts],
        find=lambda split: _alike(lists, split),
        settings=("voc", *map(str, folders)),
        words="VOC, with lists of images in ImageSets/Main/",
    )


def _coco_source(folder: Path, shares: str) -> Source:
    found = coco_layout.find_splits(folder)
    if found is None:
        raise not_of_format(folder, "coco")
    source = Source(
        read=lambda split, faults: coco.read_coco(folder, split, faults),
        files=lambda split: list(coco_layout.find_files(folder, split)),
        # The reader looks for it again: messages name the split as it was asked for.
        find=lambda split: split if coco_layout.match_split(found.splits, split, folder) else None,
        settings=("coco", str(folder)),
        words=f"COCO {found.words}",
    )
    return divided(source, str(folder), shares) if "" in found.splits else source


def _xml_source(folder: Path, shares: str) -> Source:
    pairs = find_pairs(folder, ".xml")
    if pairs is None:
        raise not_of_format(folder, "voc")
    return _pairs_source(
        pairs,
        lambda chosen, faults: voc_pairs.read_xml_pairs(chosen, voc_pairs.find_classes(pairs.labels), faults),
        folder,
        "voc",
        [],
        shares,
    )


def _yolo_source(folder: Path, shares: str) -> Source:
    found = yolo_layout.find_yolo(folder)
    if found is None:
        raise not_of_format(folder, "yolo")
    classes = found.classes
    if classes is None or found.names_file is None:
        raise DataError(
            f"{folder}: has YOLO's labels ({found.pairs.words}), but no names of classes; add classes.txt "
            "with a name a line, or data.yaml with names"
        )
    return _pairs_source(
        found.pairs,
        lambda chosen, faults: yolo.read_yolo(chosen, classes, faults),
        folder,
        "yolo",
        [found.names_file],
        shares,
    )


def _pairs_source(
    pairs: Pairs,
    read: Callable[[Sequence[Pair], DataFaults], Annotations],
    folder: Path,
    form: str,
    others: list[Path],
    shares: str,
) -> Source:
    """Read images with a label file each; ``others`` are further files that decide the content."""
    if not pairs.labels or not any(pair.label.is_file() for pair in pairs.all):
        raise DataError(
            f"{folder}: no image has a label ({form.upper()} {pairs.words}); give them the same name"
        )

    def read_split(split: str, faults: DataFaults) -> Annotations:
        if split not in pairs.splits:
            raise DataError(
                f"{folder}: no split {split!r} (there are: {', '.join(pairs.splits)}); {instead_of(split)}"
            )
        if split == next(iter(pairs.splits)):
            for message in label_faults(pairs):
                faults.add([message])
        return read(pairs.splits[split], faults)

    def files(split: str) -> list[Path]:
        return [*others, *(pair.image for pair in pairs.splits.get(split, ())), *pairs.labels]

    source = Source(
        read=read_split,
        files=files,
        find=lambda split: _alike(list(pairs.splits), split),
        settings=(form, str(folder)),
        words=f"{form.upper()} labels {pairs.words}",
    )
    return divided(source, str(folder), shares) if "" in pairs.splits else source


def _joined_source(sources: list[Source], names: list[str]) -> Source:
    def having(split: str) -> list[tuple[str, Source, str]]:
        found = [(name, source, source.find(split)) for name, source in zip(names, sources, strict=True)]
        return [(name, source, own) for name, source, own in found if own is not None]

    def read(split: str, faults: DataFaults) -> Annotations:
        if not having(split):
            raise DataError(
                f"{', '.join(names)}: none of these folders has a split {split!r}; {instead_of(split)}"
            )
        return concatenated({name: source.read(own, faults) for name, source, own in having(split)})

    return Source(
        read=read,
        files=lambda split: [path for _, source, own in having(split) for path in source.files(own)],
        find=lambda split: split if having(split) else None,
        settings=tuple(setting for source in sources for setting in source.settings),
        words=" + ".join(source.words for source in sources),
    )


def _alike(existing: list[str], split: str) -> str | None:
    """Return the split of this name, or else one whose name means the same."""
    if split in existing:
        return split
    meaning = as_split(split)
    return next((name for name in existing if meaning and as_split(name) == meaning), None)
