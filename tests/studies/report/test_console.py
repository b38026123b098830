from __future__ import annotations

import pytest

from studies.report.console import StudyConsole


def test_a_file_is_as_wide_as_columns_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "123")
    assert StudyConsole().width == 123
