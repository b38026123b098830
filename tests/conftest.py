"""What tests of the command and of studies share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture
def hangs_up() -> Iterator[None]:
    """SIGHUP ends programs that are started: pytest under nohup would pass on that it is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
