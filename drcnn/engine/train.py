"""The training loop. It knows nothing of Ray or MLflow: the caller supplies ``report``.

    fit(config, prepare(config.data, cache), Path("runs/one"), report=print)

The folder of a trial then holds::

    config.yaml          the whole configuration
    last.safetensors     model, momentum and history after the last epoch; training resumes from here. Of a
                         finished trial it is the trained model, without momentum
    detections.parquet   its detections on the split that it is judged by: test, or val if there is no test
    result.json          written last: the trial is finished

Until the trial has finished, the checkpoint of the epoch before lies beside the last one. It is used if the
last is damaged, as its checksum tells; if both are, training starts anew.

The validation split is evaluated every ``evaluation.every`` epochs, the test split once, after the last one.

Started again on the same folder, it resumes after the last finished epoch: on a CPU with identical results,
on a GPU up to its atomic additions, whose order is random.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from drcnn.config import Config
from drcnn.data.loader import make_loader
from drcnn.data.prepare import PreparedData
from drcnn.detector.detector import DecoupledRCNN, build_detector, move_detector
from drcnn.engine import checkpoint, record
from drcnn.engine.checkpoint import TrainingState
from drcnn.engine.data_content import data_content, refuse_changed_data
from drcnn.engine.detections_file import has_detections, write_detections
from drcnn.engine.divergence import check_every, require_finite, require_finite_weights
from drcnn.engine.evaluate import evaluate_split
from drcnn.engine.made_by import made_by, merged
from drcnn.engine.optimizer import make_optimizer
from drcnn.engine.precision import autocast, require_precision
from drcnn.engine.run_options import RunOptions
from drcnn.engine.schedule import learning_rate, warmup_steps
from drcnn.engine.start import require_start, start_from
from drcnn.engine.workers import from_first, rank, sum_, world_size
from drcnn.files import waiting_for_space, write_text

__all__ = ["Report", "Say", "Step", "fit"]

Report = Callable[[dict[str, float]], None]
# Takes a line about what a person may not expect.
Say = Callable[[str], None]
# Takes an epoch and a step, both counted from 1, and the steps of an epoch.
Step = Callable[[int, int, int], None]


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

    Raises:
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
    trial = _Trial(config, data, folder, options, say, step, waits or say)
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
    ) -> None:
        self.config, self.data, self.folder, self.options = config, data, folder, options
        self.say, self.tell_step, self.waits = say, step, waits
        self.device = torch.device(options.device)
        self.last = folder / "last.safetensors"
        # The random start depends on the seed only, and leaves the caller's generator unchanged.
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            # The last checkpoint holds all weights, as does a whole detector to start from: neither needs
            # the pretrained ones.
            init = "none" if self.last.exists() else config.training.init
            pretrained = not self.last.exists() and init == "none"
            detector = build_detector(config.detector, len(data.classes), pretrained=pretrained)
            if init != "none":
                for line in start_from(detector, init, data.classes):
                    say(line)
        self.detector = move_detector(detector, self.device)
        if self.device.type == "cuda":
            # Forget the peak of an earlier trial in this process. CUDA is initialised by now.
            torch.cuda.reset_peak_memory_stats(self.device)
        self.optimizer = make_optimizer(self.detector, config.training)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.training.amp == "fp16")
        self.state = self._resume()
        self.model = self._distribute(self.detector)

    def _resume(self) -> TrainingState:
        if not self.last.exists():
            if rank() == 0:
                write_text(self.folder / "config.yaml", self.config.to_yaml())
            return TrainingState(self.config.to_yaml(), list(self.data.classes), data=data_content(self.data))
        refuse_changed_data(self.last, data_content(self.data))
        state = checkpoint.restore(self.last, self.detector, self.optimizer)
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
        return state

    def _distribute(self, detector: DecoupledRCNN) -> nn.Module:
        if world_size() == 1:
            return detector
        # Every head runs in every step, if need be on empty input, so no parameter is unused.
        return DistributedDataParallel(
            detector,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )

    def run_epoch(self) -> dict[str, float]:
        """Train, evaluate and save one epoch; return its metrics."""
        epoch = self.state.epoch + 1
        started = time.perf_counter()
        losses, images, rate = self._train(epoch)
        trained = time.perf_counter()
        figures = self._evaluate(epoch)
        evaluated = time.perf_counter()
        metrics = {
            "epoch": float(epoch),
            **figures,
            **losses,
            "train/lr": rate,
            "perf/images_per_s": images / (trained - started),
            "perf/epoch_seconds": trained - started,
            "perf/eval_seconds": evaluated - trained,
            "perf/peak_memory_gib": self._peak_memory(),
            "perf/workers": float(world_size()),
            "perf/gpus": world_size() * self.options.gpus,
        }
        self.state.made_by = merged(self.state.made_by, made_by(self.options))
        self.state.epoch = epoch
        self.state.history.append(metrics)
        self.state.scaler = self.scaler.state_dict()
        if rank() == 0:
            self._save()
        if world_size() > 1:
            dist.barrier()
        return metrics

    def _train(self, epoch: int) -> tuple[dict[str, float], int, float]:
        """Train one epoch; return means over its steps, the number of images, and the last learning rate."""
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
            num_workers=self.options.loader_workers,
            pin_memory=self.device.type == "cuda",
            beat=self.options.beat,
        )
        if epoch == 1 and (warmup := warmup_steps(training, len(loader))) < training.warmup_iterations:
            steps = training.epochs * len(loader)
            self.say(f"warm-up: {warmup} of {steps} steps, a third, instead of {training.warmup_iterations}")
        self.model.train()
        sums: dict[str, Tensor] = {}
        steps_unchecked = check_every(self.device)
        for number, batch in enumerate(loader):
            rate = learning_rate(training, (epoch - 1) * len(loader) + number, len(loader))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            with autocast(self.device, training.amp):
                losses = self.model(batch.to(self.device))
                losses["loss"] = torch.stack(list(losses.values())).sum()
            self._step(losses["loss"])
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach()
            if number % steps_unchecked == 0 or number == len(loader) - 1:
                require_finite(sums, epoch, number + 1)
            self.tell_step(epoch, number + 1, len(loader))
        require_finite_weights(self.detector, epoch)
        sums |= self.detector.heads.take_unfilled()  # added up over the steps, like the losses
        totals = sum_(torch.stack(list(sums.values()))) / (len(loader) * world_size())
        means = dict(zip((f"train/{name}" for name in sums), totals.tolist(), strict=True))
        return means, len(loader) * training.batch_size, rate

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
        is_last = epoch == self.config.training.epochs
        every = self.config.evaluation.every
        splits = {
            "val": self.data.val if is_last or (every and epoch % every == 0) else None,
            "test": self.data.test if is_last else None,
        }
        figures: dict[str, float] = {}
        for split, table in splits.items():
            if table is None:
                continue
            metrics, detections = evaluate_split(self.detector, table, self.config, self.options)
            figures |= {f"{split}/{name}": value for name, value in metrics.summary.items()}
            if split == self.data.judged:
                self.state.per_class = metrics.per_class
                if rank() == 0:
                    waiting_for_space(partial(write_detections, self.folder, detections), self.waits)
        return figures

    def complete(self) -> None:
        """Write what is missing after the last epoch: a kill came before it, or a file was damaged since."""
        if from_first(lambda: not has_detections(self.folder)):
            self._evaluate(self.state.epoch)
        if rank() == 0:
            waiting_for_space(self.write_result, self.waits)

    def _save(self) -> None:
        is_last = self.state.epoch == self.config.training.epochs
        # Nothing goes on from the last epoch: its file is the trained model.
        optimizer = None if is_last else self.optimizer
        waiting_for_space(
            partial(checkpoint.save, self.last, self.detector, self.state, optimizer), self.waits
        )
        if is_last:
            waiting_for_space(self.write_result, self.waits)

    def write_result(self) -> None:
        """Write ``result.json``, which marks the trial as finished."""
        state = self.state
        seconds = sum(past["perf/epoch_seconds"] + past["perf/eval_seconds"] for past in state.history)
        record.write_finished(
            self.folder, state.history, state.per_class, seconds, state.made_by, notes=state.notes
        )
        checkpoint.remove_spares(self.folder)

    def _peak_memory(self) -> float:
        """GiB: on a GPU the peak of this trial's tensors, on a CPU that of the whole process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
