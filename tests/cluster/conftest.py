"""One Ray cluster for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hosts import why_not
from ray_cluster import Cluster, ray_up


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that ``ray up`` has made; skips where hosts cannot be made."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with ray_up(tmp_path_factory.mktemp("hosts")) as started:
        yield started
