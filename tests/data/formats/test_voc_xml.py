from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from drcnn.data.annotations import DataError
from drcnn.data.faults import DataFaults
from drcnn.data.formats.voc_xml import VocObjects, class_names, parse, read_objects


def write(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "a.xml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def item(box: tuple[object, ...], inner: str = "", name: str = "dog") -> str:
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{inner}<bndbox>{corners}</bndbox></object>"


def objects(path: Path, faults: DataFaults) -> VocObjects:
    return read_objects(parse(path), (60, 40), faults)


def test_decimals_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path, f"<annotation>{item((10.9, 20.9, 14.1, 24.1))}</annotation>")
    boxes = objects(path, DataFaults(skip=False)).boxes
    assert boxes[0] == pytest.approx((9.9, 19.9, 13.1, 23.1))
    # Of less than a pixel.
    path = write(tmp_path, f"<annotation>{item((30.2, 30.2, 30.9, 34.9))}</annotation>")
    assert len(objects(path, DataFaults(skip=False)).boxes) == 1


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_corner_must_be_finite(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, f"<annotation>{item((1, 1, value, 9))}</annotation>")
    assert "is not finite" in objects(path, DataFaults(skip=False)).faults[0]


def test_boxes_in_fractions_are_faults(tmp_path: Path) -> None:
    path = write(tmp_path, f"<annotation>{item((0.25, 0.1, 1, 0.5))}{item((1, 1, 1, 2))}</annotation>")
    found = objects(path, DataFaults(skip=False))
    assert len(found.faults) == 1
    assert "object 1: box [0.25, 0.1, 1, 0.5] seems to be in fractions" in found.faults[0]


@pytest.mark.parametrize(
    ("text", "value", "is_said"),
    [
        ("0", False, False),
        (" 1 ", True, False),
        ("True", True, False),
        ("false", False, False),
        ("", False, True),
        ("Unspecified", False, True),
        ("2", False, True),
    ],
)
def test_forms_of_difficult(tmp_path: Path, text: str, value: bool, is_said: bool) -> None:
    path = write(tmp_path, f"<annotation>{item((1, 1, 9, 9), f'<difficult>{text}</difficult>')}</annotation>")
    faults = DataFaults(skip=False)
    assert objects(path, faults).difficult == [value]
    assert [warning.kind for warning in faults.warnings] == [
        "flags 'difficult' without a value, read as 0"
    ] * is_said


@pytest.mark.parametrize(
    ("declared", "codec"),
    [
        ("gb2312", "gb18030"),
        ("GBK", "gbk"),
        ("ISO-8859-1", "latin-1"),
        ("windows-1251", "cp1251"),
        ("Shift_JIS", "shift_jis"),
        ("UTF-16", "utf-16"),
        # As .NET's StringWriter declares what is then saved as UTF-8.
        ("utf-16", "utf-8"),
        ("", "utf-8-sig"),
    ],
)
def test_the_declared_encoding_is_obeyed(tmp_path: Path, declared: str, codec: str) -> None:
    name = {"latin-1": "café", "cp1251": "собака", "shift_jis": "犬"}.get(codec, "狗")
    head = f'<?xml version="1.0" encoding="{declared}"?>\r\n' if declared else ""
    path = write(tmp_path, f"{head}<annotation>{item((1, 1, 9, 9), name=name)}</annotation>".encode(codec))
    assert class_names(parse(path)) == {name}


def test_an_encoding_that_does_not_fit_is_named(tmp_path: Path) -> None:
    content = f"<annotation>{item((1, 1, 9, 9), name='狗')}</annotation>".encode("gbk")
    with pytest.raises(DataError, match=r"a\.xml: cannot be read as utf-8 text .*save it as UTF-8"):
        parse(write(tmp_path, content))
    with pytest.raises(DataError, match=r"a\.xml: cannot be read as klingon text"):
        parse(write(tmp_path, b'<?xml version="1.0" encoding="klingon"?>' + content))


def test_a_document_type_is_refused_in_any_encoding(tmp_path: Path) -> None:
    text = "<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>"
    for content in (text.encode(), codecs.BOM_UTF16_LE + text.encode("utf-16-le")):
        with pytest.raises(DataError, match="DOCTYPE or ENTITY"):
            parse(write(tmp_path, content))


def test_what_a_file_states_of_its_image(tmp_path: Path) -> None:
    def stated(inner: str) -> tuple[str, tuple[int, int] | None]:
        file = parse(write(tmp_path, f"<annotation>{inner}</annotation>"))
        return file.filename, file.size

    assert stated("") == ("", None)
    assert stated("<filename>C:\\pictures\\a.jpg</filename>") == ("a.jpg", None)
    assert stated("<size><width>60</width><height>40.0</height></size>") == ("", (60, 40))
    assert stated("<size><width>60</width><height/></size>") == ("", None)
