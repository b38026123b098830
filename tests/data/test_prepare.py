from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from drcnn.config import DataConfig
from drcnn.data.annotations import Annotations, DataError
from drcnn.data.check import check
from drcnn.data.prepare import PreparedData, prepare, prepare_judged

Configure = Callable[..., DataConfig]
Make = Callable[..., Path]


def test_digits_are_made_once(tmp_path: Path, config: Configure) -> None:
    data = config(train_images=3, val_images=2)
    first = prepare(data, tmp_path)
    times = [os.stat(path).st_mtime_ns for path in (first.train, first.val)]
    assert prepare(data, tmp_path) == first
    assert [os.stat(path).st_mtime_ns for path in (first.train, first.val)] == times
    assert pickle.loads(pickle.dumps(first)) == first
    assert [len(Annotations.load(path)) for path in (first.train, first.val)] == [3, 2]
    assert first.classes == tuple("0123456789")
    assert len(first.fingerprint) == 16
    more = prepare(config(train_images=4, val_images=2), tmp_path)
    assert more.train != first.train
    assert more.fingerprint != first.fingerprint


def test_a_damaged_table_is_made_again(tmp_path: Path, config: Configure) -> None:
    data = config(train_images=2, val_images=2)
    first = prepare(data, tmp_path)
    Path(first.train).write_bytes(b"half a tab")
    assert prepare(data, tmp_path) == first
    assert len(Annotations.load(first.train)) == 2


def test_two_may_prepare_at_once(tmp_path: Path, config: Configure) -> None:
    data = config(train_images=4, val_images=2, test_images=2)
    with ThreadPoolExecutor(4) as pool:
        results: list[PreparedData] = list(pool.map(lambda _: prepare(data, tmp_path), range(4)))
    assert len(set(results)) == 1
    assert len(list(tmp_path.glob("*.arrow"))) == len(list(tmp_path.glob("*.sha256"))) == 3


def test_folders_are_read_again_when_they_change(tmp_path: Path, make_voc: Make, config: Configure) -> None:
    folder = make_voc()
    data = config(source=f"voc:{folder}")
    first = prepare(data, tmp_path / "cache")
    assert prepare(data, tmp_path / "cache") == first
    xml = folder / "Annotations" / "000001.xml"
    xml.write_text(xml.read_text().replace("<ymin>21<", "<ymin>20<"))
    second = prepare(data, tmp_path / "cache")
    assert second.fingerprint != first.fingerprint
    image = folder / "JPEGImages" / "000001.jpg"
    image.write_bytes(image.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"000001\.jpg: the image file is truncated"):
        prepare(data, tmp_path / "cache")
    skipping = prepare(config(source=f"voc:{folder}", on_bad_data="skip"), tmp_path / "cache")
    # Both splits list the image.
    assert len(skipping.skipped) == 1
    assert Annotations.load(skipping.train).ids == ("000002",)


def test_a_copy_elsewhere_has_the_same_fingerprint(tmp_path: Path, make_voc: Make, config: Configure) -> None:
    here, there = (
        prepare(config(source=f"voc:{make_voc(name=name)}"), tmp_path / "c") for name in ("a", "b")
    )
    assert here.train != there.train
    assert here.fingerprint == there.fingerprint


def test_folders_may_be_relative_and_joined(
    tmp_path: Path, make_voc: Make, config: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_voc(name="one"), make_voc(name="two")
    monkeypatch.chdir(tmp_path)
    prepared = prepare(config(source="voc:one+two"), Path("cache"))
    assert Path(prepared.train).is_absolute()
    train = Annotations.load(prepared.train)
    assert len(train) == 4
    assert Path(str(train.source(0))).is_absolute()


def test_coco_is_prepared(tmp_path: Path, make_coco: Make, config: Configure) -> None:
    prepared = prepare(config(source=f"coco:{make_coco()}"), tmp_path / "cache")
    assert prepared.classes == ("bicycle", "toothbrush")
    assert len(Annotations.load(prepared.val)) == 2


def test_splits_with_other_classes_are_refused(tmp_path: Path, make_coco: Make, config: Configure) -> None:
    folder = make_coco()
    path = folder / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace("toothbrush", "brush"))
    with pytest.raises(DataError, match="'val' has objects of brush, which is not among"):
        prepare(config(source=f"coco:{folder}"), tmp_path / "cache")


def test_wrong_sources_are_explained(
    tmp_path: Path, make_voc: Make, make_coco: Make, config: Configure
) -> None:
    voc, coco, empty = make_voc(), make_coco(), tmp_path / "empty"
    empty.mkdir()
    file = tmp_path / "file"
    file.touch()
    cases = {
        "mnist": "--data mnist: no such folder; expected 'digits', a folder",
        "voc:": "--data voc:: names no folder; expected voc:DIR",
        f"voc:{tmp_path}/gone": "gone: no such folder; --data voc: takes a folder of VOC (JPEGImages/",
        f"coco:{file}": "file: is not a folder; --data coco: takes a folder of COCO (annotations/",
        f"voc:{empty}": "empty: the folder is empty",
        f"coco:{tmp_path}": "holds no data of a known format: there is VOC/, coco/, empty/, file; looked",
        f"voc:{coco}": f"it looks like COCO (with annotations/): use --data coco:{coco}",
        f"coco:{voc}": f"it looks like VOC (XML in Annotations/): use --data voc:{voc}",
        f"voc:{voc}+{coco}": f"it looks like COCO (with annotations/): use --data coco:{coco}",
        f"{voc}+{coco}": "the folders are of several formats",
        f"voc:{voc}+{voc}": "is given twice",
    }
    for source, message in cases.items():
        with pytest.raises(DataError) as caught:
            prepare(config(source=source), tmp_path / "cache")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert check(config(source=source)).faults == (str(caught.value),)


def test_the_judged_split_is_prepared_alone(tmp_path: Path, make_coco: Make, config: Configure) -> None:
    data = config(source=f"coco:{make_coco()}")
    both = prepare(data, tmp_path / "cache")
    (tmp_path / "coco" / "annotations" / "instances_train2017.json").unlink()
    assert prepare_judged(data, tmp_path / "cache") == both.val
    assert len(Annotations.load(prepare_judged(data, tmp_path / "other"))) == 2


def test_settings_are_judged_by_the_test_split_where_there_is_one(
    tmp_path: Path, make_voc: Make, config: Configure
) -> None:
    folder = make_voc()
    source = f"voc:{folder}"
    without = prepare(config(source=source), tmp_path)
    assert (without.judged, without.test, without.judged_table) == ("val", None, without.val)
    lists = folder / "ImageSets" / "Main"
    shutil.copy(lists / "val.txt", lists / "test.txt")
    found = prepare(config(source=source), tmp_path)
    assert (found.judged, found.judged_table) == ("test", found.test)
    assert list(found.tables) == ["train", "val", "test"]
    assert prepare_judged(config(source=source), tmp_path) == found.test
    assert prepare(config(source=source, test_split="test"), tmp_path) == found
    unjudged = prepare(config(source=source, test_split=None), tmp_path)
    assert (unjudged.judged, unjudged.fingerprint) == ("val", without.fingerprint)
    alone = prepare(config(source=source, val_split=None), tmp_path)
    assert (alone.judged, alone.val) == ("test", None)
    with pytest.raises(DataError, match=r"set data\.val_split or data\.test_split"):
        prepare(config(source=source, val_split=None, test_split=None), tmp_path)
    with pytest.raises(DataError, match=r"exam\.txt: no such list"):
        prepare(config(source=source, test_split="exam"), tmp_path)


@pytest.mark.parametrize("form", ["voc", "coco"])
def test_other_pixels_are_other_data(
    form: str, tmp_path: Path, make_voc: Make, make_coco: Make, config: Configure
) -> None:
    folder = {"voc": make_voc, "coco": make_coco}[form]()
    data = config(source=f"{form}:{folder}")
    first = prepare(data, tmp_path / "cache")
    image = next(path for path in sorted(folder.rglob("*.jpg")) if "val" not in str(path.parent))
    with Image.open(image) as picture:
        Image.new("RGB", picture.size).save(image)
    second = prepare(data, tmp_path / "cache")
    assert second.fingerprint != first.fingerprint
    tables = [Annotations.load(each.train) for each in (first, second)]
    assert (tables[0].all_boxes == tables[1].all_boxes).all()


def test_only_the_first_images_of_a_folder_are_used(
    tmp_path: Path, make_voc: Make, config: Configure
) -> None:
    source = f"voc:{make_voc()}"
    whole = prepare(config(source=source), tmp_path / "cache")
    part = prepare(config(source=source, train_images=1), tmp_path / "cache")
    everything, first = Annotations.load(whole.train), Annotations.load(part.train)
    assert len(everything) > 1
    assert first.ids == everything.ids[:1]
    assert (first.boxes(0) == everything.boxes(0)).all()
    assert len(first.all_boxes) == len(first.boxes(0))
    assert part.classes == whole.classes
    assert part.fingerprint != whole.fingerprint
    assert part.val == whole.val
