from __future__ import annotations

import pytest
import torch
from hypothesis import settings

# On a busy machine a case of milliseconds may take a second; that says nothing about the detector.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> None:
    """Toy sizes: a second thread would wait longer than it works, and for minutes on a busy machine."""
    torch.set_num_threads(1)
