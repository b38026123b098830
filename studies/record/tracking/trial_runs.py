"""MLflow's child runs, one a trial: found or made, given their epochs in order and their files, and ended.

Every method may be repeated after an error of the store: what was written is not written twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE
from PIL.Image import Image

from drcnn.engine.record import LATENCY, Status, read_record
from drcnn.report.blocks import escape
from studies.definition.plan import Trial
from studies.record.tracking.datasets import dataset_inputs
from studies.record.tracking.delivery import is_passing, why
from studies.record.tracking.experiments import OwnRuns
from studies.record.tracking.trial_fields import distinct_name, epoch_metrics, now, params

__all__ = ["BEST", "TrialRuns"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

TRIAL_ID = "drcnn.trial_id"
STATUS = "drcnn.status"
# A child's: its trial's name in reports; and "true" for the best one.
NAME, BEST = "drcnn.trial", "drcnn.best"
# What of a trial's folder is kept with its run. Weights stay where they are, but for the published model's.
ARTIFACTS = ("config.yaml", "result.json", "error.json", "detections.parquet")
# Each epoch of a training has the first, an evaluation of a detector the second: the steps that they have in
# the store are those that were logged before.
LOGGED_WITH = ("train/loss", "perf/eval_seconds")


class TrialRuns:
    """Writes the trials of one launch.

    Args:
        client: of the tracking store.
        runs: those of the study's experiment that are this output's.
        parent: id of the launch's run.
        draw: sample pictures of a finished trial, by file name.
    """

    def __init__(
        self,
        client: MlflowClient,
        runs: OwnRuns,
        parent: str,
        draw: Callable[[Trial], Mapping[str, Image]],
    ) -> None:
        self._client, self._found, self._parent = client, runs, parent
        self._draw = draw
        # By trial id: the run, and the epochs that were logged.
        self._runs: dict[str, str] = {}
        self._steps: dict[str, set[int]] = {}
        self._names: set[str] = set()
        # Trials whose run was asked for, and those whose run has its data sets to get.
        self._asked: set[str] = set()
        self._without_inputs: set[str] = set()
        # By fingerprint of the data.
        self._inputs: dict[str, list[DatasetInput]] = {}
        # Runs that are marked as the best.
        self._marked: set[str] = set()
        for run in runs.search(f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'"):
            self._keep(run)

    def has_begun(self, trial: Trial) -> bool:
        """Whether a trial has a run."""
        return trial.id in self._runs

    def has_logged(self, trial: Trial, epoch: int) -> bool:
        """Whether an epoch was logged, as far as is known here; there is none before the first."""
        return epoch == 0 or epoch in self._steps.get(trial.id, ())

    def start(self, trial: Trial) -> None:
        """Make a trial's run, or open it again, with all epochs that its folder knows."""
        run_id = self._runs.get(trial.id) or self._begin(trial)
        if trial.id in self._without_inputs:
            self._add(trial, partial(self._inputs_of, trial), partial(self._log_inputs, run_id))
            self._without_inputs.discard(trial.id)
        state = [RunTag(STATUS, Status.RUNNING), RunTag("drcnn.data_fingerprint", trial.data.fingerprint)]
        self._client.log_batch(run_id, params=params(trial), tags=state)
        self._client.update_run(run_id, status="RUNNING")
        self.log(trial, read_record(trial.folder).history)

    def log(self, trial: Trial, epochs: Sequence[Mapping[str, float]]) -> None:
        """Log those of these epochs, first epoch first, that the run lacks."""
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

    def finish(self, trial: Trial) -> None:
        """Fill in missing epochs, keep the trial's files, and end its run."""
        record = read_record(trial.folder)
        if record.is_done and trial.id in self._runs:
            run = self._client.get_run(self._runs[trial.id])
            if run.info.status == "FINISHED" and run.data.tags.get(STATUS) == record.status:
                return
        self.start(trial)
        run_id = self._runs[trial.id]
        for name in ARTIFACTS:
            if (trial.folder / name).exists():
                self._client.log_artifact(run_id, str(trial.folder / name))
        if record.is_finished:
            self._add(trial, partial(self._draw, trial), partial(self._log_samples, run_id))
        if trial.data.skipped:
            self._client.log_text(run_id, "\n".join(trial.data.skipped) + "\n", "skipped.txt")
        if record.latency is not None:
            self._client.log_metric(run_id, LATENCY, record.latency, now(), record.epoch)
        tags = [RunTag(STATUS, record.status)]
        if record.error:
            tags.append(RunTag(MLFLOW_RUN_NOTE, escape(record.error)[:5000]))
        self._client.log_batch(run_id, tags=tags)
        self._client.set_terminated(run_id, "FINISHED" if record.is_done else "FAILED")

    def mark(self, best: Trial) -> None:
        """Tag the best trial's run, and no other."""
        own = {self._runs[best.id]} if best.id in self._runs else set()
        for run_id in self._marked - own:
            self._client.delete_tag(run_id, BEST)
        for run_id in own:
            self._client.set_tag(run_id, BEST, "true")
        self._marked = own

    def _begin(self, trial: Trial) -> str:
        if trial.id in self._asked:
            # The store may have made it, though its answer did not come.
            for run in self._found.search(f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self._parent}'"):
                self._keep(run)
            if trial.id in self._runs:
                return self._runs[trial.id]
        self._asked.add(trial.id)
        tags = {MLFLOW_PARENT_RUN_ID: self._parent, **self._found.tags}
        own_tags = {TRIAL_ID: trial.id, NAME: trial.name}
        name = distinct_name(trial, self._names)
        run = self._client.create_run(self._found.experiment_id, tags=tags | own_tags, run_name=name)
        self._keep(run)
        self._without_inputs.add(trial.id)
        return self._runs[trial.id]

    def _keep(self, run: Run) -> None:
        self._runs[run.data.tags[TRIAL_ID]] = run.info.run_id
        self._names.add(run.info.run_name)
        if BEST in run.data.tags:
            self._marked.add(run.info.run_id)

    def _inputs_of(self, trial: Trial) -> list[DatasetInput]:
        known = trial.data.fingerprint
        if known not in self._inputs:
            self._inputs[known] = dataset_inputs(trial)
        return self._inputs[known]

    def _log_inputs(self, run_id: str, inputs: list[DatasetInput]) -> None:
        for each in (self._parent, run_id):
            self._client.log_inputs(each, inputs)

    def _log_samples(self, run_id: str, images: Mapping[str, Image]) -> None:
        for name, image in images.items():
            self._client.log_image(run_id, image, f"samples/{name}")

    def _add(self, trial: Trial, make: Callable[[], T], write: Callable[[T], None]) -> None:
        """Add to a run what it can be without: what cannot be made, or is refused for good, is left out."""
        try:
            made = make()
        except Exception as error:
            logger.warning("MLflow: %s: not logged: %s", trial.name, why(error))
            return
        try:
            write(made)
        except Exception as error:
            if is_passing(error):
                raise
            logger.warning("MLflow: %s: not logged: %s", trial.name, why(error))
