"""One image file to pixels: what a view sees, every kind of file, and one line for a broken one."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from farkas_exp.data.files.decode import Box, CentreCrop, RandomCrop, _shrink, broken_images, decode, image_sizes
from farkas_exp.machine.errors import UserError

WHOLE = CentreCrop(1.0)


def smooth(width: int, height: int) -> np.ndarray:
    """A picture without sharp edges, so that two ways of scaling it differ little."""
    rows, columns = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(6 * (columns / width) + 5 * (rows / height) + phase) for phase in (0, 1, 2)]
    return np.stack(waves, axis=2).astype(np.uint8)


@pytest.fixture
def picture(tmp_path) -> Path:
    Image.fromarray(smooth(320, 240)).save(tmp_path / "picture.jpg", quality=95)
    return tmp_path / "picture.jpg"


@pytest.mark.parametrize("size", [(320, 240), (100, 500), (64, 64)])
@pytest.mark.parametrize("min_scale", [0.08, 0.5, 1.0])
def test_a_random_crop_lies_in_the_image_and_has_the_area_and_the_shape_asked_for(size, min_scale):
    width, height = size
    boxes = [RandomCrop(seed, min_scale, True).box(width, height, 32, 32) for seed in range(400)]
    drawn = 0
    for box in boxes:
        assert 0 <= box.left <= box.left + box.width <= width
        assert 0 <= box.top <= box.top + box.height <= height
        centred = (box.left, box.top) == ((width - box.width) // 2, (height - box.height) // 2)
        if not centred:
            drawn += 1
            assert min_scale * 0.9 <= box.width * box.height / (width * height) <= 1
        assert 0.70 < box.width / box.height < 1.42
    assert drawn > 200 or min_scale == 1.0 or size == (100, 500)
    assert 150 < sum(box.mirrored for box in boxes) < 250
    assert not any(RandomCrop(seed, min_scale, False).box(width, height, 32, 32).mirrored for seed in range(50))


def test_the_areas_of_random_crops_are_uniform():
    boxes = [RandomCrop(seed, 0.2, False).box(4000, 4000, 32, 32) for seed in range(2000)]
    areas = np.array([box.width * box.height / 4000**2 for box in boxes if box.width / box.height != 1])
    # Crops that do not fit are drawn again, which favours small ones: below 0.7 all shapes fit.
    below = areas[areas < 0.7]
    assert below.mean() == pytest.approx(0.45, abs=0.015)


def test_a_random_crop_is_a_function_of_its_seed(picture):
    views = [RandomCrop(seed, 0.08, True) for seed in (1, 1, 2)]
    first, again, other = (decode(picture, 48, 48, view) for view in views)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    box = views[0].box(320, 240, 48, 48)
    mirrored = RandomCrop(1, 0.08, not box.mirrored and True)
    assert mirrored.box(320, 240, 48, 48)[:4] == box[:4], "the flip draws nothing that the crop depends on"


@pytest.mark.parametrize("size", [(320, 240), (240, 320), (90, 90)])
def test_evaluation_equals_torchvisions_resize_and_centre_crop(tmp_path, size):
    Image.fromarray(smooth(*size)).save(tmp_path / "image.png")
    both = transforms.Compose([transforms.Resize(int(64 * 1.14)), transforms.CenterCrop(64)])
    theirs = np.asarray(both(Image.open(tmp_path / "image.png"))).astype(int)
    ours = decode(tmp_path / "image.png", 64, 64, CentreCrop()).astype(int)
    assert np.abs(ours - theirs).max() <= 4  # within a pixel's rounding of the box
    assert np.abs(ours - theirs).mean() < 1


def test_a_rectangle_is_cut_from_the_centre_without_distortion():
    assert CentreCrop().box(400, 200, 128, 64) == pytest.approx((200 - 128 * 200 / 72 / 2, *_rest(400, 200, 128, 64)))
    narrow = CentreCrop().box(100, 100, 128, 64)  # wider than the image: scaled up until it covers
    assert narrow == pytest.approx((0, 25, 100, 50, False))


def _rest(width, height, out_width, out_height):
    factor = int(1.14 * out_height) / height
    return (height - out_height / factor) / 2, out_width / factor, out_height / factor, False


def test_the_decoder_never_reads_less_than_the_view_needs():
    assert [_shrink(Box(0, 0, side, 2 * side), 32, 32) for side in (31, 63, 64, 127, 128, 255, 256, 5000)] == [
        1, 1, 2, 2, 4, 4, 8, 8,
    ]  # fmt: skip
    assert _shrink(Box(0, 0, 64, 256), 64, 32) == 2, "each side counts"


@pytest.mark.parametrize("view", [CentreCrop(), RandomCrop(3, 0.5, True), RandomCrop(8, 0.9, True)])
def test_a_jpeg_read_at_a_reduced_size_looks_the_same(tmp_path, view, monkeypatch):
    Image.fromarray(smooth(803, 601)).save(tmp_path / "large.jpg", quality=95)
    full = decode(tmp_path / "large.jpg", 64, 64, view, draft=False).astype(int)
    loaded = []
    monkeypatch.setattr("farkas_exp.data.files.decode.to_rgb", lambda image: loaded.append(image.size) or image.copy())
    reduced = decode(tmp_path / "large.jpg", 64, 64, view).astype(int)
    assert loaded[0][0] < 410, "the decoder itself returned a smaller picture"
    assert np.abs(full - reduced).mean() < 1.5
    assert np.abs(full - reduced).max() < 12


def test_every_kind_of_image_becomes_rgb(tmp_path):
    def near(name, colour):
        pixels = decode(tmp_path / name, 8, 8, WHOLE).astype(int)
        assert pixels.shape == (8, 8, 3)
        assert np.abs(pixels - colour).max() <= 3, name

    Image.new("L", (64, 64), 100).save(tmp_path / "grey.JPEG")
    Image.new("CMYK", (64, 64), (0, 255, 255, 0)).save(tmp_path / "cmyk.JPEG")
    Image.new("RGBA", (64, 64), (255, 0, 0, 255)).save(tmp_path / "rgba.png")
    palette = Image.new("P", (64, 64), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "palette.png", transparency=b"\x80\xff")
    Image.new("RGB", (64, 64), (255, 0, 0)).save(tmp_path / "really_a_png.JPEG", "PNG")
    Image.fromarray(np.full((64, 64), 100 * 256, dtype=np.uint16)).save(tmp_path / "grey16.png")
    near("grey.JPEG", (100, 100, 100)), near("grey16.png", (100, 100, 100))
    for name in ("cmyk.JPEG", "rgba.png", "palette.png", "really_a_png.JPEG"):
        near(name, (255, 0, 0))
    assert image_sizes([str(tmp_path / "cmyk.JPEG")]) == [(64, 64)]


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize("kind", ["GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_only_jpeg_and_png_are_opened_whatever_the_name(tmp_path, kind):
    Image.new("RGB", (9, 9)).save(tmp_path / "9.png", kind)
    with pytest.raises(UserError, match=r"9.png' \(its content is neither JPEG nor PNG\); repair or remove it$"):
        decode(tmp_path / "9.png", 8, 8, WHOLE)
    with pytest.raises(UserError, match="neither JPEG nor PNG"):
        image_sizes([str(tmp_path / "9.png")])


def test_postscript_starts_no_program(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("started a program"))
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("started Ghostscript"))
    (tmp_path / "9.png").write_bytes(POSTSCRIPT)
    with pytest.raises(UserError, match="neither JPEG nor PNG"):
        decode(tmp_path / "9.png", 8, 8, WHOLE)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_unpacked(tmp_path):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "9.png").write_bytes(png)
    (line,) = broken_images([str(tmp_path / "9.png")])
    assert "9.png' (Image size (3600000000 pixels) exceeds limit" in line


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "9.png")
    for path in (tmp_path / "9.png", tmp_path, Path("/dev/zero"), tmp_path / "gone.png"):
        with pytest.raises(UserError, match=r"^dataset.root: cannot read the image '.*' \(.+\); repair or remove it$"):
            decode(path, 8, 8, WHOLE)


def test_a_broken_file_is_named_in_one_line(picture):
    folder, content = picture.parent, picture.read_bytes()
    broken = {"cut.jpg": content[: len(content) // 2], "empty.jpg": b"", "text.png": b"no image"}
    for name, data in broken.items():
        (folder / name).write_bytes(data)
        with pytest.raises(
            UserError, match=rf"cannot read the image '{folder / name}' \(.+\); repair or remove it"
        ) as e:
            decode(folder / name, 8, 8, WHOLE)
        assert "\n" not in str(e.value)
    lines = broken_images([str(folder / name) for name in ("cut.jpg", "picture.jpg", "empty.jpg", "text.png")])
    assert [name in line for name, line in zip(broken, lines, strict=True)] == [True] * 3
    assert "truncated" in lines[0]
    assert "the file is empty" in lines[1]
