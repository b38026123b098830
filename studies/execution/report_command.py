"""``run_study.py report NAME``: write the report of a study again, from what is on disk.

Every launch keeps what it was asked for in ``OUTPUT/NAME/request.json``; from that the same trials are found
again, whatever options the launch had.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from drcnn.config import DataConfig
from drcnn.data.prepare import PreparedData
from drcnn.files import write_text
from studies.definition.errors import StudyError
from studies.definition.plan import Plan, Trial, expand, search_points
from studies.definition.request import Request, Resolved, resolve
from studies.definition.study import SearchStudy
from studies.record.output_folder import alone, prepared_data
from studies.search.confirmation import replicates_of_best

__all__ = ["keep_request", "plan_of", "report", "try_report", "was_launched"]

REQUEST = "request.json"


def plan_of(found: Resolved, request: Request, prepare: Callable[[DataConfig], PreparedData]) -> Plan:
    """The plan of a request that was found good."""
    return Plan(
        found.name, found.study, found.base, request.output.resolve(), prepare, request.profile, found.fixed
    )


def keep_request(plan: Plan, request: Request) -> None:
    """Remember what a launch was asked for."""
    # Addresses may hold passwords, and a report does not need them.
    kept = asdict(request) | {"output": str(plan.output), "tracking_uri": None, "storage": None}
    if request.study.endswith((".yaml", ".yml")):
        kept["study"] = str(Path(request.study).resolve())
    write_text(plan.folder / REQUEST, json.dumps(kept, indent=1))


def was_launched(plan: Plan) -> bool:
    """Whether this output folder knows of a launch of the study."""
    return (plan.folder / REQUEST).exists()


def try_report(plan: Plan, trials: Sequence[Trial]) -> tuple[list[Path], str]:
    """Write the report; a fault in it must not cost a study its result.

    Returns:
        The files, and one line to print.
    """
    try:
        from studies.report.report import write_report

        files = write_report(plan, trials, plan.folder)
    except Exception as error:
        why = " ".join(str(error).split())[:300]
        return [], f"Report: could not be written: {type(error).__name__}: {why}"
    return files, f"Report: {files[0]}"


def report(name: str, output: Path) -> int:
    """Write the report of a study that was launched in this output folder.

    Returns:
        0 if it was written, 1 if not.

    Raises:
        StudyError, ConfigError, DataError: there is no such launch, or its study or data are gone.
    """
    path = output / Path(name).stem / REQUEST
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = ", ".join(sorted(each.parent.name for each in output.glob(f"*/{REQUEST}"))) or "none"
        raise StudyError(f"report {name}: {output} holds no launch of it; those it holds: {known}") from None
    request = Request(
        **{
            **kept,
            "output": output,
            "assignments": tuple(kept["assignments"]),
            # Of the launch only; a report is written wherever OUTPUT is.
            "address": "local",
            "workers": 1,
            "gpus_per_worker": None,
            "dry_run": False,
            "fresh": False,
        }
    )
    found = resolve(request)
    with prepared_data(output, is_kept=True) as prepare:
        plan = plan_of(found, request, prepare)
        with alone(plan):
            files, line = try_report(plan, _trials(plan, request))
    print(line)
    return 0 if files else 1


def _trials(plan: Plan, request: Request) -> list[Trial]:
    if not isinstance(plan.study, SearchStudy):
        return expand(plan, request.seeds)
    from studies.search.searcher import StudySearch, search_key

    search = StudySearch(plan, search_key(plan, search_points(plan)[0]))
    trials = search.trials()
    return [*trials, *replicates_of_best(plan, trials, request.seeds)]
