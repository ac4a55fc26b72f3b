"""Folders of images: every kind of file, the cache, and one line for each mistake."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from farkas_exp.config import AugmentationConfig, DatasetConfig
from farkas_exp.data import build_data, image_folder
from farkas_exp.errors import UserError

OFF = AugmentationConfig(crop_padding=0, flip=False, cutout=0)
COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


@pytest.fixture
def root(tmp_path) -> Path:
    """Two classes of one colour each: 3 training and 2 test images of 6 x 6 pixels a class."""
    for split, count in (("train", 3), ("test", 2)):
        for name, colour in COLOURS.items():
            folder = tmp_path / "shapes" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (6, 6), colour).save(folder / f"{index}.png")
    return tmp_path / "shapes"


def load(root: Path, **options):
    return image_folder.load(DatasetConfig("image_folder", root=str(root), **options), torch.device("cpu"))


def build(root: Path, **options):
    config = DatasetConfig("image_folder", root=str(root), **options)
    return build_data(config, OFF, batch_size=2, seed=0, device="cpu")


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_images_and_labels(root, test_name):
    (root / "test").rename(root / test_name)
    data = build(root)
    info = data.info
    assert (info.name, info.class_names, info.image_shape) == ("shapes", ("blue", "red"), (3, 6, 6))
    assert (info.train_size, info.test_size) == (6, 4)
    for images, labels in [*data.train_batches(0), *data.test_batches()]:
        expected = torch.tensor([COLOURS[info.class_names[label]] for label in labels.tolist()]) / 255
        assert torch.equal(images, expected[:, :, None, None].expand_as(images))
    assert build(root, label="forms").info.name == "forms"


def test_every_kind_of_image_becomes_rgb(root):
    folder = root / "train" / "red"
    grey = Image.new("L", (6, 6), 100)
    grey.save(folder / "grey.JPG")
    Image.new("CMYK", (6, 6), (0, 255, 255, 0)).save(folder / "cmyk.jpeg")
    Image.new("RGBA", (6, 6), (255, 0, 0, 255)).save(folder / "rgba.png")
    palette = Image.new("P", (6, 6), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(folder / "palette.png", transparency=b"\x80\xff")
    Image.fromarray(np.full((6, 6), 100 * 256, dtype=np.uint16)).save(folder / "grey16.png")
    expected = {"grey.JPG": (100,) * 3, "grey16.png": (100,) * 3}
    for name in ("grey.JPG", "cmyk.jpeg", "rgba.png", "palette.png", "grey16.png"):
        pixels = image_folder.decode(folder / name, 6, 6)
        assert pixels.shape == (6, 6, 3)
        assert np.abs(pixels.astype(int) - expected.get(name, (255, 0, 0))).max() <= 2, name
    assert len(load(root).train_labels) == 11


def test_other_sizes_are_scaled_to_cover_and_cropped_at_the_centre(root):
    wide = np.zeros((12, 36, 3), dtype=np.uint8)
    wide[:, 12:24] = 200  # the middle third: what the crop keeps
    Image.fromarray(wide).save(root / "train" / "red" / "wide.png")
    kept = image_folder.decode(root / "train" / "red" / "wide.png", 6, 6)
    assert (kept[:, 1:5] == 200).all()
    assert load(root, image_size=10).train_images.shape == (7, 10, 10, 3)
    assert load(root).train_images.shape == (7, 6, 6, 3)  # the size of the first image


def test_hidden_files_and_other_types_are_ignored(root):
    (root / "train" / "red" / "notes.txt").write_text("not an image")
    (root / "train" / "red" / ".hidden.png").write_bytes(b"")
    (root / "train" / ".git").mkdir()
    assert len(load(root).train_labels) == 6


def cache_of(root: Path) -> Path:
    (path,) = (root / image_folder.CACHE_FOLDER).iterdir()
    return path


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the images that were decoded, in no order."""
    names: list[str] = []
    decode = image_folder.decode

    def counting(path, height, width):
        names.append(path.name)
        return decode(path, height, width)

    monkeypatch.setattr(image_folder, "decode", counting)
    return names


def test_the_cache_is_used_until_something_changes(root, decoded):
    first = load(root)
    assert len(decoded) == 10
    decoded.clear()
    second = load(root)
    assert decoded == []
    assert torch.equal(first.train_images, second.train_images)
    assert torch.equal(first.test_labels, second.test_labels)

    path = root / "test" / "red" / "1.png"
    Image.new("RGB", (6, 6), (9, 9, 9)).save(path)
    os.utime(path, ns=(1, 1))
    assert load(root).test_images[3].unique().tolist() == [9]
    assert len(decoded) == 10
    decoded.clear()
    os.utime(path, ns=(2, 2))  # the same bytes, but perhaps not: the time of change is all that is compared
    load(root)
    assert len(decoded) == 10
    decoded.clear()
    path.rename(path.with_name("2.png"))  # another name for the same bytes
    load(root)
    assert len(decoded) == 10
    decoded.clear()
    load(root, image_size=6)
    assert len(decoded) == 10
    assert not [path for path in (root / image_folder.CACHE_FOLDER).iterdir() if path.suffix != ".pt"]


def test_cache_false_and_a_folder_that_cannot_be_written(root, decoded):
    load(root, cache=False)
    assert not (root / image_folder.CACHE_FOLDER).exists()
    (root / image_folder.CACHE_FOLDER).write_text("a file where the folder would be")
    load(root)
    assert len(decoded) == 20


@pytest.mark.parametrize("content", [b"", b"torn", None])
def test_a_torn_or_foreign_cache_is_made_again(root, decoded, content):
    load(root)
    path = cache_of(root)
    if content is None:
        torch.save({"other": 1}, path)
    else:
        path.write_bytes(content)
    decoded.clear()
    load(root)
    load(root)
    assert len(decoded) == 10


def test_a_failed_write_leaves_the_old_cache_and_no_temporary_file(root, monkeypatch):
    load(root)
    before = cache_of(root).read_bytes()
    Image.new("RGB", (6, 6)).save(root / "train" / "red" / "new.png")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_folder.torch, "save", full)
    assert len(load(root).train_labels) == 7
    assert cache_of(root).read_bytes() == before


def test_many_images_show_their_progress(root, monkeypatch, capsys):
    monkeypatch.setattr(image_folder, "PROGRESS_FROM", 5)
    load(root)
    assert "image_folder: decoded 10 of 10 images" in capsys.readouterr().err
    load(root)
    assert capsys.readouterr().err == ""


def empty_class(root: Path) -> None:
    (root / "train" / "green").mkdir()


def only_text(root: Path) -> None:
    empty_class(root)
    (root / "train" / "green" / "readme.txt").write_text("later")


def truncated(root: Path) -> None:
    path = root / "train" / "red" / "1.png"
    noise = np.random.RandomState(0).randint(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1000])


def zero_bytes(name: str):
    return lambda root: (root / name).write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, r"is not a folder; it must hold train/<class>/\* and test/<class>/\*$"),
        (lambda root: shutil.rmtree(root / "train"), r"has no folder 'train'; it must hold"),
        (lambda root: shutil.rmtree(root / "test"), r"has no folder 'test' \(or 'val'\); it must hold"),
        (empty_class, r"class folder '.*green' has no JPEG or PNG image$"),
        (only_text, r"green' has no JPEG or PNG image \(1 other entries were ignored, such as 'readme.txt'\)$"),
        (lambda root: (root / "test" / "green").mkdir(), r"class 'green' is in '.*test', but not in '.*train'$"),
        (lambda root: shutil.rmtree(root / "train" / "red"), r"train' has 1 class folder\(s\); it needs at least 2$"),
        (lambda root: [shutil.rmtree(root / "test" / name) for name in COLOURS], r"test' has no class folders$"),
        (truncated, r"cannot read the image '.*train/red/1.png' \(.*\); repair or remove it$"),
        (zero_bytes("test/blue/0.png"), r"cannot read the image '.*test/blue/0.png' \(the file is empty\); repair"),
        (zero_bytes("train/blue/0.png"), r"cannot read the image '.*train/blue/0.png' \(the file is empty\); repair"),
    ],
)
def test_each_mistake_is_one_line_that_names_the_place(root, damage, message):
    damage(root)
    with pytest.raises(UserError, match="^dataset.root: .*" + message) as error:
        load(root)
    assert "\n" not in str(error.value)


def test_root_must_be_given():
    with pytest.raises(UserError, match=r"^dataset.root: missing; set it to the folder that holds"):
        image_folder.load(DatasetConfig("image_folder"), torch.device("cpu"))


def test_images_that_do_not_fit_into_memory_are_refused_before_decoding(root):
    with pytest.raises(UserError, match=r"^dataset.image_size: 10 images of 100000x100000 pixels take .* smaller"):
        load(root, image_size=100_000)


def test_the_batch_size_message_names_the_folder(root):
    with pytest.raises(UserError, match=r"^batch_size: 7 is larger than the training set of shapes \(6 images\)"):
        build_data(DatasetConfig("image_folder", root=str(root)), OFF, batch_size=7, seed=0, device="cpu")
