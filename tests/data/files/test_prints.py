"""Fingerprints of data: what changes them, what does not, and what a run is told that began with others."""

import os
import shutil
from pathlib import Path

import pytest

from farkas_exp.config.schema import DatasetConfig, PhaseConfig, PhasesConfig
from farkas_exp.data.base import Batching
from farkas_exp.data.build import build_data
from farkas_exp.data.files import prints
from farkas_exp.data.files.listing import list_images
from farkas_exp.data.files.resize import Reduction, resize_folder
from farkas_exp.machine.errors import UserError
from scripts.make_image_folder import make_folder
from tests.configs import config
from tests.pictures import added, pictures, reclassified, renamed, replaced, swapped

ALONE = PhasesConfig()


def of(root: Path) -> prints.Prints | None:
    return prints.prints(DatasetConfig("image_folder", root=str(root)), ALONE)


@pytest.mark.parametrize("change", [replaced, renamed, reclassified, added, swapped])
def test_other_files_have_another_fingerprint_and_the_same_ones_the_same(tmp_path, change):
    first = of(pictures(tmp_path / "one"))
    assert of(pictures(tmp_path / "two")) == first
    os.utime(tmp_path / "two" / "train" / "one" / "0.png", (0, 0))
    assert of(tmp_path / "two") == first, "neither the place nor a time is part of it"
    change(tmp_path / "two")
    assert of(tmp_path / "two") != first


def test_the_fingerprint_is_the_same_in_every_version(tmp_path):
    """Another formula would refuse to continue every run that anyone has."""
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "0.png").write_bytes(f"{split} {name}".encode())
    assert of(tmp_path) == {"files": "72111d456e3e3fa3"}
    assert prints.prints_of_files(tmp_path / "train" / name / "0.png" for name in "ab") == {"files": "3407a550953511a9"}


def test_a_few_files_are_told_by_their_names_contents_and_order(tmp_path):
    paths = [tmp_path / name for name in ("x", "y", "z")]
    for path, content in zip(paths, (b"1", b"2", b"1"), strict=True):
        path.write_bytes(content)
    x, y, z = paths
    assert len({str(prints.prints_of_files(chosen)) for chosen in ([x, y], [y, x], [z, y], [x], [y])}) == 5
    with pytest.raises(UserError, match=r"^dataset.root: cannot read '.*gone' \(No such file"):
        prints.prints_of_files([tmp_path / "gone"])


def test_what_has_no_files_here_has_no_fingerprint(tmp_path):
    assert of(tmp_path / "gone") is None
    assert prints.prints(DatasetConfig("image_folder"), ALONE) is None
    assert prints.prints(DatasetConfig("digits"), ALONE) == {}
    assert prints.prints(DatasetConfig("of another version"), ALONE) == {}


def test_a_root_that_is_no_path_is_named_by_its_key():
    with pytest.raises(UserError, match=r"^dataset\.root: "):
        prints.prints(DatasetConfig("image_folder", root="~nobody of this name/cats"), ALONE)


@pytest.mark.parametrize(("more", "read"), [(0, True), (1, False)])
def test_contents_count_up_to_64_mebibytes_of_files(tmp_path, monkeypatch, more, read):
    """Another bound would give the folders between the two another fingerprint."""
    pictures(tmp_path)
    sizes = [path.stat().st_size for path in tmp_path.rglob("*.png")]
    largest = tmp_path / "train" / "one" / "0.png"
    with open(largest, "r+b") as file:
        file.truncate(2**26 - sum(sizes) + largest.stat().st_size + more)
    seen = []
    monkeypatch.setattr(prints, "_content", lambda path: seen.append(path) or b"")
    of(tmp_path)
    assert len(seen) == (len(sizes) if read else 0)


def test_one_sweep_looks_once_and_the_next_one_again(tmp_path):
    first = of(pictures(tmp_path))
    with prints.remembered():
        assert of(tmp_path) == first
        added(tmp_path)
        assert of(tmp_path) == first
        assert of(pictures(tmp_path / "other")) == first
        assert of(added_to(tmp_path / "third")) != first
    assert of(tmp_path) != first


def added_to(root: Path) -> Path:
    added(pictures(root))
    return root


def test_data_without_a_folder_or_a_label_are_called_by_their_name():
    with pytest.raises(UserError, match=r"^dataset: mnist is not the data"):
        prints.check_same({"files": "a"}, {"files": "b"}, DatasetConfig("mnist"), Path("run"))


@pytest.mark.parametrize(
    ("recorded", "now", "said"),
    [
        ({"files": "a"}, {"files": "a"}, ""),
        ({"files": "a"}, {"files": "a", "copy 20": "b"}, ""),
        ({"files": "a", "copy 20": "b"}, {"files": "a"}, ""),
        ({"files": "a"}, None, "its data are not on this machine"),
        ({}, {"files": "a"}, "its record is older than fingerprints of data"),
        ({}, {}, ""),
        ({"files": "a"}, {"files": "b"}, None),
        ({"files": "a", "copy 20": "b"}, {"files": "a", "copy 20": "c"}, None),
    ],
)
def test_a_run_goes_on_with_the_same_data_only(recorded, now, said):
    dataset, run = DatasetConfig("image_folder", root="/data/cats", label="cats"), Path("runs/x/seed_0")
    if said is not None:
        assert prints.check_same(recorded, now, dataset, run) == said
        return
    what = max(key for key in recorded if recorded[key] != now[key])
    with pytest.raises(
        UserError,
        match=f"^dataset: /data/cats is not the data .*of the {what} {now[what]}, was {recorded[what]}.* move {run}",
    ):
        prints.check_same(recorded, now, dataset, run)


def test_large_data_sets_are_told_by_names_and_sizes(tmp_path, monkeypatch):
    root = pictures(tmp_path / "cats")
    dataset = DatasetConfig("image_folder", root=str(root))
    small = prints.prints(dataset, PhasesConfig())
    monkeypatch.setattr(prints, "CONTENTS_UP_TO", 0)
    monkeypatch.setattr(prints, "_content", lambda path: pytest.fail("read a file"))
    large = prints.prints(dataset, PhasesConfig())
    assert large != small
    replaced(root)
    assert prints.prints(dataset, PhasesConfig()) == large
    added(root)
    assert prints.prints(dataset, PhasesConfig()) != large


def test_the_copies_that_are_read_are_a_part_of_the_data(tmp_path):
    make_folder(tmp_path / "made", classes=2, train=4, val=2, size=64)
    sets = list_images(str(tmp_path / "made"))
    for size in (20, 40):
        resize_folder(sets, tmp_path / f"made-{size}", Reduction(size), 0, lambda count: None)
    phases = PhasesConfig("two", (PhaseConfig(1, 16, 4, 1.0, 1.0), PhaseConfig(2, 60, 4, 1.0, 1.0)))
    dataset = DatasetConfig("streamed_folder", root=str(tmp_path / "made"), copies=(40, 20), workers=0)
    known = prints.prints(dataset, phases)
    assert list(known) == ["files", "copy 20"], "the other one suffices for neither phase"
    off = config("runs", augmentation={"crop_padding": 0, "cutout": 0}).augmentation
    data = build_data(dataset, off, Batching(4, 0), phases=phases)
    assert dict(data.info.files) == known, "the trainer's and the sweep's are the same"
    file = next((tmp_path / "made-20" / "train").glob("*/*"))
    file.write_bytes(file.read_bytes() + b"\0")
    now = prints.prints(dataset, phases)
    assert (now["files"], now["copy 20"] == known["copy 20"]) == (known["files"], False)
    with pytest.raises(UserError, match="fingerprint of the copy 20 "):
        prints.check_same(known, now, dataset, tmp_path)
    shutil.rmtree(tmp_path / "made-20")
    assert prints.check_same(known, prints.prints(dataset, phases), dataset, tmp_path) == ""
