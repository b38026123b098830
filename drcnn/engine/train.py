"""The training loop. It knows nothing of Ray or MLflow: the caller supplies ``report``.

    fit(config, prepare(config.data, cache), Path("runs/one"), report=print)

The folder of a trial then holds::

    config.yaml          the whole configuration
    last.safetensors     model, momentum and history after the last epoch, or within one (every
                         ``training.checkpoint_minutes``, and before it is evaluated); training resumes from
                         here. Of a finished trial it is the trained model, without momentum
    detections.parquet   its detections on the split that it is judged by: test, or val if there is no test
    result.json          written last: the trial is finished

Until the trial has finished, the checkpoint before the last one lies beside it. It is used if the last is
damaged, as its checksum tells; if both are, training starts anew.

The validation split is evaluated every ``evaluation.every`` epochs, the test split once, after the last one.

Started again on the same folder, it resumes where it was last saved: on a CPU with identical results, on a
GPU up to its atomic additions, whose order is random.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from drcnn.config import Config
from drcnn.data.loader import make_loader
from drcnn.data.prepare import PreparedData
from drcnn.detector.detector import move_detector
from drcnn.engine import checkpoint, record
from drcnn.engine.checkpoint import TrainingState
from drcnn.engine.data_content import data_content, refuse_changed_data
from drcnn.engine.detections_file import has_detections, write_detections
from drcnn.engine.divergence import check_every, require_finite, require_finite_weights
from drcnn.engine.errors import TrainingInterrupted
from drcnn.engine.evaluate import evaluate_split
from drcnn.engine.made_by import made_by, merged
from drcnn.engine.optimizer import make_optimizer
from drcnn.engine.partial_epoch import PartialEpoch, SaveTimes
from drcnn.engine.performance import performance, reset_peak_memory
from drcnn.engine.precision import autocast, require_precision
from drcnn.engine.required_start import require_start
from drcnn.engine.run_options import Report, RunOptions, Say, Step
from drcnn.engine.schedule import learning_rate, warmup_steps
from drcnn.engine.start import first_detector
from drcnn.engine.workers import distributed, from_first, rank, world_size
from drcnn.files import waiting_for_space, write_text
from drcnn.identity import start_digest

__all__ = ["fit"]


def fit(
    config: Config,
    data: PreparedData,
    folder: Path,
    *,
    report: Report,
    options: RunOptions = RunOptions(),  # noqa: B008 - frozen
    say: Say = lambda line: None,
    step: Step = lambda epoch, step, steps: None,
    waits: Say | None = None,
    saved: Callable[[], None] = lambda: None,
) -> None:
    """Train one trial, or finish one that was interrupted.

    With ``torch.distributed`` initialised, every worker calls this with its own rank; the first one writes.

    Args:
        config: the trial.
        data: the prepared splits.
        folder: of the trial, shared by its workers.
        report: called on every worker after each epoch, with the same metrics, once that epoch's checkpoint
            (and after the last epoch ``result.json``) is on disk. A metric's name begins with its split.
        options: how to run.
        say: called on the first worker with what it starts from, a checkpoint that was damaged, and a warm-up
            that was shortened.
        step: called on the first worker after each step.
        waits: called on the first worker when a disk is full and is waited for; ``say`` unless given.
        saved: called on every worker when a checkpoint within an epoch is on disk.

    Raises:
        TrainingInterrupted: ``options.leaves`` said so on a worker; all is saved.
        TrainingDiverged: the loss is no longer finite.
        DataError: an image cannot be read, or the folder holds a run on data that changed since.
        ConfigError: what it starts from does not fit, or fp16 is asked for without a GPU.
        CheckpointError: ``last.safetensors`` is of another model.
        DiskFullError: there was no space for minutes; what was there before stays.
        OSError: storage or the download of the weights failed; a later attempt may succeed.
    """
    require_precision(config, options.device)
    options.apply()
    if rank() != 0:
        say, step = (lambda line: None), (lambda epoch, step, steps: None)
    notes = from_first(lambda: checkpoint.recover(folder))
    for note in notes:
        say(note)
    if not (folder / "last.safetensors").exists():
        require_start(config)
    folder.mkdir(parents=True, exist_ok=True)
    trial = _Trial(config, data, folder, options, say, step, waits or say, saved)
    trial.state.notes += notes
    while trial.state.epoch < config.training.epochs:
        metrics = trial.run_epoch()
        report(metrics)
    if from_first(lambda: not record.read_record(folder).is_finished):
        trial.complete()


class _Trial:
    """A running trial: detector, optimiser, data and state."""

    def __init__(
        self,
        config: Config,
        data: PreparedData,
        folder: Path,
        options: RunOptions,
        say: Say,
        step: Step,
        waits: Say,
        saved: Callable[[], None],
    ) -> None:
        self.config, self.data, self.folder, self.options = config, data, folder, options
        self.say, self.tell_step, self.waits, self.tell_saved = say, step, waits, saved
        self.device = torch.device(options.device)
        self.last = folder / "last.safetensors"
        detector = first_detector(config, data.classes, say, resumes=self.last.exists())
        self.detector = move_detector(detector, self.device)
        reset_peak_memory(self.device)
        self.optimizer = make_optimizer(self.detector, config.training)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.training.amp == "fp16")
        self.state = self._resume()
        self.times = SaveTimes(config.training.checkpoint_minutes, options.leaves, self.device)
        self.model = distributed(self.detector, self.device)

    def _resume(self) -> TrainingState:
        text, content = self.config.to_yaml(), data_content(self.data)
        if rank() == 0:
            waiting_for_space(partial(write_text, self.folder / "config.yaml", text), self.waits)
        if not self.last.exists():
            start = start_digest(self.config)
            return TrainingState(text, list(self.data.classes), data=content, start=start)
        refuse_changed_data(self.last, content)
        state = checkpoint.restore(self.last, self.detector, self.optimizer)
        # The same but for what has no effect: where the data lies, say.
        state.config = text
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
        return state

    def run_epoch(self) -> dict[str, float]:
        """Train, evaluate and save one epoch; return its metrics."""
        epoch = self.state.epoch + 1
        losses, images, rate, seconds = self._train(epoch)
        trained = time.perf_counter()
        figures = self._evaluate(epoch)
        eval_seconds = time.perf_counter() - trained
        metrics = {
            "epoch": float(epoch),
            **figures,
            **losses,
            "train/lr": rate,
            **performance(images, seconds, eval_seconds, self.options),
        }
        self.state.epoch = epoch
        self.state.step, self.state.sums, self.state.seconds = 0, [], 0.0
        self.state.history.append(metrics)
        self._save()
        return metrics

    def _train(self, epoch: int) -> tuple[dict[str, float], int, float, float]:
        """Train what is left of an epoch; return means over its steps, images, last rate, and seconds."""
        training = self.config.training
        loader = make_loader(
            self.data.train,
            self.config.data,
            training=True,
            batch_size=training.batch_size,
            seed=self.config.seed,
            epoch=epoch,
            rank=rank(),
            world_size=world_size(),
            first=self.state.step,
            num_workers=self.options.loader_workers,
            pin_memory=self.device.type == "cuda",
            beat=self.options.beat,
        )
        steps, partial_epoch = len(loader), PartialEpoch(self.state, self.device)
        if epoch == 1 and (warmup := warmup_steps(training, steps)) < training.warmup_iterations:
            whole = training.epochs * steps
            self.say(f"warm-up: {warmup} of {whole} steps, a third, instead of {training.warmup_iterations}")
        self.model.train()
        steps_unchecked = check_every(self.device)
        rate = learning_rate(training, epoch * steps - 1, steps)
        for number, batch in enumerate(loader, start=self.state.step):
            rate = learning_rate(training, (epoch - 1) * steps + number, steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            with autocast(self.device, training.amp):
                losses = self.model(batch.to(self.device))
                losses["loss"] = torch.stack(list(losses.values())).sum()
            self._step(losses["loss"])
            partial_epoch.add(losses | self.detector.heads.take_unfilled())
            is_checked = number % steps_unchecked == 0 or number == steps - 1
            if is_checked:
                require_finite(partial_epoch.sums, epoch, number + 1)
            self.tell_step(epoch, number + 1, steps)
            if is_checked:
                self._save_within(epoch, partial_epoch, number + 1, steps)
        require_finite_weights(self.detector, epoch)
        seconds = partial_epoch.seconds()
        if self.state.step < steps and self._evaluated_after(epoch):
            # An evaluation may be long, and end with the node.
            self._save_partial(partial_epoch, steps)
        means = {f"train/{name}": value for name, value in partial_epoch.means(steps).items()}
        return means, steps * training.batch_size, rate, seconds

    def _step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.config.training.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.detector.parameters(), self.config.training.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _evaluate(self, epoch: int) -> dict[str, float]:
        """Return the metrics of the splits that are due, the same on every worker."""
        figures: dict[str, float] = {}
        for split in self._evaluated_after(epoch):
            table = self.data.tables[split]
            metrics, detections = evaluate_split(self.detector, table, self.config, self.options)
            figures |= {f"{split}/{name}": value for name, value in metrics.summary.items()}
            if split == self.data.judged:
                self.state.per_class = metrics.per_class
                if rank() == 0:
                    waiting_for_space(partial(write_detections, self.folder, detections), self.waits)
        return figures

    def _evaluated_after(self, epoch: int) -> list[str]:
        every, is_last = self.config.evaluation.every, epoch == self.config.training.epochs
        is_due = {"val": is_last or bool(every and epoch % every == 0), "test": is_last}
        return [split for split in self.data.tables if is_due.get(split)]

    def complete(self) -> None:
        """Write what is missing after the last epoch: a kill came before it, or a file was damaged since."""
        if from_first(lambda: not has_detections(self.folder)):
            self._evaluate(self.state.epoch)
        if rank() == 0:
            waiting_for_space(self.write_result, self.waits)

    def _save_within(self, epoch: int, partial_epoch: PartialEpoch, step: int, steps: int) -> None:
        """Save within an epoch if it is time, and end if a machine has notice to go."""
        is_due, ends = self.times.ask()
        if not is_due:
            return
        require_finite_weights(self.detector, epoch)
        self._save_partial(partial_epoch, step)
        if ends:
            raise TrainingInterrupted(f"saved in epoch {epoch} at step {step} of {steps}")

    def _save_partial(self, partial_epoch: PartialEpoch, step: int) -> None:
        partial_epoch.note(self.state, step)
        self._save()
        self.tell_saved()

    def _save(self) -> None:
        """Write the checkpoint, on the first worker; the others wait."""
        self.state.made_by = merged(self.state.made_by, made_by(self.options))
        self.state.scaler = self.scaler.state_dict()
        if rank() == 0:
            is_last = self.state.epoch == self.config.training.epochs
            # Nothing goes on from the last epoch: its file is the trained model.
            optimizer = None if is_last else self.optimizer
            save = partial(checkpoint.save, self.last, self.detector, self.state, optimizer)
            waiting_for_space(save, self.waits)
            if is_last:
                waiting_for_space(self.write_result, self.waits)
        if world_size() > 1:
            dist.barrier()
        self.times.saved()

    def write_result(self) -> None:
        """Write ``result.json``, which marks the trial as finished."""
        state = self.state
        seconds = sum(past["perf/epoch_seconds"] + past["perf/eval_seconds"] for past in state.history)
        record.write_finished(
            self.folder, state.history, state.per_class, seconds, state.made_by, notes=state.notes
        )
        checkpoint.remove_spares(self.folder)
