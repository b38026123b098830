from __future__ import annotations

import json
from pathlib import Path

import pytest

from drcnn.cli import main
from drcnn.commands.settings import markdown, settings
from drcnn.config import Config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def test_every_setting_is_listed_with_its_default_and_explained() -> None:
    assert {each.key: each.default for each in settings()} == dict(Config().flat())
    assert all(each.meaning for each in settings())


def test_the_page_is_what_the_command_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(settings())


def test_words_choose_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "nms_", "lambda"]) == 0
    text = capsys.readouterr().out
    assert "detector.nms_reg=0.85\n" in text
    assert "λ of Eq. 8" in text
    assert "training.lr" not in text
    assert main(["settings", "no_such"]) == 1


def test_what_a_setting_may_be_has_the_names_that_stand_for_several(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["settings", "schedule", "--json"]) == 0
    (schedule,) = json.loads(capsys.readouterr().out)
    assert schedule["default"] == "step"
    assert {"cosine", "coco_1x"} <= set(schedule["choices"])
