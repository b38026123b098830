"""How many trials are counted, and how they are packed, by Ray's real scheduler; the GPUs are not there."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table

from studies.definition.request import Machines
from studies.resources.slots import Allocation, allocate, node_shapes


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[None]:
    """A head without work, and nodes of four, four and two GPUs, with eight cores each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_enable_worker_prestart", "0")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0})
        for gpus in (4, 4, 2):
            cluster.add_node(num_cpus=8, num_gpus=gpus)
        ray.init(cluster.address, logging_level="critical", log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()
            cluster.shutdown()


def group_of(allocation: Allocation, workers: int) -> PlacementGroup:
    """The placement group that Ray Train makes of a trial's workers (``studies.worker.workers``)."""
    strategy = "STRICT_PACK" if allocation.packs else "PACK"
    return placement_group([{"CPU": allocation.cpus, "GPU": allocation.gpus}] * workers, strategy=strategy)


def remove(*groups: PlacementGroup) -> None:
    for group in groups:
        ray.util.remove_placement_group(group)
    limit = time.monotonic() + 60
    while ray.available_resources().get("GPU") != 10:
        assert time.monotonic() < limit, "GPUs are not given back"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "trials"), [(2, 5), (3, 2), (4, 2)])
def test_so_many_trials_are_placed_at_once_each_on_one_node_and_no_more(
    workers: int, trials: int, three_nodes: None
) -> None:
    """Of three workers there are ten GPUs for three trials, but none of the nodes has room for a second."""
    allocation = allocate(Machines(workers=workers, address="auto"), node_shapes())
    assert (allocation.concurrent, allocation.packs) == (trials, True)
    groups = [group_of(allocation, workers) for _ in range(allocation.concurrent)]
    one_more = group_of(allocation, workers)
    try:
        assert all(group.wait(30) for group in groups)
        for group in groups:
            nodes = placement_group_table(group)["bundles_to_node_id"].values()
            assert len(set(nodes)) == 1, "straddles nodes"
        assert not one_more.wait(3)
    finally:
        # First the one that waits: it would take what the others leave.
        remove(one_more, *groups)


@pytest.mark.slow
def test_a_trial_that_fits_no_node_is_spread_all_the_same(three_nodes: None) -> None:
    allocation = allocate(Machines(workers=6, address="auto"), node_shapes())
    assert (allocation.concurrent, allocation.packs) == (1, False)
    group = group_of(allocation, 6)
    try:
        assert group.wait(30)
        assert len(set(placement_group_table(group)["bundles_to_node_id"].values())) == 2
    finally:
        remove(group)
