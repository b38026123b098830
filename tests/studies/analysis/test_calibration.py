from __future__ import annotations

import json

import pytest

from benchmarks.calibration import SCENARIOS, Scenario, calibrate, main


@pytest.mark.parametrize("scenario", [SCENARIOS[0], SCENARIOS[2]], ids=["one seed", "three seeds"])
def test_equal_settings_are_seldom_told_apart(scenario: Scenario) -> None:
    found = calibrate(scenario, pairs=40, resamples=80)
    assert found.rate <= 0.15
    assert found.rate_ap90 <= 0.15


def test_the_benchmark_prints_every_scenario(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.calibration.PAIRS", 2)
    monkeypatch.setattr("benchmarks.calibration.SCENARIOS", SCENARIOS[:1])
    for arguments in ([], ["--json"]):
        monkeypatch.setattr("sys.argv", ["calibration", *arguments])
        main()
    text, _, printed = capsys.readouterr().out.partition("[")
    assert SCENARIOS[0].name in text
    assert json.loads("[" + printed)[0]["pairs"] == 2


def test_a_known_shift_is_found() -> None:
    found = calibrate(SCENARIOS[4], pairs=30, resamples=80)
    assert found.difference > 0.015
    assert found.rate >= 0.6
