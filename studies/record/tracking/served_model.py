"""The published model as MLflow loads and serves it: models from code, weights in safetensors, no pickle.

MLflow copies this file into the model and runs it wherever the model is loaded. A request names its images,
PNG or JPEG files in base64, in the column ``image``:

    {"dataframe_split": {"columns": ["image"], "data": [["iVBORw0..."]]}, "params": {"least_score": 0.5}}
"""

from __future__ import annotations

import base64
import binascii
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from drcnn.data.annotations import DataError
from drcnn.engine.predict import Predictor
from drcnn.engine.run_options import RunOptions

__all__ = ["Detector"]


class Detector(PythonModel):
    """From images to boxes, scores and names of classes."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the checkpoint; on a GPU if there is one."""
        options = RunOptions(device="cuda" if torch.cuda.is_available() else "cpu")
        changes: Mapping[str, Any] = context.model_config["changes"]
        self._predictor = Predictor(Path(context.artifacts["checkpoint"]), options, changes)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Detect on the images of the column ``image``: files in base64.

        Returns:
            For each image ``boxes`` (xyxy in its pixels), ``scores`` and ``labels``, best first.

        Raises:
            MlflowException: a text is no base64, or no image; the message says which.
        """
        least = (params or {}).get("least_score", 0.0)
        with tempfile.TemporaryDirectory() as folder:
            files = []
            for number, text in enumerate(model_input["image"]):
                files.append(Path(folder, f"image {number}"))
                try:
                    files[-1].write_bytes(base64.b64decode(text, validate=True))
                except (binascii.Error, ValueError) as error:
                    raise _refused(f"image {number} is not a file in base64: {error}") from None
            try:
                found = [each.above(least) for each in self._predictor.predict(files)]
            except DataError as error:
                raise _refused(str(error).replace(f"{folder}/", "")) from None
        return [
            {"boxes": each.boxes.tolist(), "scores": each.scores.tolist(), "labels": list(each.labels)}
            for each in found
        ]


def _refused(message: str) -> MlflowException:
    return MlflowException(message, INVALID_PARAMETER_VALUE)


set_model(Detector())
