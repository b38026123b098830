from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from drcnn.data import digits
from drcnn.data.annotations import Annotations, DataError
from drcnn.data.digits import make_digits


@pytest.fixture(scope="module")
def made() -> Annotations:
    return make_digits(60)


def pixels(annotations: Annotations, row: int) -> np.ndarray:
    source = annotations.source(row)
    assert isinstance(source, bytes)
    return np.asarray(Image.open(io.BytesIO(source)))


def test_counts_and_sizes_are_as_promised(made: Annotations) -> None:
    assert made.classes == tuple("0123456789")
    assert set(made.widths) == set(made.heights) == {128, 160, 192}
    counts = np.diff(made.offsets)
    assert (counts.min(), counts.max()) == (2, 8)
    sides = (made.all_boxes[:, 2:] - made.all_boxes[:, :2]).max(1)
    assert sides.min() >= 16
    assert sides.max() <= 56
    assert set(made.all_labels) == set(range(10))
    for row in range(len(made)):
        boxes = made.boxes(row)
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= [made.widths[row], made.heights[row]]).all()
        assert pixels(made, row).shape == (made.heights[row], made.widths[row], 3)


def test_digits_overlap_up_to_iou_0_3(made: Annotations) -> None:
    largest = 0.0
    for row in range(len(made)):
        boxes = made.boxes(row).astype(np.float64)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        corner = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(
            boxes[:, None, :2], boxes[None, :, :2]
        )
        overlap = corner.clip(0).prod(2)
        iou = overlap / (area[:, None] + area[None] - overlap)
        largest = max(largest, np.triu(iou, 1).max())
    assert 0.15 < largest <= 0.3


def test_a_box_is_tight_around_its_ink() -> None:
    rng = np.random.default_rng(0)
    for sample in range(0, 100, 7):
        mask = digits._render(rng, digits._handwriting("val")[0][sample], 30)
        ink = mask >= digits.INK
        assert ink[0].any()
        assert ink[-1].any()
        assert ink[:, 0].any()
        assert ink[:, -1].any()
        assert abs(max(mask.shape) - 30) <= 2


def test_the_same_call_gives_the_same_bytes(made: Annotations) -> None:
    again = make_digits(20)
    assert [again.source(row) for row in range(20)] == [made.source(row) for row in range(20)]
    assert again.fingerprint == make_digits(20).fingerprint
    assert again.fingerprint != make_digits(20, seed=1).fingerprint
    assert again.fingerprint != make_digits(20, split="val").fingerprint


def test_the_splits_share_no_handwriting() -> None:
    rows = np.arange(len(load_digits().target))
    parts = [rows[digits.HANDWRITING[split]] for split in ("train", "val", "test")]
    assert np.array_equal(np.concatenate(parts), rows)
    for part in parts:
        labels = load_digits().target[part]
        assert set(labels) == set(range(10))
        # Every form begins with the digits in their order, twice.
        assert labels[:20].tolist()[:9] == list(range(9))


def test_backgrounds_are_neither_flat_nor_noiseless(made: Annotations) -> None:
    for row in range(10):
        image = pixels(made, row).astype(float)
        assert image.std((0, 1)).mean() > 10
        assert np.median(np.abs(np.diff(image, axis=1))) > 1


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(DataError, match="cannot make 0 images"):
        make_digits(0)
    with pytest.raises(DataError, match="unknown split 'dev'"):
        make_digits(1, split="dev")  # type: ignore[arg-type]
