"""The annotations of one split: an Arrow table with one row per image, memory-mapped by all its readers.

Boxes are xyxy in absolute pixels of the original image, float32, continuous: a box's width is ``x2 - x1``.

    >>> record = Record("a", 64, 48, boxes=[[1, 2, 11, 22]], labels=[0], image=b"...")
    >>> annotations = Annotations.from_records([record], classes=["cell"])
    >>> annotations.areas(0)
    array([200.], dtype=float32)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from drcnn.data.records import Record, as_row
from drcnn.data.warnings import WarningCounts
from drcnn.files import replacing

__all__ = ["Annotations", "DataError", "Record"]

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("image", pa.binary()),
        pa.field("digest", pa.binary(32), nullable=False),  # SHA-256 of the encoded image
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("boxes", pa.list_(pa.list_(pa.float32(), 4)), nullable=False),
        pa.field("labels", pa.list_(pa.int32()), nullable=False),
        pa.field("ignore", pa.list_(pa.bool_()), nullable=False),
        pa.field("areas", pa.list_(pa.float32()), nullable=False),
    ]
)
_METADATA_KEY = b"drcnn"
# Columns of one value an image.
PLAIN = ("id", "path", "image", "digest", "width", "height")


class DataError(ValueError):
    """Data that cannot be used; the message is one line, names the file and says what to do."""


class Annotations:
    """The images of one split with their boxes.

    Attributes:
        classes: names; a label is an index into them.
        skipped: the fault of everything that was left out when the data was read.
        warnings: how many of each kind there are; ``drcnn data check`` has their texts, which may be many.
        category_ids: COCO's category id of each class; empty for other formats.
    """

    def __init__(self, table: pa.Table) -> None:
        metadata = json.loads((table.schema.metadata or {}).get(_METADATA_KEY, b"null"))
        if metadata is None or not table.schema.equals(SCHEMA):
            raise DataError("not a drcnn annotation table; delete it and let it be prepared again")
        self.classes: tuple[str, ...] = tuple(metadata["classes"])
        self.skipped: tuple[str, ...] = tuple(metadata["skipped"])
        self.warnings: WarningCounts = tuple((kind, number) for kind, number in metadata.get("warnings", ()))
        self.category_ids: tuple[int, ...] = tuple(metadata["category_ids"])
        # One chunk per column, so that a column is one flat array plus offsets.
        self._table = table.combine_chunks()

    @classmethod
    def from_records(
        cls,
        records: Iterable[Record],
        classes: Sequence[str],
        *,
        skipped: Sequence[str] = (),
        category_ids: Sequence[int] = (),
    ) -> Annotations:
        """Build the table in memory.

        Raises:
            DataError: two images share an id, or there is no image.
        """
        columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
        seen: set[str] = set()
        for record in records:
            if record.id in seen:
                raise DataError(
                    f"image id {record.id!r} occurs twice; every image of a split needs its own id"
                )
            seen.add(record.id)
            for name, value in as_row(record).items():
                columns[name].append(value)
        if not seen:
            raise DataError("no image is left; check the split's list of images")
        metadata = {
            "classes": list(classes),
            "skipped": list(skipped),
            "warnings": [],
            "category_ids": list(category_ids),
        }
        schema = SCHEMA.with_metadata({_METADATA_KEY: json.dumps(metadata).encode()})
        return cls(pa.table(columns, schema=schema))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Annotations:
        """Open a saved table through a memory map: data is read only when it is used.

        Raises:
            DataError: the file is missing or is no annotation table.
        """
        try:
            return cls(pa.ipc.open_file(pa.memory_map(os.fspath(path))).read_all())
        except FileNotFoundError:
            raise DataError(f"{path}: no such annotation table; prepare the data first") from None
        except (pa.ArrowInvalid, DataError):
            raise DataError(
                f"{path}: not a drcnn annotation table; delete it and let it be prepared again"
            ) from None

    def first(self, count: int) -> Annotations:
        """The first ``count`` images, or all if there are fewer."""
        return self.take(range(min(count, len(self))))

    def take(self, rows: Sequence[int]) -> Annotations:
        """The images of these rows, in this order."""
        # Taken, not sliced: a slice would keep the boxes of all images behind its offsets.
        return Annotations(self._table.take(np.asarray(rows, dtype=np.int64)))

    def record(self, row: int) -> Record:
        """An image with its boxes, as a reader returned it."""
        plain = {name: self._table[name][row].as_py() for name in PLAIN}
        return Record(
            **plain,
            boxes=self.boxes(row),
            labels=self.labels(row),
            ignore=self.ignore(row),
            areas=self.areas(row),
        )

    def with_warnings(self, counts: WarningCounts) -> Annotations:
        """The same table with these warnings."""
        metadata = json.loads(self._table.schema.metadata[_METADATA_KEY]) | {"warnings": counts}
        encoded = {_METADATA_KEY: json.dumps(metadata).encode()}
        return Annotations(self._table.replace_schema_metadata(encoded))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an Arrow IPC file in one atomic step: readers see either the old file or the new one."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            replacing(target) as draft,
            pa.OSFile(str(draft), "wb") as sink,
            pa.ipc.new_file(sink, self._table.schema) as writer,
        ):
            writer.write_table(self._table)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Image ids, in row order."""
        return tuple(self._table["id"].to_pylist())

    @cached_property
    def widths(self) -> NDArray[np.int32]:
        """int32[N], pixels."""
        return self._table["width"].to_numpy()  # type: ignore[no-any-return]

    @cached_property
    def heights(self) -> NDArray[np.int32]:
        """int32[N], pixels."""
        return self._table["height"].to_numpy()  # type: ignore[no-any-return]

    @cached_property
    def offsets(self) -> NDArray[np.int32]:
        """int32[N + 1]: row r has the boxes ``offsets[r]`` to ``offsets[r + 1]`` of ``all_boxes``."""
        return self._column("labels").offsets.to_numpy()  # type: ignore[no-any-return]

    @cached_property
    def all_boxes(self) -> NDArray[np.float32]:
        """float32[T, 4], the boxes of all rows, xyxy absolute pixels."""
        flat: NDArray[np.float32] = self._column("boxes").values.values.to_numpy()
        return flat.reshape(-1, 4)

    @cached_property
    def all_labels(self) -> NDArray[np.int32]:
        """int32[T]."""
        return self._column("labels").values.to_numpy()  # type: ignore[no-any-return]

    @cached_property
    def all_ignore(self) -> NDArray[np.bool_]:
        """bool[T]: neither trained on nor counted in evaluation."""
        return self._column("ignore").values.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]

    @cached_property
    def all_areas(self) -> NDArray[np.float32]:
        """float32[T], square pixels: COCO's annotated (mask) area, else the box's."""
        return self._column("areas").values.to_numpy()  # type: ignore[no-any-return]

    @cached_property
    def trainable_counts(self) -> NDArray[np.int64]:
        """int64[N]: the number of boxes of each image that are not ignored."""
        total = np.concatenate([[0], np.cumsum(~self.all_ignore)])
        counts: NDArray[np.int64] = total[self.offsets[1:]] - total[self.offsets[:-1]]
        return counts

    def boxes(self, row: int) -> NDArray[np.float32]:
        """float32[G, 4], xyxy absolute pixels of the original image; read-only."""
        return self.all_boxes[self._span(row)]

    def labels(self, row: int) -> NDArray[np.int32]:
        """int32[G], 0-based class."""
        return self.all_labels[self._span(row)]

    def ignore(self, row: int) -> NDArray[np.bool_]:
        """bool[G]."""
        return self.all_ignore[self._span(row)]

    def areas(self, row: int) -> NDArray[np.float32]:
        """float32[G], square pixels."""
        return self.all_areas[self._span(row)]

    def source(self, row: int) -> str | bytes:
        """The location of the pixels: an absolute path, or the encoded image itself."""
        embedded = self._table["image"][row].as_py()
        source: str | bytes = embedded if embedded is not None else self._table["path"][row].as_py()
        return source

    def name(self, row: int) -> str:
        """The path of an image, or its id if it has none: for messages."""
        path: str | None = self._table["path"][row].as_py()
        return path or self.ids[row]

    @cached_property
    def digests(self) -> NDArray[np.bytes_]:
        """bytes[N] of 32, SHA-256 of each image; equal where the pictures are."""
        # An S32 array drops zeros at the end, which equal digests do alike.
        column = self._column("digest")
        return np.frombuffer(column.buffers()[1], dtype="S32", count=len(self), offset=32 * column.offset)

    @cached_property
    def content(self) -> dict[str, str]:
        """16 hex digits each of the ``images`` and of the ``annotations``, to tell which of them changed."""
        images = hashlib.sha256(self.digests.tobytes()).hexdigest()
        return {"images": images[:16], "annotations": self._annotations_digest().hexdigest()[:16]}

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the content, pixels included, independent of the folder."""
        digest = self._annotations_digest()
        for image in self._table["digest"]:
            digest.update(image.as_buffer())
        return digest.hexdigest()[:16]

    def _annotations_digest(self) -> hashlib._Hash:
        digest = hashlib.sha256(json.dumps([self.classes, self.ids]).encode())
        arrays: list[NDArray[Any]] = [self.widths, self.heights, self.offsets]
        arrays += [self.all_boxes, self.all_labels, self.all_ignore, self.all_areas]
        for array in arrays:
            digest.update(array.tobytes())
        return digest

    def _column(self, name: str) -> Any:
        return self._table[name].chunk(0)

    def _span(self, row: int) -> slice:
        return slice(int(self.offsets[row]), int(self.offsets[row + 1]))
