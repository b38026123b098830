from __future__ import annotations

import os
from unittest.mock import patch

import pytest
import ray

from studies.definition.errors import StudyError
from studies.definition.request import Machines
from studies.resources.connection import connect


def test_a_ray_that_does_not_start_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_slow(**_: object) -> None:
        raise Exception("The current node timed out\n during startup.")

    monkeypatch.setattr(ray, "init", too_slow)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    is_said = pytest.raises(StudyError, match=r"timed out during startup\. .* run the same command again")
    with patch.dict(os.environ), is_said as said, connect(Machines()):
        pass
    assert "\n" not in str(said.value)
