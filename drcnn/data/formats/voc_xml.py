"""Read one annotation file of VOC's form, as labelImg and many converters write it too.

VOC's corners are pixel numbers counted from 1. As MMDetection does (and so the paper), 1 is taken off all
four and the result is used as a continuous box: ``xmin..xmax`` becomes ``[xmin - 1, xmax - 1]``, of width
``xmax - xmin``. Decimals are kept.
"""

from __future__ import annotations

import codecs
import re
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from drcnn.data.annotations import DataError
from drcnn.data.faults import Box, DataFaults, checked_box, looks_normalised
from drcnn.data.formats.classes import require_class_names
from drcnn.plain_text import shown

__all__ = [
    "VocFile",
    "VocObjects",
    "all_class_names",
    "class_names",
    "parse",
    "read_objects",
    "read_text",
    "warn_of_filename",
]

CORNERS = ("xmin", "ymin", "xmax", "ymax")
DIFFICULT = {"0": False, "1": True, "false": False, "true": True, "no": False, "yes": True}
DECLARATION = re.compile(rb"""<\?xml[^>]*?\bencoding\s*=\s*["']([\w.:-]+)["']""")
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# What Windows writes under these names has more characters than the standards say.
SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932"}


@dataclass(frozen=True)
class VocFile:
    """An annotation file.

    Attributes:
        path: of the file.
        root: its ``<annotation>``.
    """

    path: Path
    root: ET.Element

    @property
    def filename(self) -> str:
        """The image file that it names, without a folder; empty if it names none."""
        return PureWindowsPath((self.root.findtext("filename") or "").strip()).name

    @property
    def size(self) -> tuple[int, int] | None:
        """The width and height that it states, if it states both."""
        texts = (self.root.findtext(f"size/{side}") or "" for side in ("width", "height"))
        try:
            width, height = (round(float(text)) for text in texts)
        except (ValueError, OverflowError):
            return None
        return width, height


@dataclass
class VocObjects:
    """Usable objects of an annotation file, and the faults of all its objects."""

    names: list[str] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def parse(path: Path) -> VocFile:
    """Parse an annotation file.

    Raises:
        DataError: it does not exist, is not XML in the encoding that it declares, or is another document.
    """
    text = read_text(path)
    # Entities could make a small file fill the memory, and VOC does not need them.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(f"{path}: has a DOCTYPE or ENTITY declaration, which is refused; remove it")
    try:
        root = ET.fromstring(text)
    except (ET.ParseError, ValueError) as error:
        raise DataError(
            f"{path}: not readable as XML ({error}); correct it or use --on-bad-data skip"
        ) from None
    if root.tag != "annotation":
        raise DataError(
            f"{path}: the root is <{root.tag[:50]}>, expected <annotation>; is this a VOC annotation?"
        )
    return VocFile(path, root)


def class_names(file: VocFile) -> set[str]:
    """Return the names of its objects."""
    return {name for item in file.root.findall("object") if (name := (item.findtext("name") or "").strip())}


def all_class_names(paths: Iterable[Path]) -> set[str]:
    """The names of all classes in these files; damaged files are passed over, whoever reads them names them.

    Raises:
        DataError: a name cannot be shown.
    """
    names: set[str] = set()
    for path in paths:
        try:
            found = class_names(parse(path))
        except DataError:
            continue
        require_class_names(found, str(path))
        names |= found
    return names


def read_objects(file: VocFile, size: tuple[int, int], warnings: DataFaults) -> VocObjects:
    """Read the objects of an annotation file.

    Args:
        file: the annotation.
        size: (width, height) of its image, in pixels.
        warnings: gets those about single objects.
    """
    objects = VocObjects()
    for number, item in enumerate(file.root.findall("object"), start=1):
        where = f"{file.path}: object {number}"
        try:
            name = _text(item, "name", where)
            box = _box(item, size, where)
            difficult = _difficult(item, where, warnings)
        except DataError as error:
            objects.faults.append(str(error))
            continue
        if box is None:
            # Nothing can match it and no regression target exists, but the rest of the image is usable.
            warnings.warn("boxes of zero area, left out", f"{where}: box of zero area left out")
            continue
        objects.names.append(name)
        objects.boxes.append(box)
        objects.difficult.append(difficult)
    return objects


def warn_of_filename(file: VocFile, image: Path, others: Collection[str], warnings: DataFaults) -> None:
    """Warn of an annotation that names another image than it is used for: it may be a copy of that one's.

    Args:
        file: the annotation.
        image: that it is used for.
        others: the names without suffix of all images beside it.
        warnings: gets it.
    """
    named = file.filename
    if not named or image.stem in (named, Path(named).stem):
        return
    other = "another image of the folder" if Path(named).stem in others else "no image of the folder"
    warnings.warn(
        "annotations that name another image",
        f"{file.path}: its <filename> is {named!r}, {other}; it is used for {image.name}",
    )


def read_text(path: Path) -> str:
    """Read a text file in the encoding of its byte order mark or XML declaration, else as UTF-8.

    Raises:
        DataError: it does not exist, or cannot be read in that encoding.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; restore it or use --on-bad-data skip") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); correct it") from None
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), None)
    if encoding is None:
        declared = DECLARATION.match(content)
        encoding = declared[1].decode().lower() if declared else "utf-8"
        if encoding.startswith(("utf-16", "utf-32")):
            encoding = (
                "utf-8"  # it could not be read as bytes: some tools declare it of what they save as UTF-8
            )
    try:
        encoding = codecs.lookup(encoding).name
        return content.decode(SUPERSETS.get(encoding, encoding))
    except (LookupError, UnicodeError) as error:
        raise DataError(
            f"{path}: cannot be read as {encoding} text ({error}); save it as UTF-8, or correct the "
            "encoding that it declares"
        ) from None


def _box(item: ET.Element, size: tuple[int, int], where: str) -> Box | None:
    left, top, right, bottom = (_number(item, f"bndbox/{corner}", where) for corner in CORNERS)
    if looks_normalised((left, top, right, bottom), *size):
        raise DataError(
            f"{where}: box [{left:g}, {top:g}, {right:g}, {bottom:g}] seems to be in fractions of the image, "
            "expected pixels; multiply it by the image's size"
        )
    return checked_box((left - 1, top - 1, right - 1, bottom - 1), *size, where)


def _difficult(item: ET.Element, where: str, warnings: DataFaults) -> bool:
    element = item.find("difficult")
    if element is None:
        return False
    text = (element.text or "").strip()
    if text.lower() not in DIFFICULT:
        warnings.warn(
            "flags 'difficult' without a value, read as 0",
            f"{where}: <difficult> is {shown(text)}, expected 0 or 1; is read as 0",
        )
    return DIFFICULT.get(text.lower(), False)


def _text(item: ET.Element, field_name: str, where: str) -> str:
    text = (item.findtext(field_name) or "").strip()
    if not text:
        tags = "><".join(field_name.split("/"))
        raise DataError(f"{where}: has no <{tags}>; add it or use --on-bad-data skip")
    return text


def _number(item: ET.Element, field_name: str, where: str) -> float:
    text = _text(item, field_name, where)
    try:
        return float(text)
    except ValueError:
        tag = field_name.rpartition("/")[2]
        raise DataError(f"{where}: <{tag}> is {shown(text)}, expected a number; correct it") from None
