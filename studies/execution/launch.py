"""One launch of a study, from request to results: what happens in which order, and what is kept at the end.

Nothing is written before the whole request is known to be good. From then on everything may be killed at any
time; the same request goes on with what is left.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich.console import Console

from drcnn.engine.record import read_record
from drcnn.files import write_text
from studies.definition.errors import StudyError
from studies.definition.plan import Plan, Trial, expand, models, search_points
from studies.definition.request import Request, resolve
from studies.definition.study import SearchStudy
from studies.execution.progress import Progress
from studies.execution.report_command import keep_request, plan_of, try_report, was_launched
from studies.record import provenance
from studies.record.output_folder import alone, archive, no_trace_of_bad_input, prepared_data
from studies.record.results import best, print_means, print_results, write_results
from studies.search.confirmation import compared, replicates_of_best
from studies.transfer.datasets import fetch, localise
from studies.transfer.store import open_store
from studies.transfer.supplies import Supplies

if TYPE_CHECKING:
    from studies.record.tracking import Tracker
    from studies.resources.slots import Allocation
    from studies.search.searcher import StudySearch

__all__ = ["execute"]

logger = logging.getLogger(__name__)


def execute(request: Request) -> int:
    """Run a study, or go on with it.

    Returns:
        0 if all trials finished or were cut, 1 if some failed.

    Raises:
        StudyError, ConfigError, DataError, FetchError: the request cannot be met; nothing was written.
        KeyboardInterrupt: a signal came; the message says what is kept.
    """
    found = resolve(request)
    with (
        no_trace_of_bad_input(request.output),
        prepared_data(request.output, is_kept=request.machines.is_cluster or not request.dry_run) as prepare,
    ):
        request, supplies = _supplied(request)
        if supplies.remotes:
            found = resolve(request)
        plan = plan_of(found, request, prepare)
        is_search = isinstance(plan.study, SearchStudy)
        trials = search_points(plan) if is_search else expand(plan, request.seeds)
        for message in trials[0].data.skipped:
            print(f"skipped: {message}")
        if request.dry_run:
            from studies.execution.dry_run import preview

            preview(plan, trials, request, supplies)
            return 0
        console = Console(width=None if sys.stdout.isatty() else 160)
        with alone(plan), _joined(request, supplies, trials, console) as given:
            supplies.storage.adopt()
            if not was_launched(plan):
                # On a new head: what launches from another one left in the storage.
                supplies.storage.download(plan.folder)
            keep_request(plan, request)
            return _Launch(plan, request, trials, console, supplies, given).run()


def _supplied(request: Request) -> tuple[Request, Supplies]:
    """The request with data of an object store fetched here, and where the nodes get theirs."""
    output = request.output.resolve()
    source, remotes = localise(request.source, output / "data")
    fetch(remotes)
    return replace(request, source=source), Supplies(open_store(request.storage, output), remotes)


@contextmanager
def _joined(
    request: Request, supplies: Supplies, trials: Sequence[Trial], console: Console
) -> Iterator[Allocation | None]:
    """Join the cluster that is asked for, and check all of its nodes; a Ray of our own starts when needed."""
    if not request.machines.is_cluster:
        yield None
        return
    from studies.resources.connection import connect
    from studies.resources.node_probe import NodeRequirements
    from studies.resources.nodes import check_nodes

    files = {trial.config.detector.weights for trial in trials} - {"imagenet", "none"}
    with connect(request.machines) as given:
        supplies.offer(trials[:1])
        needs = NodeRequirements(
            request.output.resolve(),
            token="" if request.storage else ".shared",
            storage=supplies.storage,
            remotes=supplies.remotes,
            data=trials[0].data,
            weights=tuple(map(Path, sorted(files))),
        )
        check_nodes(needs, console)
        yield given


class _Launch:
    """A launch whose request is known to be good."""

    def __init__(
        self,
        plan: Plan,
        request: Request,
        trials: list[Trial],
        console: Console,
        supplies: Supplies,
        given: Allocation | None,
    ) -> None:
        self._plan, self._request, self._console = plan, request, console
        self._supplies, self._given = supplies, given
        self._ended: set[Path] | None = None
        # Of a search: points at the ends of its space.
        self._asked, self._sample = trials, trials[0]
        self._search: StudySearch | None = None
        # Those of the study's table, those that train what these evaluate, those that confirm a search.
        self._trials = [] if isinstance(plan.study, SearchStudy) else trials
        self._models = models(self._trials)
        self._confirming: list[Trial] = []
        self._before: dict[str, Trial] = {}
        self._uri = request.tracking_uri or f"sqlite:///{plan.output / 'mlflow.db'}"

    def run(self) -> int:
        """Train what is left, then show everything."""
        tracker = self._tracker()
        try:
            self._open(tracker)
            self._take_up()
            self._note_done(self._all(), tracker)
            self._work(tracker)
            sentences = compared(self._plan, self._confirming) if self._confirming else []
            self._write_tables()
            reports, report_line = try_report(self._plan, [*self._trials, *self._confirming])
        except KeyboardInterrupt:
            self._end(tracker, "KILLED")
            done = sum(self._is_done(trial) for trial in self._all())
            raise KeyboardInterrupt(
                f"{done} finished trials and the last epochs of the others are kept in {self._plan.output}; "
                "the same command goes on"
            ) from None
        except BaseException:
            self._end(tracker, "FAILED")
            raise
        failed = [trial for trial in self._all() if not self._is_done(trial)]
        self._end(tracker, "FAILED" if failed else "FINISHED", reports)
        self._show(failed, sentences)
        self._console.out(report_line, highlight=False)
        return 1 if failed else 0

    def _all(self) -> list[Trial]:
        return [*self._models, *self._trials, *self._confirming]

    def _tracker(self) -> Tracker:
        from mlflow.exceptions import MlflowException

        from studies.record.tracking import Tracker

        # A tracking server keeps artifacts itself; a database's default would be the current folder.
        is_server = self._uri.startswith(("http://", "https://", "databricks"))
        artifacts = None if is_server else f"file://{self._plan.output / 'artifacts'}"
        try:
            return Tracker(self._uri, artifacts, self._plan.name, self._plan.output)
        except MlflowException as error:
            raise StudyError(f"--tracking-uri {self._uri}: {' '.join(str(error).split())[:300]}") from None

    def _open(self, tracker: Tracker) -> None:
        ids = [self._plan.name, *sorted(trial.id for trial in self._all() or [self._sample])]
        tracker.open(
            hashlib.sha256(" ".join(ids).encode()).hexdigest()[:16],
            f"{self._plan.name} {time.strftime('%Y-%m-%d %H:%M')}",
            self._plan.study.title,
            fresh=self._request.fresh,
            tags=provenance.tags() | {"drcnn.data_fingerprint": self._sample.data.fingerprint},
            texts=self._texts(),
        )

    def _texts(self) -> dict[str, str]:
        """What made the figures, kept with the parent run."""
        study = self._plan.study.model_dump(mode="json", exclude_defaults=True)
        return {
            "study.yaml": yaml.safe_dump(study, sort_keys=False),
            "base.yaml": self._plan.base.to_yaml(),
            "environment.txt": provenance.environment(),
            "git.diff": provenance.git_diff(),
        }

    def _take_up(self) -> None:
        """Find the search's trials so far; with ``--fresh``, put aside whatever there is."""
        self._fetch_ended(self._all())
        if isinstance(self._plan.study, SearchStudy):
            self._open_search()
        if self._request.fresh:
            stamp = f"old-{time.strftime('%Y%m%d-%H%M%S')}"
            folders = [trial.folder for trial in self._all()]
            aside = self._plan.output / "trials" / stamp
            archive(folders, aside)
            for folder in folders:
                self._supplies.storage.archive(folder, aside / folder.name)
            self._supplies.storage.archive(self._plan.folder, self._plan.folder / stamp)
            names = ("optuna.db", "search.json", "confirm.json", "results.parquet")
            archive([self._plan.folder / name for name in names], self._plan.folder / stamp)
            if self._search is not None:
                self._open_search()

    def _open_search(self) -> None:
        from studies.search.searcher import StudySearch, search_key

        key = search_key(self._plan, self._sample)
        self._search = StudySearch(self._plan, key, self._supplies.storage.download)
        self._trials = self._search.trials()
        self._fetch_ended(self._trials)
        self._confirming = self._replicates() if self._search.left() <= 0 else []
        self._fetch_ended(self._confirming)

    def _fetch_ended(self, trials: Sequence[Trial]) -> None:
        """Fetch those that ended on another machine; the others are fetched where they are trained."""
        if self._ended is None:
            self._ended = self._supplies.storage.ended_trials()
        for trial in trials:
            if trial.folder in self._ended:
                self._supplies.storage.download(trial.folder)

    def _replicates(self) -> list[Trial]:
        return replicates_of_best(self._plan, self._trials, self._request.seeds)

    def _note_done(self, trials: Sequence[Trial], tracker: Tracker) -> None:
        for trial in trials:
            if trial.id not in self._before and self._is_done(trial):
                self._before[trial.id] = trial
                tracker.finish(trial)

    def _work(self, tracker: Tracker) -> None:
        """Do what is left, one sort of trials after another."""
        with ExitStack() as stack:
            given = self._given
            for number, left in enumerate(self._batches(tracker)):
                from studies.execution.tune import run
                from studies.resources.connection import connect

                machines = self._request.machines
                given = given or stack.enter_context(connect(machines))
                if number == 0:
                    self._check_share(given)
                self._supplies.offer(left if isinstance(left, list) else [self._sample])
                todo = len(left) if isinstance(left, list) else left.left()
                with Progress(self._console, todo) as progress:
                    run(
                        self._plan,
                        left,
                        list(self._before.values()),
                        machines=machines,
                        given=given,
                        supplies=self._supplies,
                        tracker=tracker,
                        progress=progress,
                    )

    def _check_share(self, given: Allocation) -> None:
        from studies.execution.tune import options
        from studies.resources.gpu_memory import check_gpu_memory, try_on_node

        ask = partial(try_on_node, given, self._supplies, options(given))
        check_gpu_memory([*self._models, *self._asked], given, ask)

    def _batches(self, tracker: Tracker) -> Iterator[list[Trial] | StudySearch]:
        """Each time asked: what can be done next. Detectors are trained before they are evaluated."""
        listed = self._all() if self._search is None else []
        if self._search is not None:
            if self._search.left() > 0:
                yield self._search
            self._trials = self._search.trials()
            self._confirming = listed = self._replicates()
            self._note_done(listed, tracker)
        for evaluates in (False, True):
            left = [trial for trial in listed if (trial.model is not None) == evaluates]
            left = [trial for trial in left if not self._is_done(trial)]
            if left:
                yield left

    def _is_done(self, trial: Trial) -> bool:
        """A trial cut by a search is done for the search; others are trained to their end."""
        found = read_record(trial.folder)
        confirms = any(trial.id == each.id for each in self._confirming)
        if self._search is not None and not confirms:
            return self._search.has_ended(found)
        return found.is_finished

    def _end(self, tracker: Tracker, status: str, reports: Sequence[Path] = ()) -> None:
        """Write the tables and close the runs, however it ended."""
        files = [*self._write_tables(), *reports]
        self._keep_record()
        shown = [*self._trials, *self._confirming]
        tracker.close(status, self._all(), best(shown, self._plan.study.metric), files)

    def _keep_record(self) -> None:
        try:
            self._supplies.storage.upload(self._plan.folder)
        except OSError as error:
            logger.warning("--storage: the study's tables are not kept there: %s", error)

    def _write_tables(self) -> list[Path]:
        """Write what is known, and say where."""
        folder, files = self._plan.folder, []
        if self._search is not None:
            self._trials = self._search.trials()
            files.append(folder / "search.json")
            write_text(files[-1], json.dumps(self._search.record(), indent=1))
        if shown := [*self._trials, *self._confirming]:
            files.append(folder / "results.parquet")
            write_results(files[-1], shown)
        if self._confirming and (folder / "confirm.json").exists():
            files.append(folder / "confirm.json")
        return files

    def _show(self, failed: Sequence[Trial], sentences: Sequence[str]) -> None:
        from studies.record.tracking import ui_command

        say = self._console.out
        print_results(self._console, self._plan, self._trials)
        if self._confirming:
            say("Confirmed with other seeds than the search's:", highlight=False)
            print_means(self._console, self._plan, self._confirming)
            for sentence in sentences:
                say(sentence, highlight=False)
        new = [t for t in self._all() if t.id not in self._before and t not in failed]
        evaluated = sum(trial.model is not None for trial in new)
        cut = sum(read_record(trial.folder).is_pruned for trial in self._trials)
        counts = (
            f"{len(new) - evaluated} trained, "
            + (f"{evaluated} evaluated, " if evaluated else "")
            + f"{len(self._before)} reused, {len(failed)} failed"
        )
        say(f"{counts} ({cut} cut early)" if cut else counts, highlight=False)
        for trial in failed:
            say(f"  {trial.name}: {read_record(trial.folder).error or 'did not run'}", highlight=False)
        say(f"Table: {self._plan.folder / 'results.parquet'}", highlight=False)
        say(f"MLflow: {ui_command(self._uri)}", highlight=False)
