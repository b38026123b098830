"""Inputs made to attack: bombs, code, paths out of a folder, markup and terminal codes in names."""

from __future__ import annotations

import io
import json
import re
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from drcnn.cli import main
from drcnn.config import Config, ConfigError
from drcnn.data.annotations import Annotations, DataError, Record
from drcnn.data.faults import DataFaults
from drcnn.data.files.unpack import unpack
from drcnn.data.formats.coco import read_coco
from drcnn.data.formats.voc_xml import parse
from drcnn.data.images import decode, inspect
from drcnn.detector.backbones import build_body
from drcnn.detector.weights import load_backbone
from drcnn.engine.average_precision import coco_metrics
from drcnn.engine.checkpoint import read_state
from drcnn.engine.diagnosis import diagnose
from drcnn.engine.errors import CheckpointError
from drcnn.engine.judged_detections import judge
from drcnn.plain_text import UNPRINTABLE
from drcnn.report.blocks import Table, escape
from drcnn.report.evaluation import write_evaluation
from studies.definition.errors import StudyError
from studies.definition.study_file import parse as parse_study
from tests.engine.diagnosis_helpers import found
from tests.pickles import Touch

CLEAR_SCREEN = "\x1b[2J"
MARKUP = "<script>alert(1)</script>$x^$[a](javascript:b)<img src=x onerror=b>|*c*"


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_bomb(side: int) -> bytes:
    """A PNG of side x side black pixels; a few kilobytes of it, which is all that a reader may look at."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * (3 * side + 1) * 100, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_bomb(60_000))
    for read in (inspect, decode):
        with pytest.raises(DataError, match=r"a\.png: cannot be decoded .*exceeds limit"):
            read(str(path))


def test_a_text_in_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    target = io.BytesIO()
    Image.new("RGB", (8, 8)).save(target, format="PNG")
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * (64 << 20), 9))
    path.write_bytes(target.getvalue()[:33] + text + target.getvalue()[33:])
    try:
        assert decode(str(path)).shape == (3, 8, 8)
    except DataError as error:
        assert "a.png" in str(error)  # noqa: PT017 - either will do


def test_a_picture_is_no_program(tmp_path: Path) -> None:
    """Pillow would give PostScript to Ghostscript, whatever the file's name says."""
    path = tmp_path / "a.jpg"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    for read in (inspect, decode):
        with pytest.raises(DataError, match="not an image file"):
            read(str(path))


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_that_would_fill_the_disk_is_refused(kind: str, tmp_path: Path) -> None:
    path, zeros = tmp_path / f"a.{kind}", bytes(4 << 20)
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a", zeros)
    else:
        with tarfile.open(path, "w:gz") as tar:
            member = tarfile.TarInfo("a")
            member.size = len(zeros)
            tar.addfile(member, io.BytesIO(zeros))
    with pytest.raises(DataError, match=rf"a\.{kind}: would unpack to .* refused"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_damaged_archive_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", np.random.default_rng(1).bytes(9000))
    content = bytearray(path.read_bytes())
    content[40:60] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.{kind}: cannot be unpacked"):
        unpack(path, tmp_path / "out")


LAUGHS = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-7"])
@pytest.mark.parametrize(
    "declaration",
    [f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]>', '<!DOCTYPE a [<!ENTITY l9 SYSTEM "file:///etc/passwd">]>'],
    ids=["laughs", "external"],
)
def test_entities_are_refused_in_any_encoding(declaration: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    text = f'<?xml version="1.0" encoding="{encoding}"?>'
    body = f"{declaration}<annotation><object><name>&l9;</name></object></annotation>"
    path.write_bytes(
        (text + body).encode(encoding) if encoding != "utf-7" else text.encode() + body.encode("utf-7")
    )
    with pytest.raises(DataError, match=r"a\.xml: has a DOCTYPE or ENTITY declaration, which is refused"):
        parse(path)


def coco(folder: Path, file_name: str = "a.jpg", class_name: str = "cup") -> Path:
    (folder / "annotations").mkdir(parents=True)
    (folder / "train").mkdir()
    pixels = np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "train" / "a.jpg")
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": file_name}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 20, 30], "area": 600, "iscrowd": 0}
        ],
        "categories": [{"id": 1, "name": class_name}],
    }
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/etc/passwd", "leads out of"),
        ("../../etc/passwd", "leads out of"),
        ("..\\..\\etc\\passwd", "leads out of"),
        ("a/../../b.jpg", "leads out of"),
        ("\0", "is no file's name"),
        ("\ud800.jpg", "is no file's name"),
        ("a" * 300, "is no file's name"),
        ("link.jpg", "link.jpg: not an image file"),
    ],
)
def test_a_file_name_reaches_no_other_file(name: str, message: str, tmp_path: Path) -> None:
    """A link may lead anywhere, as large data sets need; what is no picture is not read into anything."""
    folder = coco(tmp_path / "data", file_name=name)
    secret = tmp_path / "secret"
    secret.write_text("password")
    (folder / "train" / "link.jpg").symlink_to(secret)
    with pytest.raises(DataError, match=message) as caught:
        read_coco(folder, "train", DataFaults(skip=False))
    assert "password" not in str(caught.value)


@pytest.mark.parametrize(
    "name", [f"cup{CLEAR_SCREEN}", "cup\x9b2J", "cup\u202egnp", "c" * 1000, "a\nb", "\ud800"]
)
def test_names_of_classes_cannot_steer_a_terminal(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be shown; rename it") as caught:
        read_coco(coco(tmp_path / "data", class_name=name), "train", DataFaults(skip=False))
    assert not UNPRINTABLE.search(str(caught.value))


def test_names_of_files_cannot_steer_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = coco(tmp_path / "data", file_name=f"{CLEAR_SCREEN}.jpg")
    assert main(["data", "check", f"coco:{folder}"]) == 1
    assert main(["evaluate", f"no such{CLEAR_SCREEN}model"]) == 2
    printed = "".join(capsys.readouterr())
    assert "\\x1b[2J" in printed
    assert "\x1b" not in printed
    text = io.StringIO()
    Console(file=text, width=80).print(Table("t", ("a",), [(f"b{CLEAR_SCREEN}",)]).to_rich())
    assert "\x1b" not in text.getvalue()
    assert "\x1b" not in escape(CLEAR_SCREEN)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_weights_are_never_unpickled(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save({"conv1.weight": Touch(tmp_path / "executed")}, path)
    with pytest.raises(ConfigError, match="weights"):
        load_backbone(build_body("mobilenet_v2", width=0.25, norm="frozen"), "mobilenet_v2", str(path))
    with pytest.raises(CheckpointError, match="weights"):
        read_state(path)
    assert main(["predict", str(path), str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [{"conv1.weight": 3}, {3: torch.zeros(1)}, [1, 2], 5], ids=str)
def test_weights_that_are_no_tensors_are_named(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match=r"weights\.pt.* (holds more than|cannot be read as) tensors"):
        load_backbone(
            build_body("mobilenet_v2", width=0.25, norm="frozen"),
            "mobilenet_v2",
            str(tmp_path / "weights.pt"),
        )


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system [echo]", "!!python/name:os.system", "!x y"])
def test_tags_of_yaml_make_no_objects(tag: str) -> None:
    with pytest.raises(StudyError, match="could not determine a constructor"):
        parse_study(f"title: {tag}\n", "mine.yaml")
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        Config.from_yaml(f"seed: {tag}\n")


def test_names_of_classes_are_no_markup(tmp_path: Path) -> None:
    """The page, its Markdown, its charts and drawn images show a class's name letter by letter."""
    pixels = io.BytesIO()
    Image.new("RGB", (100, 100)).save(pixels, format="PNG")
    records = [
        Record(MARKUP, 100, 100, [[10, 10, 40, 40], [50, 50, 90, 90]], [0, 1], image=pixels.getvalue()),
        Record("b", 100, 100, [[10, 10, 40, 40]], [2], image=pixels.getvalue()),
    ]
    table = Annotations.from_records(records, (MARKUP, "$\\frac$", "_c"))
    detections = found((0, "cat", 0.9, (10, 10, 40, 40)), (0, "dog", 0.8, (0, 0, 5, 5)))
    detections = detections.set_column(0, "image_id", [[MARKUP, MARKUP]])
    judged = judge(table, detections, "coco")
    metrics = coco_metrics(table, detections)
    files = write_evaluation(tmp_path, MARKUP, table, judged, metrics, diagnose(table, judged))
    page = files[0].read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;$x^$[a](javascript:b)" in page
    body = page.partition("<main>")[2]
    assert not re.search(r"<(script|a |iframe|object|link)", body)
    assert not re.search(r"<img (?!class=)", body)
