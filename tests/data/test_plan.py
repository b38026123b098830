from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drcnn.data.annotations import DataError
from drcnn.data.plan import STRIDE, BatchPlan, image_key, plan_batches

SIZES = st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=40).map(np.array)


def plan(sizes: np.ndarray, **settings: Any) -> list[BatchPlan]:
    return plan_batches(sizes, settings.pop("rows", np.arange(len(sizes))), **settings)


def is_wide(sizes: np.ndarray, rows: tuple[int, ...]) -> set[bool]:
    return {bool(sizes[row][0] > sizes[row][1]) for row in rows}


@given(SIZES, st.integers(1, 8), st.integers(0, 2**31), st.integers(0, 20))
def test_training_covers_every_row_in_full_batches_of_one_aspect(
    sizes: np.ndarray, batch_size: int, seed: int, epoch: int
) -> None:
    plans = plan(sizes, batch_size=batch_size, training=True, seed=seed, epoch=epoch)
    assert {row for batch in plans for row in batch.rows} == set(range(len(sizes)))
    assert all(len(batch.rows) == batch_size for batch in plans)
    assert all(len(is_wide(sizes, batch.rows)) == 1 for batch in plans)
    wide = int((sizes[:, 0] > sizes[:, 1]).sum())
    assert len(plans) == -(-wide // batch_size) + -(-(len(sizes) - wide) // batch_size)


@given(SIZES, st.integers(1, 8))
def test_evaluation_covers_every_row_once(sizes: np.ndarray, batch_size: int) -> None:
    plans = plan(sizes, batch_size=batch_size, training=False)
    assert sorted(row for batch in plans for row in batch.rows) == list(range(len(sizes)))
    assert all(1 <= len(batch.rows) <= batch_size for batch in plans)


@given(SIZES, st.integers(1, 8), st.booleans())
def test_padding_is_the_least_multiple_of_32_that_holds_the_batch(
    sizes: np.ndarray, batch_size: int, training: bool
) -> None:
    for batch in plan(sizes, batch_size=batch_size, training=training):
        width, height = sizes[list(batch.rows)].max(0)
        assert (batch.width % STRIDE, batch.height % STRIDE) == (0, 0)
        assert 0 <= batch.width - width < STRIDE
        assert 0 <= batch.height - height < STRIDE


@given(SIZES, st.integers(1, 8))
def test_in_evaluation_no_image_is_padded_for_another(sizes: np.ndarray, batch_size: int) -> None:
    alone = {batch.rows[0]: batch for batch in plan(sizes, batch_size=1, training=False)}
    for batch in plan(sizes, batch_size=batch_size, training=False):
        for row in batch.rows:
            assert (batch.height, batch.width) == (alone[row].height, alone[row].width)


@given(SIZES, st.integers(1, 4), st.sampled_from([2, 3, 4]), st.booleans())
def test_ranks_share_the_batches_of_one_worker(
    sizes: np.ndarray, share: int, world_size: int, training: bool
) -> None:
    settings = {"batch_size": share * world_size, "training": training, "seed": 3, "epoch": 2}
    alone = plan(sizes, **settings)
    ranks = [plan(sizes, **settings, rank=rank, world_size=world_size) for rank in range(world_size)]
    if training:
        for whole, *parts in zip(alone, *ranks, strict=True):
            assert whole.rows == sum((part.rows for part in parts), ())
            assert {(part.height, part.width) for part in parts} == {(whole.height, whole.width)}
        return
    of_row = {row: (batch.height, batch.width) for batch in alone for row in batch.rows}
    seen = [row for plans in ranks for batch in plans for row in batch.rows]
    assert sorted(seen) == list(range(len(sizes)))
    assert all(
        (batch.height, batch.width) == of_row[row] for plans in ranks for batch in plans for row in batch.rows
    )
    assert all(batch.rows for plans in ranks for batch in plans)


def test_seed_and_epoch_decide_the_order() -> None:
    sizes = np.full((50, 2), 64)
    first = plan(sizes, batch_size=4, training=True, seed=1, epoch=1)
    assert first == plan(sizes, batch_size=4, training=True, seed=1, epoch=1)
    assert first != plan(sizes, batch_size=4, training=True, seed=1, epoch=2)
    assert first != plan(sizes, batch_size=4, training=True, seed=2, epoch=1)


def test_only_the_given_rows_take_part() -> None:
    plans = plan(np.full((9, 2), 64), rows=np.array([2, 5]), batch_size=4, training=True)
    assert [set(batch.rows) for batch in plans] == [{2, 5}]


def test_impossible_plans_are_refused() -> None:
    sizes = np.full((9, 2), 64)
    with pytest.raises(
        DataError, match="batch_size 5 cannot be shared by 2 workers; make it a multiple of 2"
    ):
        plan(sizes, batch_size=5, training=True, world_size=2)
    with pytest.raises(DataError, match="no image is left"):
        plan(sizes, rows=np.array([], dtype=np.int64), batch_size=2, training=True)


@given(st.integers(0, 2**40), st.integers(0, 1000), st.integers(0, 2**31))
def test_keys_are_non_negative_int64_and_repeatable(seed: int, epoch: int, row: int) -> None:
    key = image_key(seed, epoch, row)
    assert 0 <= key < 2**63
    assert key == image_key(seed, epoch, row)


def test_keys_differ() -> None:
    keys = {image_key(seed, epoch, row) for seed in range(3) for epoch in range(3) for row in range(300)}
    assert len(keys) == 2700
