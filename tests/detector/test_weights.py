"""Torchvision's weights: nothing in its cache is executed, and a failed download is an OSError."""

from __future__ import annotations

import io
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from drcnn.config import ConfigError
from drcnn.detector.backbones import Body, build_body
from drcnn.detector.weights import imagenet, load_backbone
from tests.pickles import Touch


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch keeps the download for a ResNet-18; nothing is there yet."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints" / Path(imagenet("resnet18").url).name


def resnet18() -> Body:
    return build_body("resnet18", width=1.0, norm="frozen")


def test_what_is_kept_is_loaded(kept: Path) -> None:
    source, body = resnet18(), resnet18()
    torch.save(source.state_dict(), kept)
    load_backbone(body, "resnet18", "imagenet")
    assert torch.equal(body.state_dict()["conv1.weight"], source.state_dict()["conv1.weight"])


def test_nothing_in_the_cache_is_executed(kept: Path, tmp_path: Path) -> None:
    torch.save({"conv1.weight": Touch(tmp_path / "executed")}, kept)
    with pytest.raises(ConfigError, match=rf"{kept.name} cannot be read as tensors") as error:
        load_backbone(resnet18(), "resnet18", "imagenet")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("length", [0, 1000])
def test_a_file_of_the_cache_that_was_cut_off_is_named(kept: Path, length: int) -> None:
    torch.save(resnet18().state_dict(), kept)
    kept.write_bytes(kept.read_bytes()[:length])
    with pytest.raises(ConfigError, match=rf"{kept.name} cannot be read .*delete it") as error:
        load_backbone(resnet18(), "resnet18", "imagenet")
    assert "\n" not in str(error.value)


class Response(io.BytesIO):
    def info(self) -> Message:
        return Message()


def unreachable(*_: object) -> Response:
    raise URLError("no route to host")


@pytest.mark.parametrize("urlopen", [unreachable, lambda _: Response(b"half of it")], ids=["no net", "cut"])
def test_a_failed_download_may_go_well_the_next_time(
    urlopen: Callable[..., Response], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    with pytest.raises(OSError, match=r"^detector\.weights = 'imagenet': the download .*failed") as error:
        load_backbone(resnet18(), "resnet18", "imagenet")
    assert "\n" not in str(error.value)
    assert not kept.exists()
