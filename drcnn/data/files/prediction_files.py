"""Write detections as COCO's JSON, and as label files of YOLO and VOC."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from drcnn.data.annotations import DataError
from drcnn.files import write_text

__all__ = ["LABEL_FORMATS", "LabelledPicture", "write_coco", "write_labels"]


@dataclass(frozen=True)
class LabelledPicture:
    """A picture and its D detections.

    Attributes:
        name: of its file, with ``/`` between folders; a frame is called ``clip.mp4/000001``.
        width: in pixels; ``height`` likewise.
        boxes: float32[D, 4], xyxy in pixels; ``scores``: float32[D]; ``labels``: D names.
        seconds: of a frame, from the video's beginning.
    """

    name: str
    width: int
    height: int
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: tuple[str, ...]
    seconds: float | None = None


def write_coco(path: Path, pictures: Sequence[LabelledPicture], classes: Sequence[str]) -> None:
    """Write a COCO data set whose annotations have scores.

    ``annotations`` alone is a list of results as COCO's evaluation takes it. Images and categories are
    numbered from 1, images in order; those without a detection are listed too.
    """
    ids = {name: number for number, name in enumerate(classes, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, picture in enumerate(pictures, 1):
        time = {} if picture.seconds is None else {"seconds": round(picture.seconds, 6)}
        image = {"id": image_id, "file_name": picture.name, "width": picture.width, "height": picture.height}
        images.append(image | time)
        for box, score, label in zip(picture.boxes, picture.scores, picture.labels, strict=True):
            x1, y1, x2, y2 = box.astype(float).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": ids[label],
                    "bbox": [round(x1, 3), round(y1, 3), round(x2 - x1, 3), round(y2 - y1, 3)],
                    "area": round((x2 - x1) * (y2 - y1), 3),
                    "iscrowd": 0,
                    "score": round(float(score), 6),
                }
            )
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    content = {"images": images, "categories": categories, "annotations": annotations}
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def write_labels(
    kind: str, folder: Path, pictures: Sequence[LabelledPicture], classes: Sequence[str]
) -> Path:
    """Write a label file for each picture, without scores; return the folder that they are in.

    Args:
        kind: one of ``LABEL_FORMATS``. ``yolo``: ``labels/NAME.txt`` and ``labels/classes.txt``; ``voc``:
            ``Annotations/NAME.xml``.
        folder: of the results.
        pictures: each gets a file, also without detections.
        classes: names; YOLO's numbers are places in this list.

    Raises:
        DataError: two pictures would share a file.
    """
    part, suffix, text_of = LABEL_FORMATS[kind]
    names: dict[PurePosixPath, str] = {}
    for picture in pictures:
        name = PurePosixPath(picture.name).with_suffix(suffix)
        if name in names:
            raise DataError(
                f"{names[name]} and {picture.name} would both have the labels {name}; rename one of them"
            )
        names[name] = picture.name
    for name, picture in zip(names, pictures, strict=True):
        path = folder / part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text_of(picture, classes))
    if kind == "yolo":
        write_text(folder / part / "classes.txt", "".join(f"{name}\n" for name in classes))
    return folder / part


def _yolo(picture: LabelledPicture, classes: Sequence[str]) -> str:
    """A line an object: class number, centre and size as fractions of the picture's."""
    lines = []
    for (x1, y1, x2, y2), label in zip(picture.boxes.astype(float).tolist(), picture.labels, strict=True):
        x, y = (x1 + x2) / 2 / picture.width, (y1 + y2) / 2 / picture.height
        width, height = (x2 - x1) / picture.width, (y2 - y1) / picture.height
        lines.append(f"{classes.index(label)} {x:.6f} {y:.6f} {width:.6f} {height:.6f}\n")
    return "".join(lines)


def _voc(picture: LabelledPicture, _: Sequence[str]) -> str:
    """VOC's XML: corners are whole pixels, counted from 1, that belong to the object."""
    root = ElementTree.Element("annotation")
    _add(root, "filename", PurePosixPath(picture.name).name)
    size = ElementTree.SubElement(root, "size")
    for tag, value in (("width", picture.width), ("height", picture.height), ("depth", 3)):
        _add(size, tag, value)
    for box, label in zip(picture.boxes.astype(float).tolist(), picture.labels, strict=True):
        item = ElementTree.SubElement(root, "object")
        _add(item, "name", label)
        _add(item, "difficult", 0)
        corners = ElementTree.SubElement(item, "bndbox")
        limits = (picture.width, picture.height) * 2
        for tag, value, limit in zip(("xmin", "ymin", "xmax", "ymax"), box, limits, strict=True):
            _add(corners, tag, min(round(value) + 1, limit))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, tag: str, value: Any) -> None:
    ElementTree.SubElement(parent, tag).text = str(value)


LABEL_FORMATS: dict[str, tuple[str, str, Callable[[LabelledPicture, Sequence[str]], str]]] = {
    "yolo": ("labels", ".txt", _yolo),
    "voc": ("Annotations", ".xml", _voc),
}
