"""Read VOC's XML beside the images, or in a folder next to theirs (``drcnn.data.formats.label_pairs``).

Boxes are read as in a VOCdevkit (``drcnn.data.formats.voc_xml``): labelImg and its like count pixels from 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from drcnn.data.annotations import Annotations, DataError
from drcnn.data.faults import DataFaults
from drcnn.data.formats.label_pairs import Pair
from drcnn.data.formats.labelled_images import Objects, read_pairs
from drcnn.data.formats.voc_xml import all_class_names, parse, read_objects, warn_of_filename

__all__ = ["find_classes", "read_xml_pairs"]


def find_classes(labels: Iterable[Path]) -> tuple[str, ...]:
    """Return the sorted names of all objects in these files; damaged files are passed over.

    Raises:
        DataError: a name cannot be shown.
    """
    return tuple(sorted(all_class_names(labels)))


def read_xml_pairs(pairs: Sequence[Pair], classes: Sequence[str], faults: DataFaults) -> Annotations:
    """Read images with their XML.

    Args:
        pairs: the images.
        classes: their names, by label.
        faults: collects every fault; see ``read_pairs``.

    Raises:
        DataError: as ``read_pairs`` does.
    """
    index = {name: label for label, name in enumerate(classes)}
    images = {pair.image.stem for pair in pairs}

    def read(pair: Pair, size: tuple[int, int]) -> Objects:
        try:
            file = parse(pair.label)
        except DataError as error:
            return Objects(faults=[str(error)])
        warn_of_filename(file, pair.image, images, faults)
        found = read_objects(file, size, faults)
        if found.faults:
            return Objects(faults=found.faults)
        labels = [index[name] for name in found.names]
        return Objects(found.boxes, labels, found.difficult, [], file.size)

    return read_pairs(pairs, classes, read, faults)
