from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from drcnn.data.annotations import Annotations, DataError
from drcnn.data.faults import DataFaults
from drcnn.data.formats.voc import VOC_CLASSES, read_voc
from drcnn.data.loader import trainable_rows

MakeVoc = Callable[..., Path]
DOG = ("dog", (11, 21, 31, 41))


def read(*folders: Path, split: str = "train", skip: bool = False) -> Annotations:
    return read_voc(folders, split, DataFaults(skip=skip))


def warned(*folders: Path, split: str = "train") -> list[str]:
    """The warnings' messages, without folders."""
    faults = DataFaults(skip=False)
    read_voc(folders, split, faults)
    return [warning.message.rpartition("/")[2] for warning in faults.warnings]


def test_a_folder_is_read(make_voc: MakeVoc, xml: Callable[..., str]) -> None:
    images = {"000001": [DOG], "000002": [("cat", (1, 1, 60, 40)), ("dog", (5, 5, 20, 30))]}
    made = read(make_voc(images, xml={"000002": xml(images["000002"], difficult=[1])}))
    assert made.classes == VOC_CLASSES
    assert made.ids == ("000001", "000002")
    # The header's size, not the XML's.
    assert (made.widths.tolist(), made.heights.tolist()) == ([60, 60], [40, 40])
    # One less at all four corners.
    assert made.boxes(0).tolist() == [[10, 20, 30, 40]]
    assert made.boxes(1).tolist() == [[0, 0, 59, 39], [4, 4, 19, 29]]
    assert [made.classes[label] for label in made.labels(1)] == ["cat", "dog"]
    assert made.ignore(1).tolist() == [False, True]
    assert made.areas(0).tolist() == [400]
    assert made.skipped == ()


def test_an_image_whose_objects_are_all_difficult_is_trained_on(
    make_voc: MakeVoc, xml: Callable[..., str]
) -> None:
    """MMDetection's filter looks for objects, difficult or not."""
    made = read(make_voc({"a": [DOG], "b": [DOG]}, xml={"b": xml([DOG], difficult=[0])}))
    assert made.trainable_counts.tolist() == [1, 0]
    assert trainable_rows(made).tolist() == [0, 1]


def test_an_image_without_objects_is_kept(make_voc: MakeVoc) -> None:
    made = read(make_voc({"a": [DOG], "b": []}))
    assert [len(made.boxes(row)) for row in range(2)] == [1, 0]


def test_a_listed_image_without_annotation_is_named_and_no_image_without_objects(make_voc: MakeVoc) -> None:
    folder = make_voc({"a": [DOG], "b": [DOG], "c": [DOG]})
    for name in "bc":
        (folder / "Annotations" / f"{name}.xml").unlink()
    with pytest.raises(DataError, match=r"b\.xml: no such file, though the list names its image; restore it"):
        read(folder)
    made = read(folder, skip=True)
    assert made.ids == ("a",)
    assert [message.partition(": ")[0] for message in made.skipped] == [
        str(folder / "Annotations" / f"{name}.xml") for name in "bc"
    ]


def test_folders_of_one_name_are_told_apart(make_voc: MakeVoc, tmp_path: Path) -> None:
    folders = [make_voc(name=f"{project}/VOC2007") for project in ("a", "b")]
    assert read(*folders).ids == (
        "VOC2007/000001", "VOC2007/000002", "VOC2007-2/000001", "VOC2007-2/000002"
    )  # fmt: skip


def test_other_classes_are_the_sorted_names_of_all_splits(make_voc: MakeVoc) -> None:
    folder = make_voc({"a": [("WBC", (1, 1, 9, 9))], "b": [("RBC", (1, 1, 9, 9))]})
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    (folder / "ImageSets" / "Main" / "val.txt").write_text("b\n")
    assert read(folder).classes == read(folder, split="val").classes == ("RBC", "WBC")


def test_folders_are_joined(make_voc: MakeVoc) -> None:
    first, second = make_voc(name="VOC2007"), make_voc(name="VOC2012", lists=["train"])
    assert read(first, second).ids == ("VOC2007/000001", "VOC2007/000002", "VOC2012/000001", "VOC2012/000002")
    only_first = read(first, second, split="val")
    assert only_first.ids == ("VOC2007/000001", "VOC2007/000002")
    assert "val.txt: no such list" in warned(first, second, split="val")[0]


def test_zero_area_is_left_out_and_recorded(make_voc: MakeVoc) -> None:
    folder = make_voc({"a": [("dog", (5, 5, 5, 30)), DOG], "b": [("dog", (3, 40, 9, 40))]})
    made = read(folder)
    assert [len(made.boxes(row)) for row in range(2)] == [1, 0]
    assert warned(folder) == [
        "a.xml: object 1: box of zero area left out",
        "b.xml: object 1: box of zero area left out",
    ]


def test_a_pixel_too_far_is_clipped(make_voc: MakeVoc) -> None:
    made = read(make_voc({"a": [("dog", (0, 0, 62, 42))]}))
    assert made.boxes(0).tolist() == [[0, 0, 60, 40]]


BAD = {
    "inverted": (None, ("dog", (31, 5, 11, 9)), r"object 1: box \[30, 4, 10, 8\] is inverted"),
    "outside": (None, ("dog", (11, 5, 63, 9)), r"object 1: box .* is outside the image of 60x40"),
    "negative": (None, ("dog", (-5, 5, 6, 9)), r"object 1: box .* is outside the image of 60x40"),
    "no name": ("<annotation><object><bndbox/></object></annotation>", DOG, "object 1: has no <name>"),
    "no box": ("<annotation><object><name>dog</name></object></annotation>", DOG, "has no <bndbox><xmin>"),
    "text": (
        "<annotation><object><name>dog</name><bndbox><xmin>left</xmin></bndbox></object></annotation>",
        DOG,
        "object 1: <xmin> is 'left', expected a number",
    ),
    "not XML": ("<annotation>", DOG, "not readable as XML"),
    "other root": ("<svg/>", DOG, "the root is <svg>, expected <annotation>"),
    "entities": ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>", DOG, "DOCTYPE or ENTITY"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_annotations_stop_or_are_skipped(make_voc: MakeVoc, fault: str) -> None:
    text, item, message = BAD[fault]
    folder = make_voc({"bad": [item], "good": [DOG]}, xml={"bad": text} if text else {})
    with pytest.raises(DataError, match=rf"^\S*/VOC/Annotations/bad\.xml: .*{message}[^\n]*$"):
        read(folder)
    kept = read(folder, skip=True)
    assert kept.ids == ("good",)
    assert len(kept.skipped) == 1
    assert "bad.xml" in kept.skipped[0]


def test_bad_images_stop_or_are_skipped(make_voc: MakeVoc) -> None:
    folder = make_voc({"cut": [DOG], "good": [DOG], "lost": [DOG], "odd": [DOG]})
    images = folder / "JPEGImages"
    (images / "cut.jpg").write_bytes((images / "cut.jpg").read_bytes()[:-300])
    with pytest.raises(DataError, match=r"^\S*/cut\.jpg: the image file is truncated"):
        read(folder)
    (images / "lost.jpg").unlink()
    # Has its header and its end, but damage between: only decoding tells.
    with Image.open(images / "odd.jpg") as image:
        image.save(images / "odd.png")
    (images / "odd.jpg").unlink()
    whole = (images / "odd.png").read_bytes()
    (images / "odd.png").write_bytes(whole[:700] + b"damage" + whole[706:])
    kept = read(folder, skip=True)
    assert kept.ids == ("good",)
    assert [message.partition(":")[0].rpartition("/")[2] for message in kept.skipped] == [
        "cut.jpg",
        "lost.jpg",
        "odd.png",
    ]


def test_bad_lists_are_named(make_voc: MakeVoc) -> None:
    folder = make_voc()
    with pytest.raises(DataError, match=r"test\.txt: no such list \(there are: train, val\)"):
        read(folder, split="test")
    path = folder / "ImageSets" / "Main" / "train.txt"
    path.write_text("\n")
    with pytest.raises(DataError, match=r"train\.txt: the list is empty"):
        read(folder)
    path.write_text("000001\n000002\n000001\n")
    with pytest.raises(DataError, match=r"train\.txt: '000001' is listed twice"):
        read(folder)
    path.write_text("../../secret\n")
    with pytest.raises(DataError, match=r"'\.\./\.\./secret' is not an image name"):
        read(folder)
    path.write_text("a" * 5000)
    with pytest.raises(DataError, match=r"'aaa.*…? is not an image name") as raised:
        read(folder)
    assert len(str(raised.value)) < 1000
    path.write_text("absent\n")
    with pytest.raises(DataError, match=r"absent\.jpg: no such image file"):
        read(folder)
    with pytest.raises(DataError, match="split 'train' has no usable image"):
        read(folder, skip=True)
    (folder / "JPEGImages").rename(folder / "Images")
    with pytest.raises(DataError, match="no folder JPEGImages/"):
        read(folder)


def annotation(inner: str = "") -> str:
    return (
        f"<annotation>{inner}<object><name>dog</name><bndbox><xmin>11</xmin><ymin>21</ymin>"
        "<xmax>31</xmax><ymax>41</ymax></bndbox></object></annotation>"
    )


def test_images_without_objects_are_kept(make_voc: MakeVoc) -> None:
    made = read(make_voc({"a": [DOG], "b": []}))
    assert made.ids == ("a", "b")
    assert trainable_rows(made).tolist() == [0]


def test_a_stated_size_is_compared_with_the_files(make_voc: MakeVoc) -> None:
    def size(width: int, height: int) -> str:
        return annotation(f"<size><width>{width}</width><height>{height}</height></size>")

    folder = make_voc(
        {name: [DOG] for name in "abcd"},
        xml={"a": size(120, 80), "b": size(60, 40), "c": size(0, 0), "d": size(61, 39)},
    )
    with pytest.raises(DataError, match=r"a\.xml: states a size of 120x80, but \S*a\.jpg has 60x40;"):
        read(folder)
    # Zeros say nothing, and a pixel is rounding.
    assert read(folder, skip=True).ids == ("b", "c", "d")


def test_names_may_have_spaces(make_voc: MakeVoc) -> None:
    folder = make_voc({"photo one": [DOG], "photo": [DOG], "photo 1": [DOG]})
    assert read(folder).ids == ("photo one", "photo", "photo 1")


def test_a_list_may_have_suffixes_blanks_and_marks(make_voc: MakeVoc) -> None:
    folder = make_voc({name: [DOG] for name in ("a", "b c", "d", "e.f")})
    path = folder / "ImageSets" / "Main" / "train.txt"
    path.write_bytes(b"\xef\xbb\xbfa.JPG \r\n\r\nb c.jpg\t\r\ne.f")
    assert read(folder).ids == ("a", "b c", "e.f")
    path.write_text("a  1\nb c -1\nd  0\n")
    assert read(folder).ids == ("a", "d")
    assert warned(folder) == ["train.txt: leaves out what is marked -1, the images without the class: 1"]
    path.write_text("a -1\n")
    with pytest.raises(DataError, match=r"train\.txt: the list is empty"):
        read(folder)


@pytest.mark.parametrize("suffix", ["Jpg", "bmp", "tif", "webp", "PNG"])
def test_suffixes_of_images(make_voc: MakeVoc, suffix: str) -> None:
    folder = make_voc({"a": [DOG]})
    with Image.open(folder / "JPEGImages" / "a.jpg") as image:
        image.save(folder / "JPEGImages" / f"b.{suffix}")
    (folder / "JPEGImages" / "a.jpg").unlink()
    (folder / "JPEGImages" / f"b.{suffix}").rename(folder / "JPEGImages" / f"a.{suffix}")
    assert read(folder).ids == ("a",)


def test_the_annotation_decides_between_two_suffixes(make_voc: MakeVoc) -> None:
    folder = make_voc({"a": [DOG]}, xml={"a": annotation("<filename>a.png</filename>")})
    Image.new("RGB", (60, 40)).save(folder / "JPEGImages" / "a.png")
    assert str(read(folder).source(0)).endswith("a.png")
    (folder / "Annotations" / "a.xml").write_text(annotation())
    with pytest.raises(DataError, match=r"a\.xml: a\.jpg and a\.png both exist and its <filename> is ''"):
        read(folder)


def test_an_annotation_that_names_another_image_is_told(make_voc: MakeVoc) -> None:
    names = {"a": "b.jpg", "b": "b", "c": "renamed.jpg", "d": "d.png"}
    xml = {name: annotation(f"<filename>{named}</filename>") for name, named in names.items()}
    folder = make_voc({name: [DOG] for name in names}, xml=xml)
    assert warned(folder) == [
        "a.xml: its <filename> is 'b.jpg', another image of the folder; it is used for a.jpg",
        "c.xml: its <filename> is 'renamed.jpg', no image of the folder; it is used for c.jpg",
    ]
