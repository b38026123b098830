"""A study's experiment in MLflow, and those of its runs that are one output folder's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

__all__ = ["OUTPUT", "OUTPUT_ID", "OwnRuns", "opened_experiment"]

# Tags of runs: the absolute output folder; and on a store that others may use too, its identity.
OUTPUT, OUTPUT_ID = "drcnn.output", "drcnn.output_id"


@dataclass(frozen=True)
class OwnRuns:
    """The runs of an experiment that are one output folder's; a shared server may hold other people's too.

    Attributes:
        client: of the tracking store.
        experiment_id: of the study.
        tags: of every run of this folder; by the last it is known.
    """

    client: MlflowClient
    experiment_id: str
    tags: Mapping[str, str]

    def search(self, condition: str) -> list[Run]:
        """Those that a condition of MLflow's search holds for, newest first."""
        runs: list[Run] = []
        tag, value = list(self.tags.items())[-1]
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], condition, order_by=["attributes.start_time DESC"], page_token=token
            )
            runs.extend(run for run in page if run.data.tags.get(tag) == value)
            token = page.token
            if not token:
                return runs


def opened_experiment(client: MlflowClient, name: str, location: str | None) -> Experiment:
    """Return the experiment of this name: made, or restored if somebody deleted it.

    Args:
        client: of the store.
        name: the study's.
        location: of a new experiment's artifacts; none leaves it to the tracking server.
    """
    experiment: Experiment | None = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            client.create_experiment(name, artifact_location=location)
        except MlflowException:
            # Another launch may have made it at this moment; if not, the store's error is the right one.
            if client.get_experiment_by_name(name) is None:
                raise
        experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment
