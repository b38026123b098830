"""Recognise what a data folder is: VOC, COCO or YOLO, and in which arrangement."""

from __future__ import annotations

from pathlib import Path

from drcnn.data.annotations import DataError
from drcnn.data.formats import coco_layout, yolo_layout
from drcnn.data.formats.folders import is_folder, joined_folders
from drcnn.data.formats.label_pairs import find_pairs
from drcnn.file_names import is_possible, typed_path

__all__ = ["FORMATS", "has_lists", "not_of_format", "resolve_source"]

FORMATS = {
    "voc": "VOC (JPEGImages/ with Annotations/*.xml, *.xml beside the images or in annotations/)",
    "coco": f"COCO ({coco_layout.LOOKED_FOR})",
    "yolo": f"YOLO ({yolo_layout.LOOKED_FOR})",
}
MOST_LISTED = 8


def resolve_source(source: str) -> str:
    """Return a source with its format: ``photos`` becomes ``yolo:photos`` if the folder has YOLO's labels.

    ``digits``, and sources that name their format, are returned as they are.

    Raises:
        DataError: there is no such folder; it has no known format, or several.
    """
    form, colon, _ = source.partition(":")
    if source == "digits" or (colon and form in FORMATS):
        return source
    folders = joined_folders(source)
    forms = {text: _form_of(text, source) for text in folders}
    if len(set(forms.values())) > 1:
        kinds = ", ".join(f"{text} is {form.upper()}" for text, form in forms.items())
        raise DataError(f"--data {source}: the folders are of several formats ({kinds}); convert them to one")
    return f"{forms[folders[0]]}:{source}"


def has_lists(folder: Path) -> bool:
    """Whether a folder has VOC's lists of images; one list ``default`` (CVAT) is no split."""
    names = {path.stem for path in folder.glob("ImageSets/Main/*.txt")}
    return bool(names - {"default"})


def not_of_format(folder: Path, form: str) -> DataError:
    """Return the error for a folder that is not of the format that was given for it."""
    found = _formats_in(folder)
    if not found:
        return DataError(f"{folder}: {_nothing_found(folder)}")
    other, words = next(iter(found.items()))
    return DataError(
        f"{folder}: is not {FORMATS[form]}; it looks like {other.upper()} ({words}): use "
        f"--data {other}:{folder}"
    )


def _form_of(text: str, source: str) -> str:
    if text.startswith(("http://", "https://", "ftp://")):
        raise DataError(f"--data {source}: addresses are not read; download the data and give the folder")
    if "://" in text:
        raise DataError(f"--data {source}: say the format of a folder in an object store, as in voc:{text}")
    folder = typed_path(text)
    if not is_folder(folder):
        state = "is no folder" if is_possible(folder) and folder.exists() else "no such folder"
        raise DataError(
            f"--data {source}: {state}; expected 'digits', a folder, or a folder with its format (voc:DIR, "
            "coco:DIR, yolo:DIR)"
        )
    found = _formats_in(folder)
    if not found:
        raise DataError(f"{folder}: {_nothing_found(folder)}")
    if len(found) > 1:
        kinds = " and ".join(f"{form.upper()} ({words})" for form, words in found.items())
        raise DataError(
            f"{folder}: could be {kinds}; say which: "
            + " or ".join(f"--data {form}:{text}" for form in found)
        )
    return next(iter(found))


def _formats_in(folder: Path) -> dict[str, str]:
    """Return the formats that a folder seems to have, each with what tells so."""
    found = {}
    pairs = find_pairs(folder, ".xml")
    if pairs is not None or has_lists(folder):
        found["voc"] = "ImageSets/" if pairs is None else f"XML {pairs.words}"
    files = coco_layout.find_splits(folder)
    if files is not None:
        found["coco"] = files.words
    yolo = yolo_layout.find_yolo(folder)
    if yolo is not None:
        found["yolo"] = yolo.pairs.words
    return found


def _nothing_found(folder: Path) -> str:
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    if not names:
        return "the folder is empty; expected images with labels"
    more = ", ..." if len(names) > MOST_LISTED else ""
    below = [path for path in sorted(folder.iterdir())[:20] if path.is_dir() and _formats_in(path)]
    hint = f"; {below[0]} looks like {next(iter(_formats_in(below[0]))).upper()}: give that" if below else ""
    return (
        f"holds no data of a known format: there is {', '.join(names[:MOST_LISTED])}{more}; looked for "
        f"{', '.join(FORMATS.values())}{hint}"
    )
