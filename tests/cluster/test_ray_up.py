"""Studies on a cluster that ``ray up`` made over SSH: hosts fail and appear, folders are shared or not."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hosts import SHARED
from mlflow import MlflowClient
from mlflow.entities import Run
from ray_cluster import CONFIG, HEAD, WORKERS, Cluster

from drcnn.engine.record import TrialRecord, read_record

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

EPOCHS = 3
BASE = f"""
title: Small
kind: grid
base:
  training.epochs: {EPOCHS}
  training.batch_size: 4
  data.train_images: 8
  data.val_images: 4
  detector.backbone_width: 0.25
  detector.fpn_channels: 16
  detector.fc_width: 32
  detector.rpn_pre_nms_train: 60
  detector.rpn_post_nms_train: 40
  detector.roi_samples: 16
"""
# Ray Train's own 2 s are waited at every report.
STUDY = "env RAY_TRAIN_HEALTH_CHECK_INTERVAL_S=0.2 python studies/run_study.py"

# Moto asks nobody for a signature. Arguments: URL and method.
ASK = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], method=sys.argv[2])
print(urllib.request.urlopen(request).read().decode())
"""


def records(output: Path) -> dict[str, TrialRecord]:
    """What the trials' folders say, by id."""
    return {folder.name: read_record(folder) for folder in output.glob("trials/*")}


def wait_until_one_goes_on(output: Path, job: subprocess.Popen[str]) -> None:
    """Wait until a trial is finished and the next one has an epoch behind it, and at least one before it."""
    limit = time.monotonic() + 600
    while True:
        known = list(records(output).values())
        is_one_done = any(found.is_done for found in known)
        if is_one_done and any(found.history and not found.is_done for found in known):
            return
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < limit, known
        time.sleep(0.02)


def tracked(output: Path, study: str) -> tuple[list[Run], dict[str, list[int]]]:
    """All runs of a study in MLflow, and the steps that each child run has figures for, by trial."""
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    runs = list(client.search_runs([client.get_experiment_by_name(study).experiment_id]))
    # In the order of steps: an epoch whose report died with its host is filled in later.
    steps = {
        run.data.tags["drcnn.trial_id"]: sorted(
            metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")
        )
        for run in runs
        if "mlflow.parentRunId" in run.data.tags
    }
    return runs, steps


def test_a_study_outlives_a_host_and_takes_in_a_new_one(cluster: Cluster) -> None:
    # One that ends before the host is lost, one that is under way, one that begins later.
    (cluster.shared / "three.yaml").write_text(f"{BASE}\ngrid: {{detector.nms_reg: [0.7, 0.8, 0.9]}}\n")
    output = cluster.shared / "runs"
    job = cluster.hosts["laptop"].start(
        cluster.command(
            f"ray job submit --working-dir . -- {STUDY} {SHARED}/three.yaml --workers-per-trial 2 "
            f"--address auto --output {SHARED}/runs"
        )
    )
    wait_until_one_goes_on(output, job)
    cluster.hosts["node1"].unplug()
    cluster.hosts["node1"].kill()
    before = records(output)
    cluster.hosts["node3"].plug()

    text, _ = job.communicate(timeout=1200)
    assert job.returncode == 0, text
    assert "3 trained, 0 reused, 0 failed" in text
    after = records(output)
    assert [found.status for found in after.values()] == ["finished"] * 3
    # Times of day are in the records: equal ones were not trained again.
    assert any(0 < len(found.history) < EPOCHS for found in before.values())
    assert all(after[trial].history[: len(found.history)] == found.history for trial, found in before.items())
    runs, steps = tracked(output, "three")
    assert sorted(steps) == sorted(after)
    assert list(steps.values()) == [list(range(1, EPOCHS + 1))] * 3
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    assert cluster.workers() == list(WORKERS)


def test_trials_are_kept_in_an_object_store_where_no_folder_is_shared(cluster: Cluster) -> None:
    pytest.importorskip("moto")
    store = cluster.hosts["store"]
    store.start(f"{sys.prefix}/bin/python -m moto.server --host 0.0.0.0 --port 80")
    ask = f"{sys.prefix}/bin/python -c {shlex.quote(ASK)} http://127.0.0.1"
    store.run("until (: < /dev/tcp/127.0.0.1/80) 2> /dev/null; do sleep 0.2; done")
    store.run(f"{ask}/bucket PUT")
    for name in (HEAD, *WORKERS):
        folder = cluster.hosts[name].files / "root/.aws"
        folder.mkdir()
        (folder / "credentials").write_text(
            "[default]\naws_access_key_id = me\naws_secret_access_key = mine\n"
        )
    head = cluster.hosts[HEAD].files / "root"
    (head / "two.yaml").write_text(f"{BASE}\ngrid: {{detector.nms_reg: [0.75, 0.8]}}\n")
    uri = "s3://bucket/studies?region=us-east-1&scheme=http&endpoint_override=store:80"
    command = (
        f"cd ~/drcnn && {STUDY} ~/two.yaml --workers-per-trial 2 --address auto --output ~/results "
        f"--storage {shlex.quote(uri)}"
    )
    text = cluster.run(f"ray exec {CONFIG} {shlex.quote(command)}", timeout=400)
    assert "2 trained, 0 reused, 0 failed" in text
    found = records(head / "results")
    assert [each.status for each in found.values()] == ["finished"] * 2
    runs, steps = tracked(head / "results", "two")
    assert list(steps.values()) == [list(range(1, EPOCHS + 1))] * 2
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    listed = store.run(f"{ask}'/bucket?list-type=2&prefix=studies/trials/' GET")
    for trial in found:
        assert f"studies/trials/{trial}/result.json" in listed
        assert f"studies/trials/{trial}/last.safetensors" in listed


def test_nothing_is_left_after_ray_down(cluster: Cluster) -> None:
    cluster.run(f"ray down --yes {CONFIG}")
    alive = [cluster.hosts[name] for name in (HEAD, *WORKERS) if cluster.hosts[name].is_alive()]
    for host in alive[1:]:
        # With machines listed by hand `ray down` stops the head alone.
        cluster.run(f"ssh -o StrictHostKeyChecking=no root@{host.ip} drcnn-env/bin/ray stop")
    for host in alive:
        running = host.run("ps -e -o args=").splitlines()
        # Connections by which Ray reached the host may linger.
        assert not [line for line in running if "ray" in line and not line.startswith("ssh")], host.name
