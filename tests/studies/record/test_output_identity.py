from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from studies.record.output_identity import IDENTITY, output_identity
from tests.damage import DAMAGES


def test_it_stays_when_the_folder_is_moved_and_a_copy_has_its_own(tmp_path: Path) -> None:
    first, second, copy = (tmp_path / name for name in ("a", "b\u00e9", "c"))
    first.mkdir()
    own = output_identity(first)
    assert output_identity(first) == own
    first.rename(second)
    assert output_identity(second) == output_identity(second) == own
    shutil.copytree(second, copy)
    other = output_identity(copy)
    assert output_identity(copy) == other != own
    second.rename(first)
    assert output_identity(first) == own
    shutil.rmtree(first)
    assert output_identity(copy) == other


@pytest.mark.faults
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_made_anew(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = output_identity(tmp_path)
    DAMAGES[damage](tmp_path / IDENTITY)
    new = output_identity(tmp_path)
    assert output_identity(tmp_path) == new != own
    assert ("gets new runs" in caplog.text) == (damage != "deleted")
