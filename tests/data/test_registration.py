"""A data set says what it is where it is loaded, and one of another package is as good as ours."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from farkas_exp import runs
from farkas_exp.config import parse
from farkas_exp.config.identity import identify
from farkas_exp.config.schema import DatasetConfig
from farkas_exp.data.base import Arrays, Batching
from farkas_exp.data.build import build_data
from farkas_exp.data.device import NO_AUGMENTATION
from farkas_exp.launch import execution, outcomes
from farkas_exp.machine.errors import UserError
from farkas_exp.registry import DATASETS
from farkas_exp.runs import open_run, read_run
from tests.configs import config, values

PACKAGE = """
from farkas_exp.data.base import Arrays, chosen
from farkas_exp.registry import DATASETS

DATASETS.register("stripes", "stripes:load", classes=2, options={"train_size": 20, "width": 4}, prints="stripes:prints")


def load(config, device):
    import torch

    count = chosen(config, "train_size")
    labels = torch.arange(count) % 2
    images = (255 * labels).to(torch.uint8).view(-1, 1, 1, 1).expand(count, 4, config.width, 1).contiguous()
    return Arrays(config.name, ("dark", "light"), images, labels, images, labels, prints(config, None))


def prints(dataset, phases):
    return {"files": "of stripes"}
"""


@pytest.fixture
def stripes(tmp_path, monkeypatch):
    """A package beside ours, named in the configuration."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "stripes.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path / "package")
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    yield {"dataset": {"name": "stripes", "train_limit": None}, "epochs": 1, "batch_size": 10, "plugins": ["stripes"]}
    sys.modules.pop("stripes", None)


def test_a_data_set_of_another_package_is_trained_on_recorded_and_skipped(tmp_path, stripes):
    made = config(tmp_path / "runs", **stripes)
    assert execution.execute(made).status == runs.FINISHED
    record = read_run(open_run(made).path)
    assert record.data == {"files": "of stripes"}
    assert "stripes" in record.slug
    assert execution.execute(made).status == outcomes.SKIPPED


def test_its_options_are_its_own_in_check_and_identity(tmp_path, stripes):
    larger = {**stripes, "dataset": {**stripes["dataset"], "train_size": 40}}
    wider = {**stripes, "dataset": {**stripes["dataset"], "width": 6}}
    hashes = {identify(config(tmp_path, **options)).hash for options in (stripes, larger, wider)}
    assert len(hashes) == 3
    with pytest.raises(UserError, match=r"^dataset.noise"):
        parse(values(tmp_path, **{**stripes, "dataset": {**stripes["dataset"], "noise": 0.5}}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ("a", "a")}, "two or more classes of different names"),
        ({"class_names": (0, 1)}, "two or more classes of different names"),
        ({"class_names": ("a", "b", "c")}, "2 classes, as registered, not"),
        ({"train_images": torch.zeros(4, 2, 2, 1)}, "train images .* and torch.uint8"),
        ({"test_images": torch.zeros(4, 3, 3, 1, dtype=torch.uint8)}, r"test images .* not \(4, 3, 3, 1\)"),
        ({"test_images": torch.zeros(0, 2, 2, 1, dtype=torch.uint8), "test_labels": torch.zeros(0).long()},
         "an int64 label for each test image"),
        ({"train_labels": torch.tensor([0, 1, 0])}, "an int64 label for each train image"),
        ({"train_labels": torch.zeros(4)}, "an int64 label for each train image"),
        ({"test_labels": torch.tensor([0, 1, 2, 0])}, "test labels from 0 to 1, not 0 to 2"),
        ({"train_labels": torch.tensor([0, 1, -1, 0])}, "train labels from 0 to 1, not -1 to 1"),
    ],
)  # fmt: skip
def test_what_a_loader_must_not_return_is_one_line(monkeypatch, changes, message):
    images, labels = torch.zeros(4, 2, 2, 1, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    arrays = replace(Arrays("own", ("a", "b"), images, labels, images, labels), **changes)
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    DATASETS.register("own", lambda *_: arrays, classes=2)
    with pytest.raises(UserError, match=f"^dataset.name: own: its loader has to return {message}"):
        build_data(DatasetConfig("own"), NO_AUGMENTATION, Batching(1, 0))


def test_points_that_are_not_finite_are_no_failure_of_a_network(monkeypatch):
    points, labels = torch.tensor([[[[1.0, torch.nan]]]] * 2), torch.tensor([0, 1])
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    DATASETS.register("own", lambda *_: Arrays("own", ("a", "b"), points, labels, points, labels), pixels=False)
    with pytest.raises(UserError, match="train points that are finite"):
        build_data(DatasetConfig("own"), NO_AUGMENTATION, Batching(1, 0))


def test_its_images_get_the_size_that_is_asked_for(tmp_path, stripes):
    made = config(tmp_path, **{**stripes, "dataset": {**stripes["dataset"], "image_size": 8}})
    assert build_data(made.dataset, made.augmentation, Batching(10, 0)).info.image_shape == (1, 8, 8)


def test_what_data_sets_are_is_known_without_torch():
    code = (
        "import sys; from farkas_exp.registry import DATASETS;"
        "print(*(name for name in DATASETS if DATASETS[name].streamed), 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["imagenet", "streamed_folder", "False"]


def test_every_module_of_arrays_registers_what_it_loads():
    for name in DATASETS:
        assert callable(DATASETS[name].build)
        module = DATASETS[name].build.__module__
        assert module.startswith("farkas_exp.data."), name
