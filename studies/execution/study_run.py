"""What a launch does once its request is known to be good: find what is left, do it, show everything.

Everything here may be killed at any time; the same request goes on with what is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from drcnn.engine.record import read_record
from drcnn.files import DiskFullError
from studies.definition.errors import StudyError
from studies.definition.metrics import key_of
from studies.definition.plan import Plan, Trial, trained_models
from studies.definition.request import Request
from studies.definition.study import SearchStudy
from studies.execution.progress import Progress
from studies.execution.report_command import Outcome
from studies.record import provenance
from studies.record.completion import is_complete, to_time, without_unused_seeds
from studies.record.other_commits import note_on_other_commits
from studies.record.other_identities import note_on_other_identities
from studies.record.results import publish_best, write_results
from studies.record.tracking.addresses import default_uri
from studies.report.console import say_phase
from studies.search.confirmation import confirming_count, confirming_trials
from studies.transfer.archive import archive_study, keep_list
from studies.transfer.trial_folders import TrialFolders, mended

if TYPE_CHECKING:
    from studies.execution.budgeted import BudgetedTrials, LaunchBudget
    from studies.record.tracking.runs import Tracker
    from studies.resources.slots import Allocation
    from studies.search.searcher import StudySearcher

__all__ = ["StudyRun"]


class StudyRun:
    """One run of a study, from what earlier launches have done to the printed results.

    Args:
        plan: the study.
        request: what the command line asks for.
        trials: all of a study that lists them; of a search, points at the ends of its space.
        console: where the user looks.
        folders: where nodes get files and data from.
        allocation: on a cluster that was joined; none starts a local Ray when there is something to do.
        began: when the launch began, by ``time.monotonic``.
    """

    def __init__(
        self,
        plan: Plan,
        request: Request,
        trials: list[Trial],
        console: Console,
        folders: TrialFolders,
        allocation: Allocation | None,
        began: float,
    ) -> None:
        self._plan, self._request, self._console = plan, request, console
        self._folders, self._allocation, self._began = folders, allocation, began
        self._budget: LaunchBudget | None = None
        self._sample, self._expected = trials[0], trials
        self._search = plan.study if isinstance(plan.study, SearchStudy) else None
        self._searcher: StudySearcher | None = None
        # The trials of the study's table, those that train what these evaluate, those that confirm a search.
        self._trials = [] if self._search else trials
        self._models = trained_models(self._trials)
        self._confirming: list[Trial] = []
        self._reused: dict[str, Trial] = {}
        self._uri = request.tracking_uri or default_uri(plan.output)

    def run(self) -> int:
        """Train what is left, then show everything."""
        from studies.record.tracking.launch_run import open_launch
        from studies.record.tracking.store import open_tracker
        from studies.report.charts.samples import same_images

        tracker = open_tracker(self._uri, self._plan, same_images)
        try:
            open_launch(tracker, self._plan, self._all() or [self._sample], fresh=self._request.fresh)
            self._find_earlier_work()
            self._note_complete(self._all(), tracker)
            self._work(tracker)
            self._write_results()
            outcome = Outcome(self._plan, self._shown())
            reports, report_line = outcome.write_report()
            outcome.note_look()
        except KeyboardInterrupt:
            unwritten = self._close(tracker, "KILLED")
            kept = sum(map(self._is_complete, self._all()))
            raise KeyboardInterrupt(
                f"{kept} finished trials and the last epochs of the others are kept in {self._plan.output}; "
                f"run the same command again to resume{'; ' if unwritten else ''}{unwritten}"
            ) from None
        except BaseException:
            if unwritten := self._close(tracker, "FAILED"):
                self._console.out(unwritten, highlight=False)
            raise
        failed = [trial for trial in self._incomplete() if not self._was_left(trial)]
        unwritten = self._close(tracker, "FAILED" if failed else "FINISHED", reports, outcome)
        study = self._plan.study
        # A search is not chosen from by the images that judge it.
        best_first = study.chosen_by if self._search else key_of(study.metric, self._sample.data.judged)
        link = tracker.trials_link(best_first)
        self._print_summary(failed, report_line, outcome, link)
        if unwritten:
            self._console.out(unwritten, highlight=False)
        return 1 if failed or unwritten else 0

    def _all(self) -> list[Trial]:
        return [*self._models, *self._trials, *self._confirming]

    def _shown(self) -> list[Trial]:
        return [*self._table(), *self._confirming]

    def _table(self) -> list[Trial]:
        """The trials of the study's table."""
        return without_unused_seeds(self._trials) if self._request.is_open_ended else self._trials

    def _find_earlier_work(self) -> None:
        """Bring here what earlier launches have done; with ``--fresh``, archive it."""
        ended = self._folders.store.ended_trials()
        self._folders.collect_ended(self._all(), ended)
        if self._search is not None:
            self._open_search(ended)
        kept = ""
        if self._request.fresh:
            kept = archive_study(self._plan, self._all(), self._folders.store)
        lines = mended(self._all(), self._folders)
        if self._search is not None and (self._request.fresh or lines):
            self._open_search(ended)
        keep_list(self._plan, self._all(), self._folders.store)
        left = self._incomplete()
        others = note_on_other_identities(self._plan.output, left)
        notes = (kept, *lines, others, note_on_other_commits(left, provenance.commit()))
        for line in filter(None, notes):
            self._console.out(line, highlight=False)

    def _open_search(self, ended: set[Path]) -> None:
        from studies.search.optuna_record import search_key
        from studies.search.searcher import StudySearcher

        fetch = partial(self._folders.store.download, weights=False)
        self._searcher = StudySearcher(self._plan, search_key(self._plan), fetch)
        self._trials = self._searcher.trials()
        self._folders.collect_ended(self._trials, ended)
        is_over = self._searcher.remaining() <= 0
        self._confirming = self._confirming_trials() if is_over else []
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
                from studies.execution.trial_watcher import TuneRun
                from studies.execution.tuning import run_trials
                from studies.resources.connection import connect

                machines = self._request.machines
                if allocation is None:
                    say_phase("starting Ray")
                    allocation = stack.enter_context(connect(machines))
                if number == 0:
                    self._check_memory(allocation)
                self._folders.offer(remaining if isinstance(remaining, list) else [self._sample])
                count = len(remaining) if isinstance(remaining, list) else remaining.remaining()
                limited = self._within_budget(remaining, allocation)
                with Progress(self._console, count) as progress:
                    clock = self._budget.clock if self._budget else None
                    run = TuneRun(self._plan, machines, allocation, self._folders, tracker, progress, clock)
                    run_trials(run, limited, list(self._reused.values()))

    def _within_budget(
        self, remaining: list[Trial] | StudySearcher, allocation: Allocation
    ) -> list[Trial] | BudgetedTrials | StudySearcher:
        """What is left, so that nothing of it begins that cannot end within the budget, if there is one."""
        if self._request.budget is None:
            return remaining
        from studies.execution.budgeted import LaunchBudget

        request, folders = self._request, self._folders
        self._budget = self._budget or LaunchBudget(self._plan, request, allocation, folders, self._began)
        if isinstance(remaining, list):
            is_last = remaining[0].is_evaluation
            evaluations = [trial for trial in self._incomplete() if trial.is_evaluation and not is_last]
            return self._budget.queue(remaining, evaluations)
        confirmed = sum(read_record(trial.folder).is_finished for trial in self._confirming_trials())
        confirming = confirming_count(self._plan, self._request.seeds) - confirmed
        return self._budget.limit(remaining, self._expected, confirming)

    def _check_memory(self, allocation: Allocation) -> None:
        from studies.resources.memory import check_memory, try_on_node
        from studies.worker.job import run_options

        attempt = partial(try_on_node, allocation, self._folders, run_options(allocation))
        check_memory([*self._models, *self._expected], allocation, partial(attempt, self._request.workers))

    def _batches(self, tracker: Tracker) -> Iterator[list[Trial] | StudySearcher]:
        """What can be done next, batch after batch: detectors are trained, then evaluated, then timed."""
        listed = self._all()
        if self._searcher is not None:
            if self._searcher.remaining() > 0:
                yield self._searcher
            self._trials = self._searcher.trials()
            self._confirming = listed = self._confirming_trials()
            keep_list(self._plan, listed, self._folders.store)
            self._note_complete(listed, tracker)
        for evaluates in (False, True):
            remaining = [trial for trial in listed if trial.is_evaluation == evaluates]
            remaining = [trial for trial in remaining if not self._is_complete(trial)]
            if evaluates and self._request.budget is not None:
                # Those of detectors that are left are left too.
                remaining = [t for t in remaining if t.model and read_record(t.model.folder).is_terminal]
            if remaining:
                yield remaining
        # Last, when nothing else runs; a search that trades time for AP has timed its own.
        timed = [] if self._search else to_time(self._plan, self._trials)
        if timed:
            yield timed

    def _incomplete(self) -> list[Trial]:
        return [trial for trial in self._all() if not self._is_complete(trial)]

    def _was_left(self, trial: Trial) -> bool:
        """Whether a budget left no time to begin a trial in this launch."""
        clock = self._budget.clock if self._budget else None
        return self._request.budget is not None and not (clock and clock.has_begun(trial.id))

    def _is_complete(self, trial: Trial) -> bool:
        """Whether nothing is left to do; a trial that confirms a search runs to its end."""
        confirms = any(trial.id == confirming.id for confirming in self._confirming)
        return is_complete(read_record(trial.folder), None if confirms else self._search)

    def _close(
        self, tracker: Tracker, status: str, reports: Sequence[Path] = (), outcome: Outcome | None = None
    ) -> str:
        """Write the results and close the runs, however the launch ended; returns what MLflow lacks."""
        files, best = [*reports], None
        try:
            files += self._write_results()
            best = publish_best(self._plan, self._shown())
        except (DiskFullError, StudyError) as error:
            self._console.out(str(error), highlight=False)
        try:
            self._folders.store.upload(self._plan.folder)
            if best is not None:
                self._folders.collect_weights(best)
        except OSError as error:
            self._console.out(f"--storage: the study's files cannot be copied: {error}", highlight=False)
        outcome = outcome or Outcome(self._plan, self._shown())
        return tracker.close(status, self._all(), best, files, outcome.description())

    def _write_results(self) -> list[Path]:
        if self._searcher is not None and self._searcher.fault is None:
            self._trials = self._searcher.trials()
        if not self._shown():
            return []
        return [write_results(self._plan.folder / "results.parquet", self._shown())]

    def _print_summary(
        self, failed: Sequence[Trial], report_line: str, outcome: Outcome, trials_link: str
    ) -> None:
        from studies.report.terminal import next_steps, outcome_lines, print_answer

        outcome.print_results(self._console)
        new = [t for t in self._all() if t.id not in self._reused and self._is_complete(t)]
        lines = outcome_lines(new, list(self._reused.values()), failed)
        self._console.out(*lines, *self._budget_lines(len(failed)), sep="\n", highlight=False)
        print_answer(self._console, self._plan.study.title, outcome.sentences)
        steps = next_steps(self._plan, self._uri, trials_link, report_line)
        self._console.out(*steps, sep="\n", highlight=False)

    def _budget_lines(self, failed: int) -> list[str]:
        confirming = confirming_count(self._plan, self._request.seeds)
        planned = self._search.trials + confirming if self._search else len(self._trials)
        complete = sum(map(self._is_complete, self._shown()))
        if self._budget is None or complete + failed >= planned:
            return []
        return [self._budget.clock.summary(complete, planned)]
