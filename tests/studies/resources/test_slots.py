"""Slots: how trials share the machines of a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.definition.errors import StudyError
from studies.definition.request import Machines
from studies.resources.slots import Allocation, NodeShape, _autoscaled, allocate

SHAPES = st.lists(
    st.builds(NodeShape, cpus=st.integers(0, 64), gpus=st.integers(0, 8)),
    min_size=1,
    max_size=32,
)


@given(SHAPES, st.integers(1, 8), st.sampled_from([None, 0.25, 0.5, 1.0]))
def test_all_trials_at_once_fit_on_whole_nodes(
    nodes: list[NodeShape], workers: int, gpus: float | None
) -> None:
    try:
        allocation = allocate(Machines("auto", workers, gpus), nodes)
    except StudyError as error:
        assert "--workers-per-trial" in str(error) or "--gpus-per-worker" in str(error)  # noqa: PT017
        return
    fit = 0
    for node in nodes:
        slots = int((node.gpus / allocation.gpus if allocation.gpus else node.cpus) + 1e-9)
        if allocation.gpus:
            assert allocation.cpus * slots <= node.cpus or not slots, "cores for all GPU slots of a node"
        fit += slots
    assert 1 <= allocation.concurrent * workers <= fit


def test_a_head_without_cores_takes_none_from_the_others() -> None:
    nodes = [NodeShape(0, 0), NodeShape(48, 4), NodeShape(48, 4), NodeShape(8, 4)]
    assert allocate(Machines("auto"), nodes) == Allocation(concurrent=12, cpus=2, gpus=1.0)


def test_a_trial_that_fits_on_a_node_does_not_straddle_two() -> None:
    nodes = [NodeShape(16, 4), NodeShape(16, 3), NodeShape(16, 1)]
    assert allocate(Machines("auto", 2), nodes) == Allocation(3, 4, 1.0, packs=True)
    assert allocate(Machines("auto", 4), nodes) == Allocation(1, 4, 1.0, packs=True)
    assert allocate(Machines("auto", 8), nodes) == Allocation(1, 4, 1.0, packs=False)
    assert not allocate(Machines("auto"), nodes).packs


def test_groups_are_as_many_as_the_head_has_memory_for(caplog: pytest.LogCaptureFixture) -> None:
    nodes = [NodeShape(64, 8)] * 64
    assert allocate(Machines("auto", 2), nodes, head_gib=30).concurrent == 20
    assert "20 trials at once instead of 256" in caplog.text
    caplog.clear()
    assert allocate(Machines("auto", 2, max_concurrent=40), nodes, head_gib=30).concurrent == 40
    assert "--max-concurrent 40: " in caplog.text
    assert "30 are enough for 20" in caplog.text
    caplog.clear()
    assert allocate(Machines("auto", 2, max_concurrent=20), nodes, head_gib=30).concurrent == 20
    assert allocate(Machines("auto", 1, max_concurrent=40), nodes, head_gib=30).concurrent == 40
    assert not caplog.text
    assert allocate(Machines("auto", 1), nodes, head_gib=30).concurrent == 512
    assert allocate(Machines("auto", 2), nodes, head_gib=2).concurrent == 1


def test_workers_of_one_trial_do_not_share_a_gpu() -> None:
    with pytest.raises(StudyError, match="cannot share a GPU"):
        allocate(Machines("auto", 2, 0.5), [NodeShape(8, 2)])


def test_a_cluster_that_may_grow_is_taken_at_its_owners_word() -> None:
    assert allocate(Machines("auto", 4, 1.0, max_concurrent=16), [NodeShape(0, 0)]).concurrent == 16
    with pytest.raises(StudyError, match="--max-concurrent"):
        allocate(Machines("auto", 4, 1.0), [NodeShape(0, 0)])
    assert allocate(Machines("local", 1, None, max_concurrent=16), [NodeShape(2, 0)]).concurrent == 2


def test_the_autoscalers_limits_count_nodes_that_are_not_there_yet(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        """
        head_node_type: head
        max_workers: 5
        available_node_types:
          head: {resources: {CPU: 0}, max_workers: 0}
          on_demand: {resources: {CPU: 48, GPU: 4}, max_workers: 2}
          spot: {resources: {CPU: 48, GPU: 4}, max_workers: 4}
        """
    )
    assert len(_autoscaled(config)) == 5
    assert allocate(Machines("auto"), _autoscaled(config)).concurrent == 20
    assert _autoscaled(tmp_path / "absent.yaml") == []
