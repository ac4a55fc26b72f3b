"""Folders of images: every kind of file, the cache, and one line for each mistake."""

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from farkas_exp.config.schema import AugmentationConfig, DatasetConfig
from farkas_exp.data.base import Batching
from farkas_exp.data.build import build_data
from farkas_exp.data.files import image_folder
from farkas_exp.data.files.decode import decode
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.processes import Processes

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
    return build_data(config, OFF, Batching(2, 0))


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


def test_other_sizes_are_scaled_to_cover_and_cropped_at_the_centre(root):
    wide = np.zeros((12, 36, 3), dtype=np.uint8)
    wide[:, 12:24] = 200  # the middle third: what the crop keeps
    Image.fromarray(wide).save(root / "train" / "red" / "wide.png")
    kept = decode(root / "train" / "red" / "wide.png", 6, 6, image_folder.WHOLE)
    assert (kept[:, 1:5] == 200).all()
    assert load(root, image_size=10).train_images.shape == (7, 10, 10, 3)
    assert load(root).train_images.shape == (7, 6, 6, 3)  # the size of the first image


def test_what_is_left_out_is_said_once_in_one_line(root, capsys):
    (root / "train" / "red" / "notes.gif").write_text("not an image that is read")
    build(root)
    line = f"warning: dataset.root: '{root}': left out 1 with the suffix .gif (such as 'train/red/notes.gif')\n"
    assert capsys.readouterr().err == line
    config = DatasetConfig("image_folder", root=str(root))
    build_data(config, OFF, Batching(2, 0, processes=Processes(1, 2)))
    assert capsys.readouterr().err == ""


def test_file_and_class_names_of_any_bytes(root):
    folder = root / "train" / "red"
    (folder / "0.png").rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9\n.png"))
    for split in ("train", "test"):
        (root / split / "blue").rename(os.fsdecode(os.fsencode(root / split) + b"/bl\xe9"))
    data = build(root)
    assert data.info.train_size == 6
    assert load(root, cache=False).class_names[1] == "red"
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9\n.png")).write_bytes(b"broken")
    with pytest.raises(UserError, match=r"cannot read the image '.*/train/red/caf\\xe9\\n.png'") as error:
        load(root)
    str(error.value).encode()
    assert "\n" not in str(error.value)


def cache_of(root: Path) -> Path:
    (path,) = (root / image_folder.CACHE_FOLDER).iterdir()
    return path


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the images that were decoded, in no order."""
    names: list[str] = []

    def counting(path, *arguments, **options):
        names.append(Path(path).name)
        return decode(path, *arguments, **options)

    monkeypatch.setattr("farkas_exp.data.files.pool.decode", counting)
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
    assert not [path for path in (root / image_folder.CACHE_FOLDER).iterdir() if path.suffix != ".npz"]


def test_cache_false_and_a_folder_that_cannot_be_written(root, decoded):
    load(root, cache=False)
    assert not (root / image_folder.CACHE_FOLDER).exists()
    (root / image_folder.CACHE_FOLDER).write_text("a file where the folder would be")
    load(root)
    assert len(decoded) == 20


def other_array(array):
    """A cache of the right key with another array."""

    def write(path):
        with np.load(path) as stored:
            key = stored["key"]
        np.savez(path, key=key, array=array)

    return write


def one_byte_changed(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"\x00\x00\xff" * 30)] ^= 1  # a pixel
    path.write_bytes(content)


def a_link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)


def anothers(path):
    """What a file system says of a cache that another user has put there."""
    if os.geteuid():
        pytest.skip("only root can give files away")
    os.chown(path, 65534, -1)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "text": lambda path: path.write_bytes(b"torn"),
    "other content": lambda path: np.savez(path, other=np.zeros(3)),
    "objects": other_array(np.array([None, "code"], dtype=object)),
    "floats": other_array(np.zeros((10, 6, 6, 3))),
    "too few": other_array(np.zeros((9, 6, 6, 3), np.uint8)),
    "grey": other_array(np.zeros((10, 6, 6, 1), np.uint8)),
    "no pixels": other_array(np.zeros((10, 0, 0, 3), np.uint8)),
    "one byte": one_byte_changed,
    "link": a_link,
    "pipe": a_pipe,
    "writable by the group": lambda path: path.chmod(0o620),
    "writable by all": lambda path: path.chmod(0o602),
    "in a folder that is writable by all": lambda path: path.parent.chmod(0o777),
    "another user's": anothers,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_or_foreign_cache_is_not_used(root, decoded, damage):
    known = load(root)
    assert cache_of(root).stat().st_mode & 0o777 == 0o600
    assert cache_of(root).parent.stat().st_mode & 0o777 == 0o700
    damage(cache_of(root))
    decoded.clear()
    again = load(root)
    assert len(decoded) == 10
    assert torch.equal(again.train_images, known.train_images)
    assert torch.equal(again.test_images, known.test_images)


def test_a_damaged_cache_is_made_again(root, decoded):
    load(root)
    cache_of(root).write_bytes(b"torn")
    load(root)
    decoded.clear()
    load(root)
    assert decoded == []


def test_pictures_replaced_by_others_of_the_same_name_size_and_time_are_decoded_again(root):
    load(root)
    path = root / "test" / "red" / "1.png"
    facts = path.stat()
    Image.new("RGB", (6, 6), (254, 0, 0)).save(path)
    assert path.stat().st_size == facts.st_size
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert load(root).test_images[3, 0, 0, 0] == 254


def test_of_runs_that_begin_together_one_decodes_and_the_others_wait(root, decoded, monkeypatch):
    begun, waits = threading.Event(), threading.Event()
    lines = []

    def waiting(text):
        lines.append(text)
        waits.set()

    def first(config, paths):
        begun.set()
        assert waits.wait(60)
        return decode_all(config, paths)

    decode_all = image_folder._decode_all
    monkeypatch.setattr(image_folder, "_decode_all", first)
    monkeypatch.setattr("farkas_exp.data.files.cache.warn", waiting)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(load, root)
        assert begun.wait(60)
        other = pool.submit(load, root)
        assert torch.equal(one.result().train_images, other.result().train_images)
    assert len(decoded) == 10
    assert lines == ["image_folder: waiting for another process that decodes the same images"]


def test_a_failed_write_leaves_the_old_cache_and_no_temporary_file(root, monkeypatch):
    load(root)
    before = cache_of(root).read_bytes()
    Image.new("RGB", (6, 6)).save(root / "train" / "red" / "new.png")

    def full(*args, **arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("farkas_exp.data.files.cache.np.savez", full)
    assert len(load(root).train_labels) == 7
    assert cache_of(root).read_bytes() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_many_images_show_their_progress_by_processes_or_without(root, monkeypatch, capsys, workers):
    few = load(root, cache=False)
    monkeypatch.setattr(image_folder, "MANY", 5)
    monkeypatch.setattr(image_folder, "IN_A_BATCH", 3)
    many = load(root, workers=workers)
    assert torch.equal(many.train_images, few.train_images)
    assert torch.equal(many.test_images, few.test_images)
    assert "image_folder: decoded 10 of 10 images" in capsys.readouterr().err
    load(root)
    assert capsys.readouterr().err == ""


def truncated(root: Path) -> None:
    path = root / "train" / "red" / "1.png"
    noise = np.random.RandomState(0).randint(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, r"'.*shapes' is not a folder; it must hold train/<class>/\*"),  # more: test_listing.py
        (truncated, r"cannot read the image '.*train/red/1.png' \(.*\); repair or remove it$"),
    ],
)
def test_a_wrong_folder_and_a_broken_image_are_one_line_that_names_the_place(root, damage, message):
    damage(root)
    with pytest.raises(UserError, match="^dataset.root: .*" + message) as error:
        load(root)
    assert "\n" not in str(error.value)


def test_root_must_be_given():
    with pytest.raises(UserError, match=r"^dataset.root: missing; set it to the folder of the images"):
        image_folder.load(DatasetConfig("image_folder"), torch.device("cpu"))


def test_images_that_do_not_fit_into_memory_are_refused_before_decoding(root):
    with pytest.raises(UserError, match=r"^dataset.image_size: 10 images of 100000x100000 pixels take .* smaller"):
        load(root, image_size=100_000)


def test_the_batch_size_message_names_the_folder(root):
    with pytest.raises(UserError, match=r"^batch_size: 7 is larger than the training set of shapes \(6 images\)"):
        build_data(DatasetConfig("image_folder", root=str(root)), OFF, Batching(7, 0))
