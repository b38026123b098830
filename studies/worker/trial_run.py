"""How a trial runs on Ray: in Tune's own actor, or as one of a group of Ray Train workers (see ``workers``).

A trial trains, or evaluates what another has trained. Both ways call the same ``fit`` on the trial's folder,
so a trial gives the same figures either way, up to the order of floating-point sums, and may be resumed
either way. Only metrics go through Ray: an epoch's checkpoint is in the folder when the epoch is reported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from ray import tune

from drcnn.engine.detections_file import write_detections
from drcnn.engine.record import read_record, write_failed, write_finished, write_latency
from drcnn.engine.run_options import RunOptions
from drcnn.files import waiting_for_space, write_text
from drcnn.trained_model import CHECKPOINT
from studies.definition.metrics import key_of
from studies.definition.plan import Trial
from studies.transfer.trial_folders import TrialFolders
from studies.worker.faults import failures_recorded, wait_before_attempt
from studies.worker.job import Job
from studies.worker.notice import Notice
from studies.worker.space_note import SpaceNote
from studies.worker.step_note import StepNote
from studies.worker.watch import Watch

__all__ = ["evaluate", "run_trial", "time_inference", "work_watched"]

Report = Callable[[dict[str, float]], None]


def run_trial(config: Mapping[str, Any]) -> None:
    """Tune function of a trial with one worker: trains or evaluates in the trial's actor."""
    trial: Trial = config["trial"]
    job: Job = config["job"]
    attempt = config.get("attempt", 0)
    wait_before_attempt(config.get("failures", 0))
    with job.folders.locked(trial):
        with failures_recorded(trial, job.folders):
            job.prepare_node(trial, attempt)
            _with_whole_detector(trial, job, attempt, lambda: work_watched(trial, job, attempt, tune.report))
        if job.measures_latency and read_record(trial.folder).is_finished:
            with failures_recorded(trial, job.folders):
                _with_whole_detector(trial, job, attempt, lambda: _timing_watched(trial, job, attempt))
        job.folders.upload(trial)
        job.folders.drop_weights(trial)


def _timing_watched(trial: Trial, job: Job, attempt: int) -> None:
    with Watch(trial.folder, attempt, 0, job.patience):
        time_inference(trial, job.options)


def _with_whole_detector(trial: Trial, job: Job, attempt: int, work: Callable[[], None]) -> None:
    """Work with a trained detector; if its checkpoint turns out to be damaged, train it again first."""
    from drcnn.engine.checkpoint import put_aside_if_damaged
    from drcnn.engine.errors import DamagedCheckpointError
    from drcnn.engine.train import fit

    trained = trial.model or trial
    try:
        work()
    except DamagedCheckpointError:
        # Of a training that has not ended it is another file, such as the one that it starts from.
        if trial.model is None and not read_record(trained.folder).is_finished:
            raise
        # The trial's own folder is locked already; another evaluation may be training the detector again.
        with job.folders.locked(trained) if trial.model else nullcontext():
            put_aside_if_damaged(trained.folder / CHECKPOINT)
            # An object store may have it whole; else it is trained.
            job.folders.store.download(trained.folder)
            with Watch(trained.folder, attempt, 0, job.patience) as watch:
                fit(
                    trained.config,
                    trained.data,
                    trained.folder,
                    report=lambda _: None,
                    options=replace(job.options, beat=watch.beat),
                    waits=SpaceNote(trial.folder),
                )
            job.folders.upload(trained)
        work()


def work_watched(trial: Trial, job: Job, attempt: int, report: Report) -> None:
    """Train or evaluate a trial, unless its folder says that nothing is left to do; if it hangs it is killed.

    A training whose node is to go saves and ends.

    Args:
        trial: the trial.
        job: how to run.
        attempt: of this launch, from 0.
        report: takes an epoch's metrics, when its files are uploaded; the first worker has written them.

    Raises:
        TrainingInterrupted: the node of a worker has notice to go; what is trained is saved, and uploaded.
    """
    from drcnn.engine.workers import from_first, rank

    notice = Notice(is_cluster=job.examination is not None)
    with Watch(trial.folder, attempt, rank(), job.patience) as watch, notice:

        def upload() -> None:
            with watch.paused():
                # All wait: whoever ends first takes the others with it.
                from_first(lambda: job.folders.upload(trial))

        def upload_and_report(metrics: dict[str, float]) -> None:
            with watch.paused():
                if rank() == 0:
                    job.folders.upload(trial)
                report(metrics)

        options = replace(job.options, beat=watch.beat, leaves=notice.is_given)
        _train_or_evaluate(trial, job.folders, options, upload_and_report, upload)


def _train_or_evaluate(
    trial: Trial, folders: TrialFolders, options: RunOptions, report: Report, saved: Callable[[], None]
) -> None:
    from drcnn.engine.train import fit

    # Finished meanwhile by another study, or failed in a way that would only repeat itself.
    record = read_record(trial.folder)
    if record.is_finished:
        report(record.metrics)
    if record.is_finished or record.is_failed:
        return
    if trial.model is None:
        step = StepNote(trial.folder)
        waits = SpaceNote(trial.folder)
        fit(
            trial.config,
            trial.data,
            trial.folder,
            report=report,
            options=options,
            step=step,
            waits=waits,
            saved=saved,
        )
        return
    trained = read_record(trial.model.folder)
    if not trained.is_finished:
        # Another evaluation may have found it damaged, and be training it again.
        with folders.locked(trial.model):
            trained = read_record(trial.model.folder)
    if trained.is_finished:
        report(evaluate(trial, options))
        return
    why = trained.error or trained.status
    message = f"the detector was not trained ({trial.model.name}: {why})"
    waiting_for_space(partial(write_failed, trial.folder, message), SpaceNote(trial.folder))


def evaluate(trial: Trial, options: RunOptions) -> dict[str, float]:
    """Evaluate a trained trial with other settings of inference; leave detections and ``result.json``.

    Args:
        trial: the evaluation; its ``model`` has finished.
        options: how to run.

    Returns:
        The metrics, with the epoch of the detector.
    """
    from drcnn.engine.inference import evaluate_checkpoint
    from drcnn.engine.made_by import made_by

    assert trial.model is not None
    started = time.perf_counter()
    tables = {split: path for split, path in trial.data.tables.items() if split != "train"}
    checkpoint = trial.model.folder / CHECKPOINT
    evaluations = evaluate_checkpoint(checkpoint, trial.config, tables, options)
    judged = evaluations[trial.data.judged]
    trial.folder.mkdir(parents=True, exist_ok=True)
    waits = SpaceNote(trial.folder)
    waiting_for_space(partial(write_detections, trial.folder, judged.detections), waits)
    waiting_for_space(partial(write_text, trial.folder / "config.yaml", trial.config.to_yaml()), waits)
    seconds = time.perf_counter() - started
    metrics = {"epoch": float(judged.epoch), "perf/eval_seconds": seconds}
    for split, evaluation in evaluations.items():
        metrics |= {key_of(name, split): value for name, value in evaluation.metrics.summary.items()}
    # Last: the mark of a finished evaluation.
    finish = partial(write_finished, trial.folder, [metrics], judged.metrics.per_class, seconds)
    waiting_for_space(partial(finish, made_by(options)), waits)
    return metrics


def time_inference(trial: Trial, options: RunOptions) -> None:
    """Measure how long a finished trial's detector takes for an image, once; its folder keeps the result."""
    from drcnn.engine.inference import measure_latency

    if read_record(trial.folder).latency is None:
        checkpoint = (trial.model or trial).folder / CHECKPOINT
        milliseconds = measure_latency(checkpoint, trial.config, trial.data.judged_table, options)
        note = partial(write_latency, trial.folder, milliseconds, options.device)
        waiting_for_space(note, SpaceNote(trial.folder))
