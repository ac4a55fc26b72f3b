"""CIFAR in its original layout, made small: used as it is, unpacked from its archive, or one line that helps."""

import hashlib
import pickle
import shutil
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from farkas_exp.config.schema import DatasetConfig
from farkas_exp.data.arrays import cifar
from farkas_exp.machine.errors import UserError

CPU = torch.device("cpu")
CLASSES = ["cat", "dog", "frog"]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def write_batches(folder: Path, names: list[str], label_key: str) -> dict[str, np.ndarray]:
    """Files of four images each in CIFAR's layout: planes of 32 x 32, red, green, blue."""
    folder.mkdir(parents=True)
    random = np.random.RandomState(0)
    content = {}
    for name in names:
        content[name] = random.randint(0, 256, (4, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": content[name], label_key: [0, 1, 2, 1]}))
    return content


@pytest.fixture(params=["cifar10", "cifar100"])
def made(request, tmp_path, monkeypatch):
    """A small copy under tmp_path/data, whose checksums torchvision's classes have been told."""
    layout = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[request.param]
    label_key = {"cifar10": "labels", "cifar100": "fine_labels"}[request.param]
    folder = tmp_path / "data" / layout.base_folder
    train, test = ([name for name, _ in files] for files in (layout.train_list, layout.test_list))
    content = write_batches(folder, train + test, label_key)
    meta = folder / layout.meta["filename"]
    meta.write_bytes(pickle.dumps({layout.meta["key"]: CLASSES}))
    monkeypatch.setattr(layout, "train_list", [(name, md5(folder / name)) for name in train])
    monkeypatch.setattr(layout, "test_list", [(name, md5(folder / name)) for name in test])
    monkeypatch.setattr(layout, "meta", {**layout.meta, "md5": md5(meta)})
    return request.param, layout, folder, content


def load(name: str, root: Path, **options):
    return cifar.load(DatasetConfig(name, root=str(root), **options), CPU)


def test_files_that_are_there_are_used_as_they_are(made):
    name, layout, folder, content = made
    before = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")}
    arrays = load(name, folder.parent, download=False)
    expected = np.concatenate([content[file] for file, _ in layout.train_list]).reshape(-1, 3, 32, 32)
    assert torch.equal(arrays.train_images.permute(0, 3, 1, 2), torch.from_numpy(expected))
    assert arrays.train_labels.tolist() == [0, 1, 2, 1] * len(layout.train_list)
    assert len(arrays.test_images) == 4
    assert arrays.class_names == tuple(CLASSES)
    assert before == {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")}


def test_a_damaged_or_missing_file_is_named_and_left_alone(made):
    name, layout, folder, _ = made
    file = folder / layout.train_list[-1][0]
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"^dataset.root: .*damaged .*; delete .* to have it fetched again") as error:
        load(name, folder.parent)
    assert str(file) in str(error.value)
    file.unlink()
    with pytest.raises(UserError, match=r"^dataset.root: .* is missing; delete"):
        load(name, folder.parent)
    assert folder.is_dir()


def test_nothing_there_and_no_download(made, tmp_path):
    name = made[0]
    with pytest.raises(UserError, match=rf"^dataset.root: no {name} in .*; set dataset.root .*dataset.download=true"):
        load(name, tmp_path / "elsewhere", download=False)
    assert not (tmp_path / "elsewhere").exists()


def pack(layout, folder: Path, archive: Path, monkeypatch) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, layout.base_folder)
    monkeypatch.setattr(layout, "tgz_md5", md5(archive))


def test_an_archive_that_lies_there_is_unpacked(made, tmp_path, monkeypatch):
    name, layout, folder, _ = made
    root = tmp_path / "other"
    pack(layout, folder, root / layout.filename, monkeypatch)
    arrays = load(name, root, download=False)
    assert len(arrays.test_images) == 4
    assert sorted(path.name for path in root.iterdir()) == sorted([layout.base_folder, layout.filename])


def test_a_damaged_archive_is_named_and_left_alone(made, tmp_path):
    name, layout, *_ = made
    root = tmp_path / "other"
    root.mkdir()
    (root / layout.filename).write_bytes(b"half a down")
    with pytest.raises(UserError, match=r"^dataset.root: .*tar.gz is damaged .*; delete it to have it downloaded"):
        load(name, root)
    assert (root / layout.filename).read_bytes() == b"half a down"


def serve(archive: Path, monkeypatch) -> None:
    """Let torchvision's download end in `archive`."""
    monkeypatch.setattr(datasets.utils, "_get_redirect_url", lambda url, max_hops: url)
    monkeypatch.setattr(datasets.utils, "_urlretrieve", lambda url, target: shutil.copy(archive, target))


def test_a_download_ends_in_its_place_and_leaves_no_other_file(made, tmp_path, monkeypatch):
    name, layout, folder, _ = made
    served = tmp_path / "server" / layout.filename
    pack(layout, folder, served, monkeypatch)
    serve(served, monkeypatch)
    root = tmp_path / "fresh" / "data"
    assert len(load(name, root).test_images) == 4
    assert [path.name for path in root.iterdir()] == [layout.base_folder]


def test_a_download_with_a_wrong_checksum_is_one_line_and_leaves_nothing(made, tmp_path, monkeypatch):
    name, layout, folder, _ = made
    served = tmp_path / "server" / layout.filename
    pack(layout, folder, served, monkeypatch)
    served.write_bytes(served.read_bytes()[:-10])
    serve(served, monkeypatch)
    with pytest.raises(UserError, match=rf"^dataset.root: cannot put {name} into .*orrupt.*by hand$"):
        load(name, tmp_path / "fresh")
    assert list((tmp_path / "fresh").iterdir()) == []


def test_no_network_is_one_line_and_leaves_nothing(made, tmp_path, monkeypatch):
    name = made[0]

    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("Name or service\nnot known")

    monkeypatch.setattr(datasets.utils, "_get_redirect_url", unreachable)
    with pytest.raises(UserError, match=rf"^dataset.root: cannot put {name} into .*not known.*by hand$") as error:
        load(name, tmp_path / "fresh")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "fresh").iterdir()) == []
