from __future__ import annotations

import json

import pytest

from benchmarks.calibration import SCENARIOS, Scenario, calibrate, main


@pytest.mark.parametrize("scenario", [SCENARIOS[0], SCENARIOS[2]], ids=["one seed", "three seeds"])
def test_equal_settings_seldom_differ_significantly(scenario: Scenario) -> None:
    outcome = calibrate(scenario, pairs=40, resamples=80)
    assert outcome.rate <= 0.15
    assert outcome.rate_ap90 <= 0.15


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
    outcome = calibrate(SCENARIOS[4], pairs=30, resamples=80)
    assert outcome.difference > 0.015
    assert outcome.rate >= 0.6
