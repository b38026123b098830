"""Read a VOCdevkit year folder: ``JPEGImages/``, ``Annotations/``, ``ImageSets/Main/{split}.txt``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from drcnn.data.annotations import Annotations, DataError, Record
from drcnn.data.faults import DataFaults, size_fault
from drcnn.data.formats.folders import IMAGE_SUFFIXES, distinct_names, instead_of
from drcnn.data.formats.voc_xml import (
    VocFile,
    all_class_names,
    parse,
    read_objects,
    read_text,
    warn_of_filename,
)
from drcnn.data.images import inspect
from drcnn.plain_text import shown

__all__ = ["VOC_CLASSES", "read_voc"]

# No file system has longer names of files.
LONGEST_NAME = 255
# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on


def read_voc(folders: Sequence[Path], split: str, faults: DataFaults) -> Annotations:
    """Read one split of one or several folders.

    The classes are VOC's 20 in alphabetical order if every name in the folders is one of them, else the
    sorted names of all their annotations, so that all splits agree. With several folders an id is
    ``folder/name``. Images without objects are kept: they count in evaluation. An XML's stated size is
    compared with the image file's, which is used.

    Args:
        folders: joined in this order.
        split: the name of a list in ``ImageSets/Main``. Of a class's list (``dog_train``), whose lines end
            with a mark, the images marked -1 (without the class) are left out.
        faults: collects every fault and warning. If it skips, an image with any fault is left out, and every
            image is decoded once to find damage (two minutes for VOC07+12), so that training finds none.

    Raises:
        DataError: the folder is no VOC folder, the list is missing or empty; or, unless ``faults`` skips,
            an annotation or image is missing or damaged, an object lacks a field, or a box is wrong.
    """
    lists = {folder: _find_list(folder, split) for folder in folders}
    if not any(path.is_file() for path in lists.values()):
        first = lists[folders[0]]
        existing = ", ".join(sorted(file.stem for file in first.parent.glob("*.txt"))) or "none"
        raise DataError(f"{first}: no such list (there are: {existing}); {instead_of(split)}")
    names = sorted(
        set().union(*(all_class_names((folder / "Annotations").glob("*.xml")) for folder in folders))
    )
    classes = VOC_CLASSES if set(names) <= set(VOC_CLASSES) else tuple(names)
    index = {name: label for label, name in enumerate(classes)}
    prefixes = dict(zip(folders, distinct_names(folders), strict=True))
    records = []
    for folder, path in lists.items():
        if not path.is_file():
            # VOC2012 has no test list: VOC2007+VOC2012 train on both and are tested on the first.
            faults.warn(
                "folders without the split's list",
                f"{path}: no such list, so no image of this folder is in split {split!r}",
            )
            continue
        images = _images(folder)
        prefix = f"{prefixes[folder]}/" if len(folders) > 1 else ""
        for name in _read_list(path, images, faults):
            record = _read_image(folder, name, images, index, prefix, faults)
            if record is not None:
                records.append(record)
    if not records:
        raise DataError(f"{folders[0]}: split {split!r} has no usable image")
    return Annotations.from_records(records, classes, skipped=faults.messages)


def _find_list(folder: Path, split: str) -> Path:
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        if not (folder / part).is_dir():
            raise DataError(
                f"{folder}: no folder {part}/; expected a VOCdevkit year folder with "
                "JPEGImages/, Annotations/ and ImageSets/Main/"
            )
    return folder / "ImageSets" / "Main" / f"{split}.txt"


def _images(folder: Path) -> dict[str, list[Path]]:
    """The image files of a folder, by their name without suffix."""
    images: dict[str, list[Path]] = {}
    for path in sorted((folder / "JPEGImages").iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            images.setdefault(path.stem, []).append(path)
    return images


def _read_list(path: Path, images: Collection[str], faults: DataFaults) -> list[str]:
    lines = [line.strip() for line in read_text(path).splitlines()]
    names, absent = [], 0
    for line in filter(None, lines):
        name, mark = _name_and_mark(line, images)
        if mark == "-1":
            absent += 1
            continue
        names.append(name)
    if absent:
        faults.warn(
            "lists with images marked -1, left out",
            f"{path}: leaves out what is marked -1, the images without the class: {absent}",
        )
    if not names:
        raise DataError(f"{path}: the list is empty; expected an image name a line")
    if len(set(names)) < len(names):
        twice = next(name for name, number in Counter(names).items() if number > 1)
        raise DataError(f"{path}: {shown(twice)} is listed twice; remove one of the lines")
    for name in names:
        # A name must not be a path, so that nothing outside the folder is read.
        if "/" in name or "\\" in name or name in {".", ".."} or len(name) > LONGEST_NAME:
            raise DataError(
                f"{path}: {shown(name)} is not an image name; expected a name without folder and suffix"
            )
    return names


def _name_and_mark(line: str, images: Collection[str]) -> tuple[str, str]:
    """Split a line of a list into the image's name, which may have spaces, and a class's mark, if any."""
    if line in images:
        return line, ""
    name, mark = line, ""
    words = line.rsplit(maxsplit=1)
    if len(words) == 2 and words[1] in {"-1", "0", "1"}:
        name, mark = words
    stem, dot, suffix = name.rpartition(".")
    if name not in images and stem in images and f"{dot}{suffix}".lower() in IMAGE_SUFFIXES:
        name = stem
    return name, mark


def _read_image(
    folder: Path,
    name: str,
    images: Mapping[str, list[Path]],
    index: Mapping[str, int],
    prefix: str,
    faults: DataFaults,
) -> Record | None:
    """Read a listed image; none if it has a fault that is skipped."""
    try:
        if name not in images:
            missing = folder / "JPEGImages" / f"{name}.jpg"
            raise DataError(f"{missing}: no such image file; restore it or use --on-bad-data skip")
        annotation = folder / "Annotations" / f"{name}.xml"
        if not annotation.exists():
            # Its objects are not known: as an image without any it would make every detection in it wrong.
            raise DataError(
                f"{annotation}: no such file, though the list names its image; restore it, write one without "
                "objects if the image has none, or use --on-bad-data skip"
            )
        file = parse(annotation)
        path = _choose_image(images[name], file)
        image = inspect(str(path), decode_all=faults.skip)
    except DataError as error:
        faults.add([str(error)])
        return None
    objects = read_objects(file, image.size, faults)
    if faults.add([*size_fault(str(path), image, file.size, str(file.path)), *objects.faults]):
        return None
    faults.warn_of_image(str(path), image, file.size)
    warn_of_filename(file, path, images, faults)
    return Record(
        id=f"{prefix}{name}",
        width=image.width,
        height=image.height,
        boxes=objects.boxes,
        labels=[index[class_name] for class_name in objects.names],
        ignore=objects.difficult,
        path=str(path),
        digest=image.digest,
    )


def _choose_image(found: Sequence[Path], file: VocFile) -> Path:
    """Return the image of an annotation; ``<filename>`` decides between several suffixes."""
    if len(found) == 1:
        return found[0]
    named = [path for path in found if path.name == file.filename]
    if not named:
        files = " and ".join(path.name for path in found)
        raise DataError(
            f"{file.path}: {files} both exist and its <filename> is {file.filename!r}; remove one of them, "
            "correct <filename> or use --on-bad-data skip"
        )
    return named[0]
