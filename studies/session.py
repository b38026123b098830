"""One launch of a study, from request to results: what happens in which order, and what is kept at the end.

Nothing is written before the whole request is known to be good. From then on everything may be killed at any
time; the same request goes on with what is left.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich.console import Console

from drcnn.config import ConfigError, DataConfig
from drcnn.data.annotations import DataError
from drcnn.data.prepare import PreparedData, prepare
from studies import provenance
from studies.progress import Progress
from studies.request import Request, resolve
from studies.results import best, print_results, write_results
from studies.study import GridStudy, SearchStudy, StudyError
from studies.trials import Plan, Trial, check_search, expand, outcome

if TYPE_CHECKING:
    from studies.search import StudySearch
    from studies.tracking import Tracker

__all__ = ["execute"]


def execute(request: Request) -> int:
    """Run a study, or go on with it.

    Returns:
        0 if all trials finished or were cut, 1 if some failed.

    Raises:
        StudyError, ConfigError, DataError: the request cannot be met; nothing was written.
        KeyboardInterrupt: a signal came; the message says what is kept.
    """
    name, study, base = resolve(request)
    with _no_trace_of_bad_input(request.output), _data(request) as data:
        plan = Plan(name, study, base, request.output.resolve(), data)
        trials = expand(plan, request.seeds) if isinstance(study, GridStudy) else [check_search(plan)]
        for message in trials[0].data.skipped:
            print(f"skipped: {message}")
        if request.dry_run:
            _print_plan(plan, trials)
            return 0
        console = Console(width=None if sys.stdout.isatty() else 160)
        with _alone(plan):
            return _Launch(plan, request, trials, console).run()


@contextmanager
def _no_trace_of_bad_input(output: Path) -> Iterator[None]:
    """Remove an output folder that this launch made, if it turns out that the request cannot be met."""
    is_new = not output.exists()
    try:
        yield
    except (StudyError, ConfigError, DataError):
        if is_new and not (output / "trials").exists():
            shutil.rmtree(output, ignore_errors=True)
        raise


@contextmanager
def _data(request: Request) -> Iterator[Callable[[DataConfig], PreparedData]]:
    """Give what prepares data, once, in the output folder; a dry run makes no output folder."""
    known: dict[DataConfig, PreparedData] = {}
    with tempfile.TemporaryDirectory() as scratch:
        is_dry = request.dry_run and not request.output.exists()
        cache = Path(scratch) if is_dry else request.output.resolve() / "data"

        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"--output {request.output}: cannot write there: {error.strerror}") from None

        def of(data: DataConfig) -> PreparedData:
            if data not in known:
                known[data] = prepare(data, cache)
            return known[data]

        yield of


@contextmanager
def _alone(plan: Plan) -> Iterator[None]:
    """Hold the study's lock: two launches of one study in one folder would write each other's record."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    with (plan.folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(
                f"{plan.name} is running already in {plan.output}; wait, or give another --output"
            ) from None
        yield


def _print_plan(plan: Plan, trials: Sequence[Trial]) -> None:
    if isinstance(plan.study, SearchStudy):
        print(f"{plan.name}: {plan.study.trials} trials, chosen by TPE from:")
        for key, space in plan.study.space.items():
            print(f"  {key}: {space.model_dump(exclude_defaults=True)}")
        return
    print(f"{plan.name}: {len(trials)} trials of {trials[0].config.training.epochs} epochs")
    for trial in trials:
        print(f"  {trial.id}  {trial.name}  {outcome(trial.folder).status}")


class _Launch:
    """A launch whose request is known to be good."""

    def __init__(self, plan: Plan, request: Request, trials: list[Trial], console: Console) -> None:
        self._plan, self._request, self._console = plan, request, console
        self._sample = trials[0]
        self._trials = trials if isinstance(plan.study, GridStudy) else []
        self._search: StudySearch | None = None
        self._uri = request.tracking_uri or f"sqlite:///{plan.output / 'mlflow.db'}"

    def run(self) -> int:
        """Train what is left, then show everything."""
        tracker = self._tracker()
        try:
            self._open(tracker)
            self._take_up()
            before = [trial for trial in self._trials if self._is_done(trial)]
            for trial in before:
                tracker.finish(trial)
            self._train(before, tracker)
        except KeyboardInterrupt:
            self._end(tracker, "KILLED")
            done = sum(self._is_done(trial) for trial in self._trials)
            raise KeyboardInterrupt(
                f"{done} finished trials and the last epochs of the others are kept in {self._plan.output}; "
                "the same command goes on"
            ) from None
        except BaseException:
            self._end(tracker, "FAILED")
            raise
        failed = [trial for trial in self._trials if not self._is_done(trial)]
        self._end(tracker, "FAILED" if failed else "FINISHED")
        self._show(before, failed)
        return 1 if failed else 0

    def _tracker(self) -> Tracker:
        from mlflow.exceptions import MlflowException

        from studies.tracking import Tracker

        # A tracking server keeps artifacts itself; a database's default would be the current folder.
        is_server = self._uri.startswith(("http://", "https://", "databricks"))
        artifacts = None if is_server else f"file://{self._plan.output / 'artifacts'}"
        try:
            return Tracker(self._uri, artifacts, self._plan.name, self._plan.output)
        except MlflowException as error:
            raise StudyError(f"--tracking-uri {self._uri}: {' '.join(str(error).split())[:300]}") from None

    def _open(self, tracker: Tracker) -> None:
        ids = [self._plan.name, *sorted(trial.id for trial in self._trials or [self._sample])]
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
        if isinstance(self._plan.study, SearchStudy):
            self._open_search()
        if self._request.fresh:
            stamp = f"old-{time.strftime('%Y%m%d-%H%M%S')}"
            _put_aside([trial.folder for trial in self._trials], self._plan.output / "trials" / stamp)
            record = [self._plan.folder / "optuna.db", self._plan.folder / "results.parquet"]
            _put_aside(record, self._plan.folder / stamp)
            if self._search is not None:
                self._open_search()

    def _open_search(self) -> None:
        from studies.search import StudySearch, search_key

        self._search = StudySearch(self._plan, search_key(self._plan, self._sample))
        self._trials = self._search.trials()

    def _train(self, before: Sequence[Trial], tracker: Tracker) -> None:
        left = [trial for trial in self._trials if trial not in before]
        todo = self._search.left() if self._search else len(left)
        if not todo:
            return
        from studies.launch import Machines, connect, run

        asked = self._request
        machines = Machines(asked.address, asked.workers, asked.gpus_per_worker, asked.max_concurrent)
        with connect(machines) as given, Progress(self._console, todo) as progress:
            run(
                self._plan,
                self._search or left,
                before,
                machines=machines,
                given=given,
                tracker=tracker,
                progress=progress,
            )
        if self._search is not None:
            self._trials = self._search.trials()

    def _is_done(self, trial: Trial) -> bool:
        """A trial cut by a search is done for a search; a grid trains it to its end."""
        status = outcome(trial.folder).status
        return status == "finished" or (status == "pruned" and self._search is not None)

    def _end(self, tracker: Tracker, status: str) -> None:
        """Write the table and close the runs, however it ended."""
        if self._search is not None:
            self._trials = self._search.trials()
        table = self._plan.folder / "results.parquet"
        if self._trials:
            write_results(table, self._trials)
        tracker.close(
            status, self._trials, best(self._trials, self._plan.study.metric), [table] if self._trials else []
        )

    def _show(self, before: Sequence[Trial], failed: Sequence[Trial]) -> None:
        from studies.tracking import ui_command

        print_results(self._console, self._trials, self._plan.study.paper)
        trained = len(self._trials) - len(before) - len(failed)
        cut = sum(outcome(trial.folder).status == "pruned" for trial in self._trials)
        say = self._console.out
        counts = f"{trained} trained, {len(before)} reused, {len(failed)} failed"
        say(f"{counts} ({cut} cut early)" if cut else counts, highlight=False)
        for trial in failed:
            say(f"  {trial.name}: {outcome(trial.folder).error or 'did not run'}", highlight=False)
        say(f"Table: {self._plan.folder / 'results.parquet'}", highlight=False)
        say(f"MLflow: {ui_command(self._uri)}", highlight=False)


def _put_aside(paths: Sequence[Path], folder: Path) -> None:
    for path in paths:
        if path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            path.rename(folder / path.name)
