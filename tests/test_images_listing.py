"""The listing of image folders: layouts, labels, and one line for each way a folder can be wrong."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from farkas_exp.errors import UserError
from farkas_exp.images.listing import list_images
from farkas_exp.images.made import make_folder


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


def test_a_test_folder_does_as_well_and_other_files_are_passed_over(root):
    (root / "val").rename(root / "test")
    (root / "train" / "n00000000" / "notes.txt").write_text("x")
    (root / "train" / "n00000000" / ".hidden.jpg").write_bytes(b"")
    (root / "train" / ".cache").mkdir()
    sets = list_images(str(root))
    assert (len(sets.train), len(sets.test), len(sets.classes)) == (12, 6, 3)


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


def _nothing(root):
    shutil.rmtree(root)


def _no_train(root):
    (root / "train").rename(root / "training")


def _no_val(root):
    shutil.rmtree(root / "val")


def _flat_val(root):
    for file in list((root / "val").glob("*/*")):
        file.rename(root / "val" / file.name)
    for folder in (root / "val").glob("n*"):
        folder.rmdir()


def _class_missing_in_val(root):
    shutil.rmtree(root / "val" / "n00000001")


def _class_missing_in_train(root):
    shutil.rmtree(root / "train" / "n00000001")


def _empty_class(root):
    for file in (root / "train" / "n00000002").iterdir():
        file.unlink()


def _empty_file(root):
    (root / "val" / "n00000002" / "val_4.JPEG").write_bytes(b"")


def _archives(root):
    shutil.rmtree(root / "train")
    (root / "train").mkdir()
    (root / "train" / "n00000000.tar").write_bytes(b"")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (_nothing, r"'.*made' is not a folder; it must hold train/<class>/\* and val/<class>/\*"),
        (_no_train, r"no folder 'train' \(it has training, val\); it must hold train/<class>"),
        (_no_val, r"no folder 'val' \(it has train\)"),
        (_flat_val, r"val' has no class folders; sort its images into one folder for each class"),
        (_class_missing_in_val, r"class 'n00000001' of '.*train' has no images in '.*val' \(1 such classes\)"),
        (_class_missing_in_train, r"class 'n00000001' is in '.*val', but not in '.*train'"),
        (_empty_class, r"class folder '.*train/n00000002' has no JPEG or PNG image"),
        (_empty_file, r"the image '.*val/n00000002/val_4.JPEG' is empty \(1 such files\); repair or remove it"),
        (_archives, r"0 class folder\(s\), at least 2 are needed; unpack its 1 archives"),
    ],
)
def test_a_wrong_folder_is_named_in_one_line(root, break_it, message):
    break_it(root)
    with pytest.raises(UserError, match=message) as error:
        list_images(str(root))
    assert str(error.value).startswith("dataset.root: ")
    assert "\n" not in str(error.value)


def test_the_number_of_classes_is_held_against_what_is_expected(root):
    with pytest.raises(UserError, match=r"has 3 class folders, expected 1000; .* \(dataset.num_classes=null"):
        list_images(str(root), 1000)
    assert list_images(str(root), 3).classes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace("val_3.JPEG\t", "val_9.JPEG\t"),
            r"the image 'val_3.JPEG' is in '.*val', but not in its",
        ),
        (
            lambda text: text + "val_9.JPEG\tn00000000\t0\t0\t1\t1\n",
            r"the image 'val_9.JPEG' of .* is not in '.*images'",
        ),
        (
            lambda text: text.replace("n00000002", "n77777777"),
            r"class 'n77777777' of val_annotations.txt has no folder",
        ),
    ],
)
def test_wrong_annotations_are_named(tmp_path, change, message):
    make_folder(tmp_path, classes=3, train=1, val=2, size=16, tiny=True)
    file = tmp_path / "val" / "val_annotations.txt"
    file.write_text(change(file.read_text()))
    with pytest.raises(UserError, match=message):
        list_images(str(tmp_path))
