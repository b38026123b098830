from __future__ import annotations

from collections.abc import Callable

from studies.definition.plan import Plan, expand
from studies.record.other_identities import find_other_identities

STAGES = "title: t\nkind: grid\ngrid: {detector.stages: [1, 2]}\n"


def test_trials_of_the_same_settings_and_other_data_are_found(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(STAGES)
    now, before = expand(plan, 1), expand(make_plan(STAGES, fingerprint="0" * 16), 1)
    other = make_plan(STAGES).trial({"detector.nms_reg": 0.9}, 1)
    for trial in (now[0], *before, other):
        trial.folder.mkdir(parents=True)
        (trial.folder / "config.yaml").write_text(trial.config.to_yaml())
    assert set(find_other_identities(plan.output, now)) == {trial.folder for trial in before}
    (before[0].folder / "config.yaml").write_text("detector: {nms: 1}")
    (before[1].folder / "config.yaml").write_bytes(b"\xff")
    assert find_other_identities(plan.output, now) == [], "of a version that cannot be compared"
    assert find_other_identities(plan.output / "absent", now) == []
