"""MLflow: one parent run a launch, one child run a trial, written by the driver only.

Runs are found again by tag, so the same command continues its own parent and children instead of adding more;
steps are epochs, and epochs that a kill lost are filled in from the trial's folder. Training never waits for
the tracker: what cannot be logged now is logged when the trial ends, or by the next launch.

Shared tracking servers are only ever read and written through ``MlflowClient``; workers never see them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE, MLFLOW_SOURCE_NAME
from PIL.Image import Image

from drcnn.engine.record import LATENCY, Status, TrialRecord, read_record
from studies.definition.errors import one_line
from studies.definition.plan import Trial
from studies.record.tracking.addresses import trials_link
from studies.record.tracking.datasets import dataset_inputs
from studies.record.tracking.experiments import opened_experiment
from studies.record.tracking.trial_fields import best_metrics, distinct_name, epoch_metrics, now, params

__all__ = ["OUTPUT", "Tracker"]

logger = logging.getLogger(__name__)

LAUNCH_KEY = "drcnn.launch"
OUTPUT = "drcnn.output"
TRIAL_ID = "drcnn.trial_id"
STATUS = "drcnn.status"
# A child's: its trial's name in reports; and "true" for the best one.
NAME, BEST = "drcnn.trial", "drcnn.best"
# What of a trial's folder is kept with its run. Weights stay where they are, but for the published model's.
ARTIFACTS = ("config.yaml", "result.json", "error.json", "detections.parquet")
# Each epoch of a training has the first, an evaluation of a detector the second: the steps that they have in
# the store are those that were logged before.
LOGGED_WITH = ("train/loss", "perf/eval_seconds")


class Tracker:
    """Writes one study to MLflow.

    Args:
        uri: of the tracking store.
        artifacts: where to keep artifacts (``file:///...``); none leaves it to the tracking server.
        experiment: the study's name.
        output: absolute folder of the studies; runs left RUNNING by a killed launch are known by it.
        draw: sample pictures of a finished trial, by file name.
        earlier: paths that ``output`` had before it was moved.
    """

    def __init__(
        self,
        uri: str,
        artifacts: str | None,
        experiment: str,
        output: Path,
        draw: Callable[[Trial], Mapping[str, Image]] = lambda trial: {},
        earlier: Collection[str] = (),
    ) -> None:
        self._client = MlflowClient(tracking_uri=uri)
        location = f"{artifacts}/{quote(experiment)}" if artifacts else None
        self.experiment_id = opened_experiment(self._client, experiment, location).experiment_id
        self._uri, self._output, self._draw = uri, str(output), draw
        self._study, self._places = output / experiment, {str(output), *earlier}
        self._parent = ""
        # By trial id: the run, and the epochs that were logged.
        self._runs: dict[str, str] = {}
        self._steps: dict[str, set[int]] = {}
        self._names: set[str] = set()
        # By fingerprint of the data.
        self._inputs: dict[str, list[DatasetInput]] = {}
        # Children that are marked as the best.
        self._marked: set[str] = set()
        # Trials that ended while the store could not be written.
        self._owed: set[str] = set()

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
        """
        self._end_running("KILLED")
        parents = [] if fresh else self._search(f"tags.`{LAUNCH_KEY}` = '{key}'")
        if parents:
            self._parent = parents[0].info.run_id
            self._client.update_run(self._parent, status="RUNNING")
        else:
            own_tags = {
                LAUNCH_KEY: key,
                OUTPUT: self._output,
                MLFLOW_RUN_NOTE: note,
                MLFLOW_SOURCE_NAME: "studies/run_study.py",
            }
            run = self._client.create_run(self.experiment_id, tags=own_tags, run_name=name)
            self._parent = run.info.run_id
        for run in self._search(f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self._parent}'"):
            self._runs[run.data.tags[TRIAL_ID]] = run.info.run_id
            self._names.add(run.info.run_name)
            if BEST in run.data.tags:
                self._marked.add(run.info.run_id)
        self._guard(lambda: self._describe(tags, texts))

    def trials_link(self, metric: str) -> str:
        """The address of the page that lists the trials by this metric, best first."""
        return trials_link(self._uri, self.experiment_id, self._parent, metric)

    def start(self, trial: Trial) -> None:
        """A trial begins or is resumed: make its run, or open it again, with all epochs known so far."""
        self._guard(lambda: self._start(trial))

    def log(self, trial: Trial, metrics: Mapping[str, float]) -> None:
        """An epoch ended."""
        self._guard(lambda: self._log(trial, [metrics]) if trial.id in self._runs else self._start(trial))

    def finish(self, trial: Trial) -> None:
        """A trial ended: fill in missing epochs, keep its files, and close its run."""
        self._owed.add(trial.id)
        self._guard(lambda: self._finish(trial, read_record(trial.folder)))

    def close(
        self, status: str, trials: Sequence[Trial], best: Trial | None, files: Sequence[Path], note: str
    ) -> None:
        """Close the parent and children that were interrupted.

        Args:
            status: the parent's, in MLflow's words.
            trials: all of the launch.
            best: the trial whose model and figures the parent keeps.
            files: to keep with the parent.
            note: shown on the parent's page: the study's title and what it shows.
        """
        self._guard(lambda: self._close(status, trials, best, files, note))

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            # A locked or unreachable store must not cost hours of training.
            logger.warning("MLflow: not logged now, will be filled in later: %s", one_line(error))

    def _describe(self, tags: Mapping[str, str], texts: Mapping[str, str]) -> None:
        self._client.log_batch(self._parent, tags=[RunTag(key, value) for key, value in tags.items()])
        for file, text in texts.items():
            if text:
                self._client.log_text(self._parent, text, file)

    def _start(self, trial: Trial) -> None:
        if trial.id not in self._runs:
            tags = {MLFLOW_PARENT_RUN_ID: self._parent, OUTPUT: self._output}
            own_tags = {TRIAL_ID: trial.id, NAME: trial.name}
            name = distinct_name(trial, self._names)
            run = self._client.create_run(self.experiment_id, tags=tags | own_tags, run_name=name)
            self._runs[trial.id] = run.info.run_id
            self._names.add(name)
            self._guard(lambda: self._client.log_inputs(run.info.run_id, self._datasets(trial)))
        run_id = self._runs[trial.id]
        state = [RunTag(STATUS, Status.RUNNING), RunTag("drcnn.data_fingerprint", trial.data.fingerprint)]
        self._client.log_batch(run_id, params=params(trial), tags=state)
        self._client.update_run(run_id, status="RUNNING")
        self._log(trial, read_record(trial.folder).history)

    def _datasets(self, trial: Trial) -> list[DatasetInput]:
        known = trial.data.fingerprint
        if known not in self._inputs:
            self._inputs[known] = dataset_inputs(trial)
            self._client.log_inputs(self._parent, self._inputs[known])
        return self._inputs[known]

    def _log(self, trial: Trial, epochs: Sequence[Mapping[str, float]]) -> None:
        run_id = self._runs[trial.id]
        # Forgotten while it changes: after a failure or Ctrl-C in between, the store itself is asked.
        logged = self._steps.pop(trial.id, None)
        if logged is None:
            histories = (self._client.get_metric_history(run_id, key) for key in LOGGED_WITH)
            logged = {metric.step for history in histories for metric in history}
        for metrics in epochs:
            step = int(metrics["epoch"])
            if step not in logged:
                self._client.log_batch(run_id, metrics=epoch_metrics(metrics))
                logged.add(step)
        self._steps[trial.id] = logged

    def _finish(self, trial: Trial, record: TrialRecord) -> None:
        if record.is_done and trial.id in self._runs:
            run = self._client.get_run(self._runs[trial.id])
            if run.info.status == "FINISHED" and run.data.tags.get(STATUS) == record.status:
                self._owed.discard(trial.id)
                return
        self._start(trial)
        run_id = self._runs[trial.id]
        for name in ARTIFACTS:
            if (trial.folder / name).exists():
                self._client.log_artifact(run_id, str(trial.folder / name))
        if record.is_finished:
            self._guard(lambda: self._log_samples(run_id, trial))
        if trial.data.skipped:
            self._client.log_text(run_id, "\n".join(trial.data.skipped) + "\n", "skipped.txt")
        if record.latency is not None:
            self._client.log_metric(run_id, LATENCY, record.latency, now(), record.epoch)
        tags = [RunTag(STATUS, record.status)]
        if record.error:
            tags.append(RunTag(MLFLOW_RUN_NOTE, record.error[:5000]))
        self._client.log_batch(run_id, tags=tags)
        self._client.set_terminated(run_id, "FINISHED" if record.is_done else "FAILED")
        self._owed.discard(trial.id)

    def _close(
        self, status: str, trials: Sequence[Trial], best: Trial | None, files: Sequence[Path], note: str
    ) -> None:
        if not self._parent:
            return
        for trial in trials:
            self._guard(partial(self._fill_in, trial))
        self._guard(partial(self._describe_end, status, best, files, note))
        # Whatever failed above, and whatever a signal cut off: nothing stays open.
        self._end_running(status)

    def _fill_in(self, trial: Trial) -> None:
        record = read_record(trial.folder)
        if trial.id in self._owed:
            self._finish(trial, record)
        elif trial.id in self._runs and not record.is_terminal:
            self._log(trial, record.history)

    def _describe_end(self, status: str, best: Trial | None, files: Sequence[Path], note: str) -> None:
        self._client.set_tag(self._parent, MLFLOW_RUN_NOTE, note)
        for path in files:
            self._client.log_artifact(self._parent, str(path))
        if best is not None:
            tags = [RunTag("drcnn.best_trial", best.name), RunTag("drcnn.best_trial_id", best.id)]
            self._client.log_batch(self._parent, metrics=best_metrics(best), tags=tags)
            self._mark(best)
        if best is not None and status != "KILLED":
            from studies.record.tracking.published_model import publish

            publish(self._client, self._parent, self._study, best)

    def _log_samples(self, run_id: str, trial: Trial) -> None:
        for name, image in self._draw(trial).items():
            self._client.log_image(run_id, image, f"samples/{name}")

    def _mark(self, best: Trial) -> None:
        """Tag the best trial's run, and no other."""
        own = {self._runs[best.id]} if best.id in self._runs else set()
        for run_id in self._marked - own:
            self._client.delete_tag(run_id, BEST)
        for run_id in own:
            self._client.set_tag(run_id, BEST, "true")
        self._marked = own

    def _end_running(self, parents_status: str) -> None:
        """End the runs that are open, a killed launch's too; the caller holds the study's lock."""
        for run in self._search("attributes.status = 'RUNNING'"):
            run_id = run.info.run_id
            self._client.set_terminated(run_id, parents_status if run_id == self._parent else "KILLED")

    def _search(self, condition: str) -> list[Run]:
        """Runs of this OUTPUT, newest first; a shared server may hold other people's of the same study."""
        runs: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs(
                [self.experiment_id], condition, order_by=["attributes.start_time DESC"], page_token=token
            )
            runs.extend(run for run in page if run.data.tags.get(OUTPUT) in self._places)
            token = page.token
            if not token:
                return runs
