"""The listing of image folders: layouts, labels, and one line for each way a folder can be wrong."""

import contextlib
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

from farkas_exp.data.files.listing import list_images
from farkas_exp.machine.errors import UserError
from scripts.make_image_folder import make_folder


@pytest.fixture
def root(tmp_path) -> Path:
    make_folder(tmp_path / "made", classes=3, train=4, val=2, size=16)
    return tmp_path / "made"


def table(files, classes):
    """{file name: class name}."""
    return {Path(files.path(i)).name: classes[files.labels[i]] for i in range(len(files))}


@pytest.mark.parametrize("tiny", [False, True])
def test_labels_are_the_places_of_the_sorted_class_names(tmp_path, tiny):
    make_folder(tmp_path, classes=3, train=4, val=2, size=16, tiny=tiny)
    sets = list_images(str(tmp_path))
    assert sets.classes == ("n00000000", "n00000001", "n00000002")
    assert table(sets.train, sets.classes) == {f"n{i // 4:08d}_{i}.JPEG": f"n{i // 4:08d}" for i in range(12)}
    assert table(sets.test, sets.classes) == {f"val_{i}.JPEG": f"n{i // 2:08d}" for i in range(6)}
    for files in (sets.train, sets.test):
        assert [Path(files.path(i)).stat().st_size for i in range(len(files))] == files.sizes.tolist()


def test_a_test_folder_does_as_well(root):
    known = list_images(str(root))
    (root / "val").rename(root / "test")
    sets = list_images(str(root))
    assert (len(sets.train), len(sets.test), len(sets.classes)) == (12, 6, 3)
    assert (sets.left_out, sets.fingerprint()) == (None, known.fingerprint())


def test_the_test_set_is_taken_before_val_where_it_has_the_classes(root):
    shutil.copytree(root / "val", root / "test")
    next((root / "val").glob("*/*")).unlink()
    sets = list_images(str(root))
    assert len(sets.test) == 6
    assert sets.left_out == f"'{root}': left out 1 whole folder (such as 'val')"
    shutil.rmtree(root / "test")
    (root / "test" / "images").mkdir(parents=True)  # without labels, as ImageNet's
    sets = list_images(str(root))
    assert len(sets.test) == 5
    assert sets.left_out == f"'{root}': left out 1 whole folder (such as 'test')"


def test_what_is_not_used_is_counted_by_kind(root):
    folder = root / "train" / "n00000000"
    for path, suffix in zip(sorted(folder.iterdir()), (".jpg", ".JPG", ".jpeg", ".png"), strict=True):
        path.rename(path.with_suffix(suffix))
    for name in ("a.gif", "b.GIF", "c.webp", "notes.txt", "README", ".hidden.jpg", "._x.png", ".DS_Store"):
        (folder / name).write_bytes(b"")
    (folder / "more" / "deep").mkdir(parents=True)
    for number in range(3):
        (folder / "more" / "deep" / f"{number}.jpg").write_bytes(b"")
    (folder / "empty.jpg").mkdir()
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "val" / "loose.jpg").write_bytes(b"")
    os.mkfifo(folder / "pipe")
    (folder / "nowhere.lnk").symlink_to("gone")
    sets = list_images(str(root))
    assert (len(sets.train), len(sets.test)) == (12, 6)
    assert sets.left_out == (
        f"'{root}': left out 3 hidden (such as 'train/.ipynb_checkpoints'),"
        " 3 in subfolders (such as 'train/n00000000/more/deep/0.jpg'),"
        " 2 with the suffix .gif (such as 'train/n00000000/a.gif'),"
        " 2 without a suffix (such as 'train/n00000000/README'),"
        " 1 outside of the class folders (such as 'val/loose.jpg'),"
        " 1 subfolder (such as 'train/n00000000/empty.jpg'), 3 others"
    )


def test_tiny_imagenets_own_files_are_not_counted_but_what_lies_beside_images_is(tmp_path):
    make_folder(tmp_path, classes=2, train=2, val=1, size=16, tiny=True)
    place = tmp_path / "train" / "n00000000"
    (place / "n00000000_boxes.txt").write_text("")
    assert list_images(str(tmp_path)).left_out is None
    shutil.copy(next((place / "images").iterdir()), place / "beside.JPEG")
    sets = list_images(str(tmp_path))
    assert len(sets.train) == 4
    assert "left out 1 beside 'images' (such as 'train/n00000000/beside.JPEG')" in str(sets.left_out)


def test_a_part_keeps_names_labels_and_sizes_together(root):
    files = list_images(str(root)).train
    index = np.array([11, 0, 5])
    part = files.part(index)
    assert part.paths(range(3)) == [files.path(i) for i in index]
    assert part.labels.tolist() == [2, 0, 1]
    moved = files.moved(root, root.with_name("other"))
    assert moved.path(5) == files.path(5).replace("/made/", "/other/")


def test_the_fingerprint_changes_with_names_sizes_and_classes_alone(root, tmp_path):
    known = list_images(str(root)).fingerprint()
    shutil.copytree(root, tmp_path / "moved")
    assert list_images(str(tmp_path / "moved")).fingerprint() == known
    file = root / "train" / "n00000001" / "n00000001_4.JPEG"
    content = file.read_bytes()
    file.write_bytes(content + b"\0")
    assert list_images(str(root)).fingerprint() != known
    file.write_bytes(content)
    assert list_images(str(root)).fingerprint() == known
    file.rename(file.with_name("other.JPEG"))
    assert list_images(str(root)).fingerprint() != known


def _flat_val(root):
    for file in list((root / "val").glob("*/*")):
        file.rename(root / "val" / file.name)
    for folder in (root / "val").glob("n*"):
        folder.rmdir()


def _empty_class(root, *others):
    for file in (root / "train" / "n00000002").iterdir():
        file.unlink()
    for name in others:
        (root / "train" / "n00000002" / name).write_text("later")


def _socket(root):
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(root / "train" / "n00000000"):
        made.bind("x.png")


def _one_level_too_deep(root):
    (root / "inner").mkdir()
    for split in ("train", "val"):
        (root / split).rename(root / "inner" / split)


def _classes_one_level_too_deep(root):
    shutil.move(root / "train", root / "inner")
    (root / "train" / "animals").mkdir(parents=True)
    (root / "train" / "plants").mkdir()
    shutil.move(root / "inner" / "n00000000", root / "train" / "animals" / "n00000000")


def _archives(root):
    shutil.rmtree(root / "train")
    (root / "train").mkdir()
    (root / "train" / "n00000000.tar").write_bytes(b"")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (shutil.rmtree, r"'.*made' is not a folder; it must hold train/<class>/\* and test/<class>/\* \(or val\)$"),
        (lambda root: (root / "train").rename(root / "training"),
         r"no folder 'train' \(it has training, val\); it must hold train/<class>"),
        (lambda root: shutil.rmtree(root / "val"), r"no folder 'test' or 'val' \(it has train\); it must hold"),
        (_flat_val, r"val' has no class folders; sort its images into one folder for each class"),
        (lambda root: shutil.rmtree(root / "val" / "n00000001"),
         r"class 'n00000001' of '.*train' has no images in '.*val' \(1 such classes\)"),
        (lambda root: shutil.rmtree(root / "train" / "n00000001"),
         r"class 'n00000001' is in '.*val', but not in '.*train'$"),
        (lambda root: [shutil.rmtree(root / "train" / f"n0000000{number}") for number in (0, 1)],
         r"train' has 1 class folder\(s\), at least 2 are needed$"),
        (_empty_class, r"class folder '.*train/n00000002' has no JPEG or PNG image$"),
        (lambda root: _empty_class(root, "readme.txt"),
         r"n00000002' has no JPEG or PNG image \(1 other entries, such as '.*n00000002/readme.txt'\)$"),
        (lambda root: (root / "val/n00000002/val_4.JPEG").write_bytes(b""),
         r"the image '.*val/n00000002/val_4.JPEG' is empty \(1 such files\); repair or remove it"),
        (lambda root: (root / "train/n00000000/n00000000_0.JPEG").write_bytes(b""),
         r"the image '.*train/n00000000/n00000000_0.JPEG' is empty \(1 such files\); repair or remove it"),
        (lambda root: (root / "train/n00000003").symlink_to("gone"),
         r"'.*train/n00000003' is a broken link; mend or remove it$"),
        (lambda root: (root / "val/n00000003").symlink_to("gone"),
         r"'.*val/n00000003' is a broken link; mend or remove it$"),
        (lambda root: (root / "test").symlink_to("gone"), r"'.*/test' is a broken link, not a folder"),
        (lambda root: (root / "test").write_text(""), r"'.*/test' is a file, not a folder"),
        (lambda root: (root / "train/n00000000/x.jpg").symlink_to("gone"),
         r"'.*train/n00000000/x.jpg' is a broken link; mend or remove it$"),
        (lambda root: (root / "val/n00000000/x.jpg").symlink_to("x.jpg"),
         r"'.*val/n00000000/x.jpg' is a broken link; mend or remove it$"),
        (lambda root: os.mkfifo(root / "train/n00000000/x.png"),
         r"'.*train/n00000000/x.png' is a named pipe, not a file; mend or remove it$"),
        (lambda root: (root / "train/n00000000/x.png").symlink_to("/dev/zero"),
         r"'.*train/n00000000/x.png' is a device, not a file; mend or remove it$"),
        (_socket, r"'.*train/n00000000/x.png' is a socket, not a file; mend or remove it$"),
        (_one_level_too_deep, r"no folder 'train' \(it has inner\); .*; did you mean '.*made/inner'\?$"),
        (_classes_one_level_too_deep,
         r"'.*animals' has no JPEG or PNG image \(4 other entries, such as '.*animals/n00000000/n00000000_0.JPEG'\)"),
        (_archives, r"0 class folder\(s\), at least 2 are needed; unpack its 1 archives"),
    ],
)  # fmt: skip
def test_a_wrong_folder_is_named_in_one_line(root, break_it, message):
    break_it(root)
    with pytest.raises(UserError, match=message) as error:
        list_images(str(root))
    assert str(error.value).startswith("dataset.root: ")
    assert "\n" not in str(error.value)


def test_the_root_of_one_set_is_too_deep(root):
    with pytest.raises(UserError, match=r"no folder 'train' \(it has n00000000, .*; did you mean '.*/made'\?$"):
        list_images(str(root / "train"))


def test_a_folder_that_cannot_be_read_is_refused(root, monkeypatch):
    scandir = os.scandir

    def forbidden(folder):
        if str(folder).endswith("n00000001"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(UserError, match=r"^dataset.root: cannot read the folder '.*n00000001' \(Permission denied\)$"):
        list_images(str(root))


def test_the_number_of_classes_is_held_against_what_is_expected(root):
    with pytest.raises(UserError, match=r"has 3 class folders, expected 1000; .* \(dataset.num_classes=null"):
        list_images(str(root), 1000)
    assert list_images(str(root), 3).classes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("val_3.JPEG\t", "val_9.JPEG\t"),
         r"the image 'val_3.JPEG' is in '.*val', but not in its"),
        (lambda text: text + "val_9.JPEG\tn00000000\t0\t0\t1\t1\n",
         r"the image 'val_9.JPEG' of .* is not in '.*images'"),
        (lambda text: text.replace("n00000002", "n77777777"),
         r"class 'n77777777' of val_annotations.txt has no folder"),
    ],
)  # fmt: skip
def test_wrong_annotations_are_named(tmp_path, change, message):
    make_folder(tmp_path, classes=3, train=1, val=2, size=16, tiny=True)
    file = tmp_path / "val" / "val_annotations.txt"
    file.write_text(change(file.read_text()))
    with pytest.raises(UserError, match=message):
        list_images(str(tmp_path))
