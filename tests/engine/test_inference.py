from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drcnn.batch import Batch
from drcnn.config import Config
from drcnn.data.prepare import PreparedData
from drcnn.detector.detector import DecoupledRCNN
from drcnn.engine.inference import evaluate_checkpoint, measure_latency
from drcnn.engine.run_options import RunOptions

ONE_THREAD = RunOptions(threads=1)


@pytest.mark.parametrize(("amp", "dtype"), [("none", torch.float32), ("bf16", torch.bfloat16)])
def test_latency_and_detections_are_of_the_precision_of_evaluation(
    amp: str,
    dtype: torch.dtype,
    tiny_checkpoint: Path,
    tiny_config: Config,
    tiny_data: PreparedData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The precision of training says nothing about either.
    other = "bf16" if amp == "none" else "none"
    config = tiny_config.with_changes({"evaluation.amp": amp, "training.amp": other})
    seen: list[torch.dtype] = []
    features = DecoupledRCNN.features

    def spied(self: DecoupledRCNN, batch: Batch) -> list[torch.Tensor]:
        maps = features(self, batch)
        seen.extend(each.dtype for each in maps)
        return maps

    monkeypatch.setattr(DecoupledRCNN, "features", spied)
    assert measure_latency(tiny_checkpoint, config, tiny_data.judged_table, ONE_THREAD) > 0
    assert set(seen) == {dtype}
    seen.clear()
    evaluate_checkpoint(tiny_checkpoint, config, {"test": tiny_data.judged_table}, ONE_THREAD)
    assert set(seen) == {dtype}
