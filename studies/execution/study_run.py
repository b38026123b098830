"""What a launch does once its request is known to be good: find what is left, do it, show everything.

Everything here may be killed at any time; the same request goes on with what is left.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich.console import Console

from drcnn.engine.record import read_record
from studies.definition.errors import StudyError, one_line
from studies.definition.plan import Plan, Trial, trained_models
from studies.definition.request import Request
from studies.definition.study import SearchStudy
from studies.execution.progress import Progress
from studies.execution.report_command import try_answer, try_report
from studies.record import provenance
from studies.record.completion import is_complete
from studies.record.output_folder import archive
from studies.record.results import ranked, write_results
from studies.search.confirmation import confirming_trials
from studies.transfer.trial_folders import TrialFolders

if TYPE_CHECKING:
    from studies.record.tracking import Tracker
    from studies.resources.slots import Allocation
    from studies.search.searcher import StudySearcher

__all__ = ["StudyRun"]

logger = logging.getLogger(__name__)


class StudyRun:
    """One run of a study, from what earlier launches have done to the printed results.

    Args:
        plan: the study.
        request: what the command line asks for.
        trials: all of a study that lists them; of a search, points at the ends of its space.
        console: where the user looks.
        folders: where nodes get files and data from.
        allocation: on a cluster that was joined; none starts a local Ray when there is something to do.
    """

    def __init__(
        self,
        plan: Plan,
        request: Request,
        trials: list[Trial],
        console: Console,
        folders: TrialFolders,
        allocation: Allocation | None,
    ) -> None:
        self._plan, self._request, self._console = plan, request, console
        self._folders, self._allocation = folders, allocation
        self._sample, self._expected = trials[0], trials
        self._search = plan.study if isinstance(plan.study, SearchStudy) else None
        self._searcher: StudySearcher | None = None
        # The trials of the study's table, those that train what these evaluate, those that confirm a search.
        self._trials = [] if self._search else trials
        self._models = trained_models(self._trials)
        self._confirming: list[Trial] = []
        self._reused: dict[str, Trial] = {}
        self._uri = request.tracking_uri or f"sqlite:///{plan.output / 'mlflow.db'}"

    def run(self) -> int:
        """Train what is left, then show everything."""
        tracker = self._tracker()
        try:
            self._open(tracker)
            self._find_earlier_work()
            self._note_complete(self._all(), tracker)
            self._work(tracker)
            self._write_results()
            reports, report_line = try_report(self._plan, self._shown())
            sentences = try_answer(self._plan, self._shown())
        except KeyboardInterrupt:
            self._close(tracker, "KILLED")
            complete = sum(map(self._is_complete, self._all()))
            raise KeyboardInterrupt(
                f"{complete} finished trials and the last epochs of the others are kept in "
                f"{self._plan.output}; run the same command again to resume"
            ) from None
        except BaseException:
            self._close(tracker, "FAILED")
            raise
        failed = [trial for trial in self._all() if not self._is_complete(trial)]
        self._close(tracker, "FAILED" if failed else "FINISHED", reports, sentences)
        self._print_summary(failed, report_line, sentences)
        return 1 if failed else 0

    def _all(self) -> list[Trial]:
        return [*self._models, *self._trials, *self._confirming]

    def _shown(self) -> list[Trial]:
        return [*self._trials, *self._confirming]

    def _tracker(self) -> Tracker:
        from mlflow.exceptions import MlflowException

        from studies.record.tracking import Tracker

        # A tracking server keeps artifacts itself; a database's default would be the current folder.
        is_server = self._uri.startswith(("http://", "https://", "databricks"))
        artifacts = None if is_server else f"file://{self._plan.output / 'artifacts'}"
        try:
            return Tracker(self._uri, artifacts, self._plan.name, self._plan.output)
        except MlflowException as error:
            raise StudyError(f"--tracking-uri {self._uri}: {one_line(error)}") from None

    def _open(self, tracker: Tracker) -> None:
        ids = [self._plan.name, *sorted(trial.id for trial in self._all() or [self._sample])]
        study = self._plan.study.model_dump(mode="json", exclude_defaults=True)
        tracker.open(
            hashlib.sha256(" ".join(ids).encode()).hexdigest()[:16],
            f"{self._plan.name} {time.strftime('%Y-%m-%d %H:%M')}",
            self._plan.study.title,
            fresh=self._request.fresh,
            tags=provenance.tags() | {"drcnn.data_fingerprint": self._sample.data.fingerprint},
            texts={
                "study.yaml": yaml.safe_dump(study, sort_keys=False),
                "base.yaml": self._plan.base.to_yaml(),
                "environment.txt": provenance.environment(),
                "git.diff": provenance.git_diff(),
            },
        )

    def _find_earlier_work(self) -> None:
        """Bring here what earlier launches have done; with ``--fresh``, archive it."""
        ended = self._folders.store.ended_trials()
        self._folders.collect_ended(self._all(), ended)
        if self._search is not None:
            self._open_search(ended)
        if self._request.fresh:
            self._archive()
            if self._search is not None:
                self._open_search(ended)

    def _archive(self) -> None:
        stamp = f"old-{time.strftime('%Y%m%d-%H%M%S')}"
        trial_folders = [trial.folder for trial in self._all()]
        destination = self._plan.output / "trials" / stamp
        archive(trial_folders, destination)
        for folder in trial_folders:
            self._folders.store.archive(folder, destination / folder.name)
        self._folders.store.archive(self._plan.folder, self._plan.folder / stamp)
        # Earlier versions left the JSON files.
        names = ("optuna.db", "results.parquet", "search.json", "confirm.json")
        archive([self._plan.folder / name for name in names], self._plan.folder / stamp)

    def _open_search(self, ended: set[Path]) -> None:
        from studies.search.optuna_record import search_key
        from studies.search.searcher import StudySearcher

        key = search_key(self._plan, self._sample)
        self._searcher = StudySearcher(self._plan, key, self._folders.store.download)
        self._trials = self._searcher.trials()
        self._folders.collect_ended(self._trials, ended)
        self._confirming = self._confirming_trials() if self._searcher.remaining() <= 0 else []
        self._folders.collect_ended(self._confirming, ended)

    def _confirming_trials(self) -> list[Trial]:
        return confirming_trials(self._plan, self._trials, self._request.seeds)

    def _note_complete(self, trials: Sequence[Trial], tracker: Tracker) -> None:
        for trial in trials:
            if trial.id not in self._reused and self._is_complete(trial):
                self._reused[trial.id] = trial
                tracker.finish(trial)

    def _work(self, tracker: Tracker) -> None:
        """Do what is left, batch by batch."""
        with ExitStack() as stack:
            allocation = self._allocation
            for number, remaining in enumerate(self._batches(tracker)):
                from studies.execution.tuning import TuneRun, run_trials
                from studies.resources.connection import connect

                machines = self._request.machines
                allocation = allocation or stack.enter_context(connect(machines))
                if number == 0:
                    self._check_gpu_memory(allocation)
                self._folders.offer(remaining if isinstance(remaining, list) else [self._sample])
                count = len(remaining) if isinstance(remaining, list) else remaining.remaining()
                with Progress(self._console, count) as progress:
                    run = TuneRun(self._plan, machines, allocation, self._folders, tracker, progress)
                    run_trials(run, remaining, list(self._reused.values()))

    def _check_gpu_memory(self, allocation: Allocation) -> None:
        from studies.execution.job import run_options
        from studies.resources.gpu_memory import check_gpu_memory, try_on_node

        attempt = partial(try_on_node, allocation, self._folders, run_options(allocation))
        check_gpu_memory([*self._models, *self._expected], allocation, attempt)

    def _batches(self, tracker: Tracker) -> Iterator[list[Trial] | StudySearcher]:
        """What can be done next, one batch after another: detectors are trained before they are evaluated."""
        listed = self._all()
        if self._searcher is not None:
            if self._searcher.remaining() > 0:
                yield self._searcher
            self._trials = self._searcher.trials()
            self._confirming = listed = self._confirming_trials()
            self._note_complete(listed, tracker)
        for evaluates in (False, True):
            remaining = [trial for trial in listed if trial.is_evaluation == evaluates]
            remaining = [trial for trial in remaining if not self._is_complete(trial)]
            if remaining:
                yield remaining

    def _is_complete(self, trial: Trial) -> bool:
        """Whether nothing is left to do; a trial that confirms a search runs to its end."""
        confirms = any(trial.id == confirming.id for confirming in self._confirming)
        return is_complete(read_record(trial.folder), None if confirms else self._search)

    def _close(
        self, tracker: Tracker, status: str, reports: Sequence[Path] = (), sentences: Sequence[str] = ()
    ) -> None:
        """Write the results and close the runs, however the launch ended."""
        files = [*self._write_results(), *reports]
        try:
            self._folders.store.upload(self._plan.folder)
        except OSError as error:
            logger.warning("--storage: the study's tables cannot be uploaded: %s", error)
        best = ranked(self._shown(), self._plan.study.metric)[:1]
        note = "\n\n".join((self._plan.study.title, *sentences))
        tracker.close(status, self._all(), best[0] if best else None, files, note)

    def _write_results(self) -> list[Path]:
        if self._searcher is not None:
            self._trials = self._searcher.trials()
        if not self._shown():
            return []
        path = self._plan.folder / "results.parquet"
        write_results(path, self._shown())
        return [path]

    def _print_summary(self, failed: Sequence[Trial], report_line: str, sentences: Sequence[str]) -> None:
        from studies.record.tracking import ui_command
        from studies.report.terminal import print_answer, print_results

        try:
            print_results(self._console, self._plan, self._trials, self._confirming)
        except Exception as error:
            # As of a file that cannot be read; the trials are finished all the same.
            self._console.out(f"Results: cannot be shown: {type(error).__name__}: {one_line(error)}")
        new = [trial for trial in self._all() if trial.id not in self._reused and trial not in failed]
        evaluated = sum(trial.is_evaluation for trial in new)
        pruned = sum(read_record(trial.folder).is_pruned for trial in self._trials)
        counts = (
            f"{len(new) - evaluated} trained, "
            + (f"{evaluated} evaluated, " if evaluated else "")
            + f"{len(self._reused)} reused, {len(failed)} failed"
            + (f" ({pruned} pruned)" if pruned else "")
        )
        failures = [f"  {trial.name}: {read_record(trial.folder).error or 'did not run'}" for trial in failed]
        table = f"Table: {self._plan.folder / 'results.parquet'}"
        for line in (counts, *failures, table, f"MLflow: {ui_command(self._uri)}", report_line):
            self._console.out(line, highlight=False)
        print_answer(self._console, self._plan.study.title, sentences)
