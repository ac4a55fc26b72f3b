"""A data set says what it is where it is loaded, and one of another package is as good as ours."""

import subprocess
import sys

import pytest

from farkas_exp import runs
from farkas_exp.config import parse
from farkas_exp.config.identity import identify
from farkas_exp.data.base import Batching
from farkas_exp.data.build import build_data
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
    assert record is not None
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
