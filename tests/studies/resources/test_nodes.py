"""What a node's probe finds, and the faults that the driver reports of all nodes."""

from __future__ import annotations

import errno
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from drcnn.data.annotations import Annotations, Record
from drcnn.data.prepare import PreparedData
from studies import run_study
from studies.definition.errors import StudyError
from studies.record.provenance import installed_versions
from studies.resources import node_probe, nodes
from studies.resources.network import interface_of
from studies.resources.node_probe import NodeReport, NodeRequirements, probe_node
from studies.resources.nodes import UNFIT, Examination, check_nodes, node_faults
from studies.transfer.datasets import localise
from studies.transfer.store import ObjectStore
from studies.transfer.trial_store import TrialStore


@pytest.fixture
def requirements(tmp_path: Path) -> NodeRequirements:
    """What a study of one image needs; all of it is there."""
    image, table = tmp_path / "image.jpg", tmp_path / "table.arrow"
    image.touch()
    Annotations.from_records([_record(image)], ["thing"]).save(table)
    (tmp_path / ".shared").touch()
    data = PreparedData(str(table), str(table), None, ("thing",), "f" * 16, ())
    return NodeRequirements(tmp_path, ".shared", TrialStore(), (), data, ())


def _record(image: Path) -> Record:
    return Record(
        id="one",
        path=str(image),
        width=4,
        height=4,
        boxes=np.array([[0, 0, 2, 2]], np.float32),
        labels=np.array([0], np.int32),
    )


def test_a_node_that_meets_all_requirements_is_ready(requirements: NodeRequirements) -> None:
    report = probe_node(requirements, "10.0.0.1", gpus=0)
    assert report.faults == []
    assert set(report.versions) == {"python", "ray", "torch", "torchvision"}
    assert report.free > 0
    assert node_faults([report, report]) == []


def test_each_fault_is_named(requirements: NodeRequirements, tmp_path: Path) -> None:
    """The file that no other node shares, the data, the weights, the GPUs, the store."""
    (tmp_path / ".shared").unlink()
    (tmp_path / "image.jpg").unlink()
    # A folder cannot be made where a file is.
    (tmp_path / "file").touch()
    store = ObjectStore(f"file://{tmp_path}/file/store", tmp_path)
    report = probe_node(
        replace(requirements, weights=(tmp_path / "absent",), store=store), "10.0.0.1", gpus=99
    )
    shared, stored, data, weights = report.faults[1:]
    assert report.faults[0].startswith("Ray counts 99 GPUs, torch sees ")
    assert f"does not share {tmp_path} with the driver's node" in shared
    assert "file/store" in stored
    assert f"cannot read {tmp_path / 'image.jpg'}" in data
    assert f"cannot read {tmp_path / 'absent'} (detector.weights)" in weights
    assert node_faults([report]) == [f"node {report.host}: {fault}" for fault in report.faults]


def test_an_output_without_locks_is_a_fault(
    requirements: NodeRequirements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS before version 4; files can be written there."""

    def fail(file: object, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", fail)
    (fault,) = probe_node(requirements, "10.0.0.1", gpus=0).faults
    assert fault.startswith(f"cannot lock files in {tmp_path} (Function not implemented); give --output")
    assert not list(tmp_path.glob(".node-*"))


def test_nodes_that_differ_or_are_full_are_named() -> None:
    versions = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.15.0"}
    good = NodeReport("a", versions, free=100)
    other = NodeReport("b", versions | {"torch": "2.11.0"}, free=100)
    full = NodeReport("c", versions, free=0.5)
    assert node_faults([good, other, full]) == [
        "node b: torch 2.11.0, but a has 2.15.0",
        "node c: 0.5 GiB free for --output, at least 2 are needed",
    ]


def test_the_interface_of_an_address_is_found() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.9") is None


def test_what_cannot_be_joined_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["nms_sweep", "--smoke", "--address", "ray://head:10001"]
    assert run_study.main(command) == 2
    assert "on a cluster give an absolute path" in capsys.readouterr().err
    assert run_study.main([*command, "--output", str(tmp_path / "runs")]) == 2
    assert "ray job submit" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_whole_cluster_is_checked_before_anything_starts(
    requirements: NodeRequirements, tmp_path: Path
) -> None:
    import ray

    from studies.definition.request import Machines
    from studies.resources.connection import connect

    console = Console(width=200, record=True)
    with connect(Machines()):
        check_nodes(requirements, console)
        assert "The cluster: 1 nodes" in (text := console.export_text())
        assert "ready" in text
        (tmp_path / "image.jpg").unlink()
        with pytest.raises(
            StudyError, match=r"the cluster cannot run this: node .* cannot read .*image\.jpg"
        ):
            check_nodes(requirements, console)
        assert ray.is_initialized()
    assert not list(tmp_path.glob(".shared-*"))


@pytest.fixture
def later_node(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """This process is on a node that joined after the start; the list tells of every probe."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
    probes: list[str] = []
    probe = nodes.probe_node

    def counted(requirements: NodeRequirements, address: str, gpus: float) -> NodeReport:
        probes.append(address)
        return probe(requirements, address, gpus)

    monkeypatch.setattr(nodes, "probe_node", counted)
    context = SimpleNamespace(get_node_id=lambda: "later", get_job_id=lambda: "01000000")
    entry = {"NodeID": "later", "NodeManagerAddress": "10.0.0.9", "Resources": {"CPU": 4.0}}
    ray = SimpleNamespace(get_runtime_context=lambda: context, nodes=lambda: [entry])
    monkeypatch.setattr(nodes, "ray", ray)
    return probes


def test_a_later_node_is_examined_once_and_nothing_of_it_stays_in_the_output(
    requirements: NodeRequirements, later_node: list[str], tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    examination = Examination(requirements, frozenset({"first"}), installed_versions())
    examination.require_fit()
    examination.require_fit()
    assert later_node == ["10.0.0.9"]
    assert sorted(tmp_path.iterdir()) == before


def test_a_node_that_was_checked_at_the_start_is_not_examined(
    requirements: NodeRequirements, later_node: list[str]
) -> None:
    Examination(requirements, frozenset({"later"}), {}).require_fit()
    assert not later_node


class Silent(TrialStore):
    """A store that does not answer at first."""

    def __init__(self) -> None:
        self.silent = 2

    def check_access(self) -> None:
        if self.silent:
            self.silent -= 1
            raise OSError("When listing bucket: AWS Error NETWORK_CONNECTION: curlCode: 7")


def test_a_store_that_does_not_answer_is_no_verdict_on_a_later_node(
    requirements: NodeRequirements, later_node: list[str]
) -> None:
    examination = Examination(replace(requirements, store=Silent()), frozenset(), installed_versions())
    for _ in range(2):
        with pytest.raises(OSError, match=r"cannot be examined now: When listing") as error:
            examination.require_fit()
        assert UNFIT not in str(error.value)
    examination.require_fit()
    examination.require_fit()
    assert len(later_node) == 3, "once it is known to be fit it is not examined again"


def test_torch_that_is_slow_to_answer_is_no_verdict_on_a_later_node(
    requirements: NodeRequirements, later_node: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as slow:
        slow.setattr(node_probe, "SECONDS", 0.001)
        report = probe_node(requirements, "10.0.0.1", gpus=0)
        examination = Examination(requirements, frozenset(), installed_versions())
        with pytest.raises(OSError, match=r"cannot be examined now: torch did not answer within"):
            examination.require_fit()
    (fault,) = node_faults([report])
    assert "torch did not answer within" in fault, "before the study starts somebody is there to look"
    examination.require_fit()


def test_a_disk_without_room_for_the_data_is_a_verdict(
    requirements: NodeRequirements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stored").mkdir()
    (tmp_path / "stored/image.jpg").write_bytes(b"12345")
    source = f"coco:file://{tmp_path}/stored"
    datasets = localise(source, tmp_path / "cache")[1]
    monkeypatch.setattr("studies.transfer.datasets.shutil.disk_usage", lambda path: SimpleNamespace(free=1))
    report = probe_node(replace(requirements, datasets=datasets), "10.0.0.1", gpus=0)
    assert not report.passing
    assert "are still to be downloaded" in report.faults[-1]


def test_a_later_node_that_is_unfit_says_so_to_every_trial(
    requirements: NodeRequirements, later_node: list[str], tmp_path: Path
) -> None:
    (tmp_path / "image.jpg").unlink()
    examination = Examination(requirements, frozenset(), installed_versions() | {"torch": "1.0"})
    for _ in range(2):
        with pytest.raises(OSError, match=r"unfit for the study: .*image\.jpg.*; .* torch .* has 1\.0"):
            examination.require_fit()
    assert later_node == ["10.0.0.9"]
