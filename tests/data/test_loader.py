from __future__ import annotations

import errno
import io
import pickle
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from drcnn.batch import Batch
from drcnn.config import DataConfig
from drcnn.data import loader as loader_module
from drcnn.data.annotations import Annotations, DataError, Record
from drcnn.data.images import decode
from drcnn.data.loader import _fraction, _Images, make_loader, trainable_rows
from drcnn.data.plan import image_key
from drcnn.data.prepare import PreparedData

Configure = Callable[..., DataConfig]


def load(path: str, data: DataConfig, **settings: Any) -> list[Batch]:
    settings = {"training": True, "batch_size": 4, "seed": 5, "epoch": 2, **settings}
    return list(make_loader(path, data, **settings))


def same(left: Batch, right: Batch) -> bool:
    return all(torch.equal(getattr(left, f.name), getattr(right, f.name)) for f in fields(Batch))


def test_a_batch_has_the_promised_shapes(digits: PreparedData, digits_config: DataConfig) -> None:
    for batch in load(digits.train, digits_config):
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape[:2] == (4, 3)
        assert all(side % 32 == 0 for side in batch.images.shape[2:])
        assert batch.sizes.dtype == batch.scales.dtype == batch.boxes.dtype == torch.float32
        assert batch.rows.dtype == batch.keys.dtype == batch.labels.dtype == torch.int64
        assert batch.boxes.shape[:2] == batch.labels.shape
        assert (batch.labels >= 0).any(0).all()
        real = batch.labels >= 0
        assert (batch.boxes[~real] == 0).all()
        assert (batch.boxes[real][:, 2:] > batch.boxes[real][:, :2]).all()
        for image, (height, width) in zip(batch.images, batch.sizes.long().tolist(), strict=True):
            assert (image[:, height:] == 0).all()
            assert (image[:, :, width:] == 0).all()


@pytest.mark.parametrize("training", [True, False])
def test_workers_change_nothing(digits: PreparedData, digits_config: DataConfig, training: bool) -> None:
    here = load(digits.train, digits_config, training=training)
    there = load(digits.train, digits_config, training=training, num_workers=2)
    assert all(same(left, right) for left, right in zip(here, there, strict=True))


def test_ranks_change_nothing(digits: PreparedData, digits_config: DataConfig) -> None:
    alone = load(digits.train, digits_config)
    ranks = [load(digits.train, digits_config, rank=rank, world_size=2) for rank in range(2)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
        assert torch.equal(whole.keys, torch.cat([part.keys for part in parts]))
        boxes = [part.boxes[image][part.labels[image] >= 0] for part in parts for image in range(len(part))]
        for image, its_boxes in enumerate(boxes):
            assert torch.equal(whole.boxes[image][whole.labels[image] >= 0], its_boxes)


def test_epochs_and_seeds_differ(digits: PreparedData, digits_config: DataConfig) -> None:
    first = load(digits.train, digits_config)
    assert all(
        same(left, right) for left, right in zip(first, load(digits.train, digits_config), strict=True)
    )
    for other in ({"epoch": 3}, {"seed": 6}):
        keys = {key for batch in load(digits.train, digits_config, **other) for key in batch.keys.tolist()}
        assert not keys & {key for batch in first for key in batch.keys.tolist()}


def test_the_global_generator_is_left_alone(digits: PreparedData, digits_config: DataConfig) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load(digits.train, digits_config)
    assert torch.equal(torch.get_rng_state(), before)


def test_flips_mirror_image_and_boxes(digits: PreparedData, digits_config: DataConfig) -> None:
    annotations = Annotations.load(digits.train)
    flipped = 0
    for batch in load(digits.train, digits_config):
        for index, row in enumerate(batch.rows.tolist()):
            height, width = batch.sizes[index].long().tolist()
            original = decode(annotations.source(row))
            boxes = torch.tensor(annotations.boxes(row))
            image = batch.images[index, :, :height, :width]
            if not torch.equal(image, original):
                flipped += 1
                original = original.flip(-1)
                boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
            assert torch.equal(image, original)
            torch.testing.assert_close(batch.boxes[index, : len(boxes)], boxes)
    assert 0 < flipped < 24
    upright = digits_config.model_copy(update={"flip": 0.0})
    batch = load(digits.train, upright)[0]
    row = int(batch.rows[0])
    torch.testing.assert_close(
        batch.boxes[0, : len(annotations.boxes(row))], torch.tensor(annotations.boxes(row))
    )


MULTI_SCALE = {"short_side": 64, "train_short_sides": (48, 64, 96), "long_side": 160, "flip": 0.0}


def short_sides(batches: list[Batch]) -> dict[int, int]:
    """Of every row, its shorter side as resized; the same wherever the row occurs."""
    found: dict[int, set[int]] = {}
    for batch in batches:
        for row, size in zip(batch.rows.tolist(), batch.sizes.long().tolist(), strict=True):
            found.setdefault(row, set()).add(min(size))
    assert all(len(sides) == 1 for sides in found.values())
    return {row: sides.pop() for row, sides in found.items()}


def test_multi_scale_draws_a_side_for_each_image_and_epoch(digits: PreparedData, config: Configure) -> None:
    data = config(**MULTI_SCALE)
    epochs = [short_sides(load(digits.train, data, epoch=epoch)) for epoch in (1, 2)]
    assert all(set(sides.values()) == {48, 64, 96} for sides in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[0] == short_sides(load(digits.train, data, epoch=1))
    assert epochs[0] != short_sides(load(digits.train, data, epoch=1, seed=6))


def test_multi_scale_draws_uniformly(tmp_path: Path, config: Configure) -> None:
    """Chi-squared of 4,000 rows over five sides; above 18.5 has a chance of one in a thousand."""
    record = Record("", 100, 80, [[1, 2, 11, 12]], [0], image=b"")
    records = [replace(record, id=str(row)) for row in range(4000)]
    annotations = Annotations.load(table(tmp_path / "t.arrow", records))
    data = config(short_side=60, train_short_sides=(40, 50, 60, 70, 80), flip=0.0)
    for epoch in range(3):
        images = _Images("", data, training=True, seed=1, epoch=epoch)
        sides, counts = np.unique(images.sizes(annotations, np.arange(4000)).min(1), return_counts=True)
        assert sides.tolist() == [40, 50, 60, 70, 80]
        assert ((counts - 800) ** 2 / 800).sum() < 18.5


def test_scale_and_flip_are_drawn_apart() -> None:
    keys = [image_key(1, 1, row) for row in range(2000)]
    scale, flip = (np.array([_fraction(key, purpose) for key in keys]) for purpose in ("scale", "flip"))
    assert abs(np.corrcoef(scale, flip)[0, 1]) < 0.1
    assert 0 <= min(scale.min(), flip.min()) <= max(scale.max(), flip.max()) < 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_multi_scale_is_the_same_for_workers_and_ranks(
    digits: PreparedData, config: Configure, num_workers: int
) -> None:
    data = config(**{**MULTI_SCALE, "flip": 0.5})
    alone = load(digits.train, data)
    ranks = [load(digits.train, data, rank=rank, world_size=2, num_workers=num_workers) for rank in range(2)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        # Equal shapes on both ranks, those of the whole batch.
        assert {part.images.shape[2:] for part in parts} == {whole.images.shape[2:]}
        assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
        assert torch.equal(whole.sizes, torch.cat([part.sizes for part in parts]))
        assert torch.equal(whole.scales, torch.cat([part.scales for part in parts]))


def test_multi_scale_boxes_scale_along(digits: PreparedData, config: Configure) -> None:
    annotations = Annotations.load(digits.train)
    for batch in load(digits.train, config(**MULTI_SCALE)):
        assert list(batch.images.shape[2:]) == ((batch.sizes.amax(0) / 32).ceil() * 32).tolist()
        for index, row in enumerate(batch.rows.tolist()):
            size = torch.tensor([annotations.heights[row], annotations.widths[row]])
            torch.testing.assert_close(batch.sizes[index], size * batch.scales[index].flip(0))
            boxes = torch.tensor(annotations.boxes(row)) * batch.scales[index].repeat(2)
            torch.testing.assert_close(batch.boxes[index, : len(boxes)], boxes)


def test_multi_scale_leaves_evaluation_alone(digits: PreparedData, config: Configure) -> None:
    one, several = config(**{**MULTI_SCALE, "train_short_sides": None}), config(**MULTI_SCALE)
    for left, right in zip(
        load(digits.val, one, training=False), load(digits.val, several, training=False), strict=True
    ):
        assert same(left, right)


def test_resizing_scales_boxes_as_said(digits: PreparedData, config: Configure) -> None:
    annotations = Annotations.load(digits.train)
    for batch in load(digits.train, config(short_side=96, long_side=128, flip=0.0)):
        for index, row in enumerate(batch.rows.tolist()):
            factor = batch.scales[index].repeat(2)
            boxes = torch.tensor(annotations.boxes(row)) * factor
            torch.testing.assert_close(batch.boxes[index, : len(boxes)], boxes)
            size = torch.tensor([annotations.heights[row], annotations.widths[row]])
            torch.testing.assert_close(batch.sizes[index], size * batch.scales[index].flip(0))


def test_evaluation_gives_every_image_once_without_boxes(
    digits: PreparedData, digits_config: DataConfig
) -> None:
    loader = make_loader(digits.val, digits_config, training=False, batch_size=4)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(10))
    assert all(batch.boxes.shape == (len(batch), 0, 4) for batch in batches)


def table(path: Path, records: list[Record]) -> str:
    Annotations.from_records(records, ["cat"]).save(path)
    return str(path)


def blank(name: str, boxes: list[list[float]], size: tuple[int, int] = (64, 48), **more: Any) -> Record:
    image = make_png(size)
    return Record(name, *size, boxes=boxes, labels=[0] * len(boxes), image=image, **more)


def make_png(size: tuple[int, int]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(content, "PNG")
    return content.getvalue()


def test_training_leaves_out_images_without_a_box_and_tiny_ones(tmp_path: Path, config: Configure) -> None:
    box = [1.0, 2.0, 11.0, 12.0]
    records = [
        blank("no box", []),
        blank("ignored only", [box], ignore=[True]),
        blank("tiny", [box], (64, 31)),
        blank("both", [box, [0.0, 0.0, 5.0, 5.0]], ignore=[False, True]),
    ]
    path = table(tmp_path / "t.arrow", records)
    assert trainable_rows(Annotations.load(path)).tolist() == [1, 3]
    (batch,) = load(path, config(short_side=None, flip=0.0), batch_size=2)
    assert sorted(batch.rows.tolist()) == [1, 3]
    mine = batch.rows.tolist().index(3)
    assert batch.boxes[mine].tolist() == [box]
    assert batch.labels[1 - mine].tolist() == [-1], "negatives only"
    assert sum(map(len, load(path, config(short_side=None), training=False))) == 4
    with pytest.raises(DataError, match="none of its 1 images can be trained on"):
        load(table(tmp_path / "u.arrow", records[:1]), config())
    with pytest.raises(DataError, match="none of its 2 images can be trained on"):
        load(table(tmp_path / "v.arrow", records[:2]), config())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_image_is_named_on_one_line(tmp_path: Path, config: Configure, num_workers: int) -> None:
    record = Record("x", 64, 48, [[1, 2, 11, 12]], [0], path=str(tmp_path / "x.png"))
    path = table(tmp_path / "t.arrow", [record])
    (tmp_path / "x.png").write_bytes(make_png((64, 48))[:60])
    with pytest.raises(DataError, match=r"^\S*x\.png: the image file is truncated[^\n]*$"):
        load(path, config(), num_workers=num_workers)
    (tmp_path / "x.png").write_bytes(make_png((60, 48)))
    with pytest.raises(DataError, match=r"x\.png: is 60x48 pixels but was 64x48"):
        load(path, config(), num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_failing_file_system_is_said_on_one_line(
    digits: PreparedData, digits_config: DataConfig, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(loader_module, "decode", fail)
    with pytest.raises(OSError, match=r"^\[Errno \d+\] Stale file handle$"):
        load(digits.train, digits_config, num_workers=num_workers)


def test_memory_is_pinned_only_where_asked(
    digits: PreparedData, digits_config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for asked in ({}, {"pin_memory": True}):
        loader = make_loader(digits.val, digits_config, training=False, batch_size=4, **asked)
        assert loader._loader.pin_memory == bool(asked)


def test_the_dataset_is_cheap_to_send(digits: PreparedData, digits_config: DataConfig) -> None:
    loader = make_loader(digits.train, digits_config, training=True, batch_size=4)
    next(iter(loader))
    assert len(pickle.dumps(loader._loader.dataset)) < 2000
