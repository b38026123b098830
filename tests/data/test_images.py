from __future__ import annotations

import errno
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from drcnn.data.annotations import DataError
from drcnn.data.images import decode, flip, inspect, resize, resized_sizes

# At a side of one pixel torch 2.11 fails an internal assertion of its own (uint8, antialiased).
SIDES = st.integers(2, 200)


@st.composite
def images_with_boxes(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    width, height = draw(SIDES), draw(SIDES)
    corners = draw(
        st.lists(
            st.tuples(*[st.floats(0, 1, width=32)] * 4).map(lambda box: (*box[:2], *box[2:])), max_size=4
        )
    )
    boxes = torch.tensor(corners).reshape(-1, 2, 2).sort(1).values.reshape(-1, 4)
    return torch.zeros(3, height, width, dtype=torch.uint8), boxes * torch.tensor([width, height] * 2)


@given(SIDES, SIDES, st.integers(8, 300), st.integers(0, 300))
def test_resizing_keeps_the_ratio_and_the_limits(width: int, height: int, short: int, more: int) -> None:
    new_width, new_height = resized_sizes(width, height, short_side=short, long_side=short + more)
    assert max(new_width, new_height) <= short + more
    assert min(new_width, new_height) <= short
    assert min(new_width, new_height) == short or max(new_width, new_height) == short + more
    assert abs(new_width * height - new_height * width) <= max(width, height)


def test_sizes_are_mmdetections() -> None:
    sizes = resized_sizes([500, 375, 640, 2000], [375, 500, 480, 100], short_side=600, long_side=1000)
    assert sizes.tolist() == [[800, 600], [600, 800], [800, 600], [1000, 50]]
    assert resized_sizes([500], [375], short_side=None, long_side=10).tolist() == [[500, 375]]


@given(st.lists(st.tuples(SIDES, SIDES, st.integers(8, 300)), min_size=1, max_size=8))
def test_every_image_may_have_its_own_short_side(images: list[tuple[int, int, int]]) -> None:
    widths, heights, sides = zip(*images, strict=True)
    together = resized_sizes(widths, heights, short_side=sides, long_side=300)
    for size, (width, height, side) in zip(together.tolist(), images, strict=True):
        assert size == resized_sizes(width, height, short_side=side, long_side=300).tolist()


@given(images_with_boxes(), SIDES, SIDES)
def test_boxes_stay_inside_and_keep_their_share(
    sample: tuple[torch.Tensor, torch.Tensor], width: int, height: int
) -> None:
    image, boxes = sample
    resized, moved = resize(image, boxes, (width, height))
    assert resized.shape == (3, height, width)
    assert resized.dtype == torch.uint8
    factor = torch.tensor([width / image.shape[2], height / image.shape[1]] * 2)
    torch.testing.assert_close(moved, boxes * factor, rtol=1e-5, atol=1e-3)
    assert (moved >= 0).all()
    assert (moved <= torch.tensor([width, height] * 2) + 1e-3).all()
    assert type(moved) is torch.Tensor


@given(images_with_boxes(), SIDES, SIDES)
def test_resizing_and_flipping_are_torchvisions(
    sample: tuple[torch.Tensor, torch.Tensor], width: int, height: int
) -> None:
    blank, boxes = sample
    image = torch.arange(blank.numel()).reshape(blank.shape).to(torch.uint8)
    theirs = tv_tensors.BoundingBoxes(
        boxes, format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=tuple(image.shape[1:])
    )
    resized, moved = resize(image, boxes, (width, height))
    assert torch.equal(resized, functional.resize(image, [height, width], antialias=True))
    assert torch.equal(moved, functional.resize(theirs, [height, width]).as_subclass(torch.Tensor))
    mirrored, turned = flip(image, boxes)
    assert torch.equal(mirrored, functional.horizontal_flip(image))
    assert torch.equal(turned, functional.horizontal_flip(theirs).as_subclass(torch.Tensor))


@given(images_with_boxes())
def test_two_flips_change_nothing(sample: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, boxes = sample
    image = torch.arange(image.numel()).reshape(image.shape).to(torch.uint8)
    once, mirrored = flip(image, boxes)
    assert (mirrored[:, 0] <= mirrored[:, 2]).all()
    assert torch.equal(once, image.flip(-1))
    twice, back = flip(once, mirrored)
    assert torch.equal(twice, image)
    torch.testing.assert_close(back, boxes, rtol=0, atol=1e-4)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.new("RGB", (5, 3), (255, 255, 255)).convert(mode).save(path)
    image = decode(str(path))
    assert (image.shape, image.dtype) == ((3, 3, 5), torch.uint8)
    assert (image > 250).all()
    assert torch.equal(decode(path.read_bytes()), image)
    assert inspect(str(path)).size == (5, 3)


def test_16_bits_become_8(tmp_path: Path) -> None:
    grey = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    image = decode(str(tmp_path / "a.png"))
    assert image.dtype == torch.uint8
    assert image.tolist() == [(grey // 256).tolist()] * 3
    assert inspect(str(tmp_path / "a.png")).size == (8, 8)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_range_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (5, 3)).save(tmp_path / "a.tif")
    for function in (decode, inspect):
        with pytest.raises(DataError, match=r"a\.tif: .*range is not known; .*--on-bad-data skip"):
            function(str(tmp_path / "a.tif"))


def test_a_failing_file_system_is_no_bad_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (5, 3)).save(path)
    for number, kind in (
        (errno.ESTALE, OSError),
        (errno.EIO, OSError),
        (errno.ENOENT, DataError),
        (errno.EACCES, DataError),
        (errno.EISDIR, DataError),
    ):
        fault = OSError(number, "said by the system")

        def fail(*_: object, fault: OSError = fault, **__: object) -> None:
            raise fault

        monkeypatch.setattr(Image, "open", fail)
        for function in (decode, inspect):
            with pytest.raises(kind):
                function(str(path))


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 255, (3, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert decode(str(path)).permute(1, 2, 0).tolist() == upright.tolist()
    assert inspect(str(path)).size == (upright.shape[1], upright.shape[0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_of_a_jpeg_is_applied(tmp_path: Path, orientation: int) -> None:
    """JPEG rounds colours: each corner has one of its own."""
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((32, 64, 3), dtype=np.uint8)
    pixels[:16, :32], pixels[:16, 32:], pixels[16:, :32] = (240, 0, 0), (0, 240, 0), (0, 0, 240)
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    decoded = decode(str(path)).permute(1, 2, 0).numpy().astype(int)
    assert decoded.shape == upright.shape == ((32, 64, 3) if orientation < 5 else (64, 32, 3))
    assert inspect(str(path)).size == (upright.shape[1], upright.shape[0])
    assert inspect(str(path)).orientation == orientation
    assert np.abs(decoded - upright).mean() < 2
    for row, column in ((4, 4), (4, -4), (-4, 4), (-4, -4)):
        assert np.abs(decoded[row, column] - upright[row, column]).max() < 10


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_an_exif_block_that_cannot_be_read_does_no_harm(tmp_path: Path) -> None:
    Image.new("RGB", (5, 3)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0 and nothing more")
    assert decode(str(tmp_path / "a.jpg")).shape == (3, 3, 5)
    assert inspect(str(tmp_path / "a.jpg")).orientation == 1


@pytest.mark.parametrize("most", [255, 1023, 4095, 16383, 65535])
def test_16_bits_are_scaled_by_those_in_use(tmp_path: Path, most: int) -> None:
    grey = np.linspace(0, most, 64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    image = decode(str(tmp_path / "a.png"))
    assert image.min() == 0
    assert image.max() == 255
    assert inspect(str(tmp_path / "a.png")).is_narrow == (most < 65535)


def test_pixels_that_are_read_in_another_way_are_other_content(tmp_path: Path) -> None:
    """An output of an earlier version, which did not turn the image, is not reused."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (5, 5)).save(tmp_path / "turned.png", exif=exif)
    Image.new("RGB", (5, 5)).save(tmp_path / "plain.png")
    digests = {
        name: hashlib.sha256((tmp_path / name).read_bytes()).digest() for name in ("turned.png", "plain.png")
    }
    assert inspect(str(tmp_path / "plain.png")).digest == digests["plain.png"]
    assert inspect(str(tmp_path / "turned.png")).digest != digests["turned.png"]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(content, "JPEG" if suffix == "jpg" else "PNG")
    path.write_bytes(content.getvalue()[: len(content.getvalue()) // 2])
    for function in (decode, inspect):
        with pytest.raises(
            DataError, match=rf"cut\.{suffix}: the image file is truncated.*--on-bad-data skip"
        ):
            function(str(path))


def test_bytes_after_the_end_do_no_harm(tmp_path: Path) -> None:
    Image.new("RGB", (5, 3)).save(tmp_path / "a.jpg")
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(bytes(5000))
    assert inspect(str(tmp_path / "a.jpg")).size == (5, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("../../store/im001.jpg", "a short text, as a link becomes that is copied as a file"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "a pointer of Git LFS"),
    ],
)
def test_a_pointer_in_the_place_of_an_image_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.jpg").write_text(text)
    said = f"not an image file but {said}"
    with pytest.raises(DataError, match=rf"a\.jpg: {said}.*; replace it or use --on-bad-data skip"):
        inspect(str(tmp_path / "a.jpg"))


def test_other_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    for function in (decode, inspect):
        with pytest.raises(DataError, match=r"gone\.jpg: no such image file"):
            function(str(tmp_path / "gone.jpg"))
        with pytest.raises(DataError, match=r"text\.jpg: not an image file"):
            function(str(tmp_path / "text.jpg"))
    with pytest.raises(DataError, match="train-00001: not an image file"):
        decode(b"no image", "train-00001")
