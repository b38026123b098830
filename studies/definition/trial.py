"""A trial: one complete configuration and its seed, known by a hash of all that decides its result.

That is every setting that has an effect, the content of data and weights, the seed, and the version of the
numerics (``drcnn.identity``). A trial's folder, ``OUTPUT/trials/<id>``, is shared by all studies of that
OUTPUT: what one has trained, no other trains again. An evaluation of a trained trial with other settings of
inference or evaluation is a trial too; its identity is that of the trained one and those settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drcnn.config import Config, DataConfig, DetectorConfig
from drcnn.files import sha256_of
from drcnn.identity import EVALUATION, NUMERICS, effective_settings, start_digest, weights_digest

if TYPE_CHECKING:
    from drcnn.data.prepare import PreparedData

__all__ = ["Inputs", "Trial", "evaluation_id", "training_id"]


@dataclass(frozen=True)
class Trial:
    """One configuration to train, or to evaluate.

    Attributes:
        id: the hash of all that decides the result.
        name: for tables.
        config: complete.
        varied: the settings that tell its study's trials apart.
        data: its prepared splits.
        folder: its own; that of an evaluation lies inside its model's.
        model: the trained trial whose last epoch this one evaluates with other settings of inference or
            evaluation; none if it trains its own.
    """

    id: str
    name: str
    config: Config
    varied: dict[str, Any]
    data: PreparedData
    folder: Path
    model: Trial | None = None

    @property
    def is_evaluation(self) -> bool:
        """Whether it evaluates what another trial has trained."""
        return self.model is not None

    @property
    def setting_key(self) -> str:
        """The same text for trials that differ in their seed only: replicates of one setting."""
        return self.config.model_copy(update={"seed": 0}).model_dump_json()


class Inputs:
    """What trials read from outside their configuration: each data set and weights file is read once.

    Args:
        prepare: makes the data ready.
    """

    def __init__(self, prepare: Callable[[DataConfig], PreparedData]) -> None:
        self._prepare = prepare
        self._data: dict[DataConfig, PreparedData] = {}
        self._sha256 = cache(sha256_of)

    def data(self, config: DataConfig) -> PreparedData:
        """The prepared splits.

        Raises:
            DataError: they cannot be used.
        """
        if config not in self._data:
            self._data[config] = self._prepare(config)
        return self._data[config]

    def start_digest(self, config: Config) -> str:
        """The content that training starts from (``drcnn.identity.start_digest``)."""
        return start_digest(config, self._sha256)

    def weights_digest(self, detector: DetectorConfig) -> str:
        """The content of a weights file (``drcnn.identity.weights_digest``)."""
        return weights_digest(detector, self._sha256)


def training_id(config: Config, inputs: Inputs) -> str:
    """The identity of a trial that trains: 16 hex digits."""
    content = {
        "data": inputs.data(config.data).fingerprint,
        "weights": inputs.start_digest(config),
        "numerics": NUMERICS,
    }
    return _digest(json.dumps([effective_settings(config), content], sort_keys=True))


def evaluation_id(model_id: str, config: Config) -> str:
    """The identity of an evaluation: the trained trial's, and the settings of inference and evaluation."""
    settings = effective_settings(config)
    return _digest(json.dumps([model_id, *(settings[key] for key in EVALUATION)]))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
