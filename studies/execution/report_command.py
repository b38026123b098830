"""``run_study.py report NAME``: write the report of a study again, from what is on disk or in the store.

Every launch keeps what it was asked for (``launch_request``); from that the same trials are found again,
whatever options the launch had. Nothing but the report is written, so a study may run meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from drcnn.report.blocks import escape
from studies.definition.errors import FetchError, StudyError, one_line
from studies.definition.plan import Plan, Trial, expand
from studies.definition.request import Request, resolve
from studies.definition.study import SearchStudy
from studies.record.completion import without_unused_seeds
from studies.record.launch_request import load_request, mark_downloaded, was_launched
from studies.record.output_folder import prepared_inputs
from studies.report.console import StudyConsole
from studies.search.confirmation import confirming_trials
from studies.transfer.datasets import download_datasets, localise
from studies.transfer.store import open_store
from studies.transfer.trial_folders import TrialFolders
from studies.transfer.trial_store import TrialStore

if TYPE_CHECKING:
    from studies.report.facts import ReportFacts

__all__ = ["Outcome", "report"]

# Letters of a description's table: MLflow keeps 8,000 in all.
LONGEST_TABLE = 6000


class Outcome:
    """What a study's trials show, for a launch to tell; their folders are read once.

    A fault in it must not cost a study its result: what cannot be told is left out, or says why in a line.

    Args:
        plan: the study.
        trials: all that are shown, with those that confirm a search.
    """

    def __init__(self, plan: Plan, trials: Sequence[Trial]) -> None:
        self._plan, self._trials = plan, trials

    @cached_property
    def _facts(self) -> ReportFacts:
        from studies.report.facts import gather_facts

        return gather_facts(self._plan, self._trials)

    def write_report(self) -> tuple[list[Path], str]:
        """Write the report; returns its files, none if it could not be written, and one line to print."""
        try:
            from studies.report.report import write_report

            files = write_report(self._facts, self._plan.folder)
        except Exception as error:
            return [], f"Report: could not be written: {type(error).__name__}: {one_line(error)}"
        page = next(file for file in files if file.suffix == ".html")
        return files, f"Report: {page}"

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """The two sentences on what the study shows; none if its trials cannot be read."""
        try:
            from studies.report.answer import answer

            return answer(self._facts)
        except Exception:
            return ()

    def note_look(self) -> None:
        """Note which trials a launch has compared."""
        with suppress(Exception):
            from studies.analysis.looks import note

            if self._facts.baseline_comparisons:
                note(self._plan.folder, self._facts.look)

    def print_results(self, console: Console) -> None:
        """Print the tables of results, or in a line why they cannot be shown."""
        from studies.report.terminal import print_results

        try:
            print_results(console, self._facts)
        except Exception as error:
            console.out(f"Results: cannot be shown: {type(error).__name__}: {one_line(error)}")

    def description(self) -> str:
        """What describes a launch's run in MLflow, as Markdown: title, sentences, and a table that fits."""
        parts: list[str] = [escape(self._plan.study.title), *self.sentences]
        with suppress(Exception):
            from studies.report.result_tables import settings_table

            facts = self._facts
            table = settings_table(facts.compared, facts.tables, facts.shown, is_short=True).to_markdown()
            if len(table) < LONGEST_TABLE:
                parts.append(table)
        return "\n\n".join(parts)


def report(
    study: str,
    output: Path,
    storage: str | None = None,
    margin: float | None = None,
    price: float | None = None,
) -> int:
    """Write the report of a study that was launched in this output folder.

    Args:
        study: its name, or the path of its file.
        output: the folder of the launch.
        storage: the store of the launch; what is not here of the study and its trials is downloaded from it.
        margin: AP points within which two settings are equivalent; none takes the launch's.
        price: dollars a GPU hour, likewise.

    Returns:
        0 if it was written, 1 if not.

    Raises:
        StudyError, ConfigError, DataError, FetchError: there is no such launch, or its data are gone.
    """
    output = output.resolve()
    name = Path(study).stem if study.endswith((".yaml", ".yml")) else study
    store = open_store(storage, output)
    try:
        if storage is not None and not was_launched(output / name):
            _download_study(store, output / name)
        request = load_request(name, output)
        with prepared_inputs(output, is_kept=True) as inputs:
            source, datasets = localise(request.source, output / "data")
            download_datasets(datasets)
            margin = request.margin if margin is None else margin
            price = request.price if price is None else price
            plan = Plan(*resolve(replace(request, source=source)), output, inputs, margin, price)
            trials = _trials(plan, request, TrialFolders(store))
            outcome = Outcome(plan, trials)
            files, line = outcome.write_report()
            sentences = outcome.sentences
    except FetchError:
        raise
    except OSError as error:
        raise StudyError(f"--output {output}, --storage: {one_line(error)}") from None
    print(line)
    from studies.report.terminal import print_answer

    print_answer(StudyConsole(), plan.study.title, sentences)
    return 0 if files else 1


def _download_study(store: TrialStore, folder: Path) -> None:
    """Download what the store has of a study; a name that it does not know leaves no folder."""
    is_new = not folder.exists()
    store.download(folder)
    if is_new and not any(folder.iterdir()):
        folder.rmdir()
    else:
        mark_downloaded(folder)


def _trials(plan: Plan, request: Request, folders: TrialFolders) -> list[Trial]:
    ended = folders.store.ended_trials()
    if not isinstance(plan.study, SearchStudy):
        trials = folders.collect_ended(expand(plan, request.listed_seeds), ended)
        return without_unused_seeds(trials) if request.is_open_ended else trials
    from studies.search.optuna_record import recorded_trials, search_key, storage_faults_named

    with storage_faults_named(plan):
        searched = recorded_trials(plan, search_key(plan))
    folders.collect_ended(searched, ended)
    confirming = confirming_trials(plan, searched, request.seeds)
    return [*searched, *folders.collect_ended(confirming, ended)]
