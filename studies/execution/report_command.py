"""``run_study.py report NAME``: write the report of a study again, from what is on disk or in the store.

Every launch keeps what it was asked for (``launch_request``); from that the same trials are found again,
whatever options the launch had. Nothing but the report is written, so a study may run meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from studies.definition.errors import one_line
from studies.definition.plan import Plan, Trial, expand, search_points
from studies.definition.request import Request, resolve
from studies.definition.study import SearchStudy
from studies.record.launch_request import load_request
from studies.record.output_folder import prepared_inputs
from studies.search.confirmation import confirming_trials
from studies.transfer.datasets import download_datasets, localise
from studies.transfer.store import TrialStore, open_store

__all__ = ["report", "try_report"]


def try_report(plan: Plan, trials: Sequence[Trial]) -> tuple[list[Path], str]:
    """Write the report; a fault in it must not cost a study its result.

    Returns:
        The files, and one line to print.
    """
    try:
        from studies.report.report import write_report

        files = write_report(plan, trials, plan.folder)
    except Exception as error:
        why = one_line(error)
        return [], f"Report: could not be written: {type(error).__name__}: {why}"
    return files, f"Report: {files[0]}"


def report(study: str, output: Path, storage: str | None = None) -> int:
    """Write the report of a study that was launched in this output folder.

    Args:
        study: its name, or the path of its file.
        output: the folder of the launch.
        storage: the store of the launch; what is not here of the study and its trials is downloaded from it.

    Returns:
        0 if it was written, 1 if not.

    Raises:
        StudyError, ConfigError, DataError, FetchError: there is no such launch, or its data are gone.
    """
    output = output.resolve()
    name, store = Path(study).stem, open_store(storage, output)
    if storage is not None and not (output / name / "request.json").exists():
        store.download(output / name)
    request = load_request(name, output)
    with prepared_inputs(output, is_kept=True) as inputs:
        source, datasets = localise(request.source, output / "data")
        download_datasets(datasets)
        plan = Plan(*resolve(replace(request, source=source)), output, inputs)
        files, line = try_report(plan, _trials(plan, request, store))
    print(line)
    return 0 if files else 1


def _trials(plan: Plan, request: Request, store: TrialStore) -> list[Trial]:
    ended = store.ended_trials()

    def downloaded(trials: list[Trial]) -> list[Trial]:
        for trial in trials:
            if trial.folder in ended:
                store.download(trial.folder)
        return trials

    if not isinstance(plan.study, SearchStudy):
        return downloaded(expand(plan, request.seeds))
    from studies.search.optuna_record import recorded_trials, search_key

    searched = downloaded(recorded_trials(plan, search_key(plan, search_points(plan)[0])))
    return [*searched, *downloaded(confirming_trials(plan, searched, request.seeds))]
