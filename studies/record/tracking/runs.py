"""MLflow: one parent run a launch, one child run a trial, written by the driver only.

Runs are found again by tag, so the same command continues its own parent and children instead of adding more;
steps are epochs, and epochs that a kill lost are filled in from the trial's folder. Training never waits for
the tracker: what cannot be logged now is logged, in order, as soon as the store can be written, at the latest
when the launch ends; what even then cannot be written is told, and written by the next launch.

Shared tracking servers are only ever read and written through ``MlflowClient``; workers never see them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.entities import RunTag
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE, MLFLOW_SOURCE_NAME
from PIL.Image import Image

from drcnn.engine.record import read_record
from studies.definition.errors import StudyError
from studies.definition.plan import Trial
from studies.record.databases import PATIENCE
from studies.record.tracking.addresses import redacted, trials_link
from studies.record.tracking.delivery import Delivery, is_passing, is_store_fault, why
from studies.record.tracking.experiments import OUTPUT, OUTPUT_ID, OwnRuns, opened_experiment
from studies.record.tracking.trial_fields import best_metrics
from studies.record.tracking.trial_runs import TrialRuns

__all__ = ["Tracker"]

logger = logging.getLogger(__name__)

LAUNCH_KEY = "drcnn.launch"
# How long an interrupted launch tries to write what is left: whoever interrupts it waits. Seconds.
SHORT_PATIENCE = 10.0


class Tracker:
    """Writes one study to MLflow.

    Args:
        uri: of the tracking store.
        artifacts: where to keep artifacts (``file:///...``); none leaves it to the tracking server.
        experiment: the study's name.
        output: absolute folder of the studies.
        draw: sample pictures of a finished trial, by file name.
        identity: by which the runs of ``output`` are known, such as those that a killed launch left RUNNING;
            none if the store is the folder's own, where its path is enough.
        patience: seconds to wait for the store when a launch begins and when it ends.
    """

    def __init__(
        self,
        uri: str,
        artifacts: str | None,
        experiment: str,
        output: Path,
        draw: Callable[[Trial], Mapping[str, Image]] = lambda trial: {},
        identity: str = "",
        patience: float = PATIENCE,
    ) -> None:
        self._client = MlflowClient(tracking_uri=uri)
        location = f"{artifacts}/{quote(experiment)}" if artifacts else None
        self.experiment_id = opened_experiment(self._client, experiment, location).experiment_id
        tags = {OUTPUT: str(output)} | ({OUTPUT_ID: identity} if identity else {})
        self._found = OwnRuns(self._client, self.experiment_id, tags)
        self._uri, self._draw = uri, draw
        self._study, self._patience = output / experiment, patience
        self._delivery = Delivery(redacted(uri))
        self._parent = ""
        self._runs: TrialRuns | None = None
        # By trial id: epochs that are still to be logged, and trials that are still to be begun or ended.
        self._late: dict[str, list[Mapping[str, float]]] = {}
        self._unstarted: dict[str, Trial] = {}
        self._unfinished: dict[str, Trial] = {}
        # Trials of which the store refused something: they are tried once more when the launch ends.
        self._refused: set[str] = set()

    def open(
        self,
        key: str,
        name: str,
        note: str,
        *,
        fresh: bool,
        tags: Mapping[str, str],
        texts: Mapping[str, str],
    ) -> None:
        """Continue this command's parent run, or begin one, and close what a killed launch left open.

        Args:
            key: what the launch is known by.
            name: of a new parent run.
            note: shown on the parent's page.
            fresh: begin a new parent in any case.
            tags: of the parent, with where its figures come from.
            texts: files to keep with the parent, by name; empty ones are left out.

        Raises:
            StudyError: the store cannot be written.
        """
        own_tags = {
            LAUNCH_KEY: key,
            **self._found.tags,
            MLFLOW_RUN_NOTE: note,
            MLFLOW_SOURCE_NAME: "studies/run_study.py",
        }

        def begin() -> None:
            self._end_running("KILLED")
            if not self._parent:
                parents = [] if fresh else self._found.search(f"tags.`{LAUNCH_KEY}` = '{key}'")
                found = parents[0] if parents else None
                run = found or self._client.create_run(self.experiment_id, tags=own_tags, run_name=name)
                self._parent = run.info.run_id
            self._client.update_run(self._parent, status="RUNNING")
            self._runs = TrialRuns(self._client, self._found, self._parent, self._draw)
            self._describe(tags, texts)

        if problem := self._delivery.persist(begin, self._patience):
            self._parent, self._runs = "", None
            raise StudyError(f"MLflow: {redacted(self._uri)} cannot be written: {problem}")

    def trials_link(self, metric: str) -> str:
        """The address of the page that lists the trials by this metric, best first."""
        return trials_link(self._uri, self.experiment_id, self._parent, metric)

    def start(self, trial: Trial) -> None:
        """A trial begins or is resumed: make its run, or open it again, with all epochs known so far."""
        self._unstarted[trial.id] = trial
        self._delivery.attempt(self._catch_up)

    def log(self, trial: Trial, metrics: Mapping[str, float]) -> None:
        """An epoch ended."""
        self._late.setdefault(trial.id, []).append(metrics)
        if self._runs is None or not self._runs.has_begun(trial):
            self._unstarted[trial.id] = trial
        self._delivery.attempt(partial(self._log_late, trial))

    def finish(self, trial: Trial) -> None:
        """A trial ended: fill in missing epochs, keep its files, and close its run."""
        self._unfinished[trial.id] = trial
        self._delivery.attempt(self._catch_up)

    def close(
        self, status: str, trials: Sequence[Trial], best: Trial | None, files: Sequence[Path], note: str
    ) -> str:
        """Write all that is owed, and close the parent and children that were interrupted.

        Args:
            status: the parent's, in MLflow's words.
            trials: all of the launch.
            best: the trial whose model and figures the parent keeps.
            files: to keep with the parent.
            note: shown on the parent's page: the study's title and what it shows.

        Returns:
            One line on what could not be written, why, and what to do; empty if everything is there.
        """
        if not self._parent:
            return ""
        refused: list[str] = []

        def end() -> None:
            refused.clear()
            steps = [partial(self._fill_in, trial) for trial in trials]
            steps += [partial(self._describe_end, status, best, files, note)]
            for step in steps:
                refused.extend(self._refusal(step))
            # Whatever was refused above, and whatever a signal cut off: nothing stays open.
            self._end_running(status)

        patience = SHORT_PATIENCE if status == "KILLED" else self._patience
        advice = "everything is kept in the trials' folders, and the same command writes what is missing"
        try:
            problem = self._delivery.persist(end, min(patience, self._patience)) or "; ".join(refused[:1])
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"MLflow: {redacted(self._uri)} lacks runs; {advice}") from None
        return f"MLflow: {redacted(self._uri)} lacks runs: {problem}; {advice}" if problem else ""

    def _refusal(self, step: Callable[[], None]) -> list[str]:
        """Do a step of the end; returns why the store refuses it. What passes is for the caller to repeat."""
        try:
            step()
        except Exception as error:
            if is_passing(error):
                raise
            logger.warning("MLflow: not logged: %s", why(error))
            return [why(error)] if is_store_fault(error) else []
        return []

    def _describe(self, tags: Mapping[str, str], texts: Mapping[str, str]) -> None:
        self._client.log_batch(self._parent, tags=[RunTag(key, value) for key, value in tags.items()])
        for file, text in texts.items():
            if text:
                self._client.log_text(self._parent, text, file)

    def _catch_up(self) -> None:
        """Begin and end the runs that are due; one that is refused does not keep others waiting."""
        assert self._runs is not None
        for due, act in ((self._unstarted, self._runs.start), (self._unfinished, self._runs.finish)):
            for trial in list(due.values()):
                self._refused |= {trial.id} if self._refusal(partial(act, trial)) else set()
                del due[trial.id]

    def _log_late(self, trial: Trial) -> None:
        self._catch_up()
        assert self._runs is not None
        if not self._runs.has_begun(trial):
            return
        late = self._late.get(trial.id, [])
        if late and not self._runs.has_logged(trial, int(late[0]["epoch"]) - 1):
            # Another study has trained it meanwhile, and reports its last epoch only.
            history = read_record(trial.folder).history
            late = [*(each for each in history if each["epoch"] < late[0]["epoch"]), *late]
        self._runs.log(trial, late)
        self._late.pop(trial.id, None)

    def _fill_in(self, trial: Trial) -> None:
        """Write what is owed of a trial when the launch ends."""
        assert self._runs is not None
        record = read_record(trial.folder)
        if trial.id in self._unfinished or (trial.id in self._refused and record.is_terminal):
            self._runs.finish(trial)
        elif trial.id in self._unstarted or trial.id in self._refused:
            self._runs.start(trial)
        if self._runs.has_begun(trial) and not record.is_terminal:
            self._runs.log(trial, [*record.history, *self._late.get(trial.id, [])])

    def _describe_end(self, status: str, best: Trial | None, files: Sequence[Path], note: str) -> None:
        assert self._runs is not None
        self._client.set_tag(self._parent, MLFLOW_RUN_NOTE, note)
        for path in files:
            self._client.log_artifact(self._parent, str(path))
        if best is not None:
            tags = [RunTag("drcnn.best_trial", best.name), RunTag("drcnn.best_trial_id", best.id)]
            self._client.log_batch(self._parent, metrics=best_metrics(best), tags=tags)
            self._runs.mark(best)
        if best is not None and status != "KILLED":
            from studies.record.tracking.published_model import publish

            publish(self._client, self._parent, self._study, best)

    def _end_running(self, parents_status: str) -> None:
        """End the runs that are open, a killed launch's too; the caller holds the study's lock."""
        for run in self._found.search("attributes.status = 'RUNNING'"):
            run_id = run.info.run_id
            self._client.set_terminated(run_id, parents_status if run_id == self._parent else "KILLED")
