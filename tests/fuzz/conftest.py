"""How hard the fuzz tests try: a few hundred cases each, or with ``--hypothesis-profile=long`` 10,000."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("long", max_examples=10_000, deadline=None)

# What a case may take beyond what this process has already: far more than it needs, far less than a bomb.
MEMORY = 2 << 30


@pytest.fixture(autouse=True)
def _memory_is_limited() -> Iterator[None]:
    """A case that fills the memory ends with MemoryError, which is none of the project's errors."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
