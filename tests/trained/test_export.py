"""Exported networks compute what the run's network computes, for any number of images."""

import json
import resource
import sys
from types import SimpleNamespace

import pytest
import torch

import farkas_exp
from farkas_exp.config import parse
from farkas_exp.machine.errors import UserError


@pytest.fixture
def run(path):
    return farkas_exp.load(path, "cpu")


@pytest.fixture
def images():
    return torch.rand(3, 1, 8, 8)


@torch.no_grad()
def logits(run, images):
    return run.network(run.preprocessing(images))


@pytest.mark.parametrize(("format", "file"), [("onyx", "network"), ("pt2", "/nowhere/network"), ("pt2", "/tmp")])
def test_a_wrong_format_or_file_is_refused_before_the_weights_are_read(run, format, file):
    with pytest.raises(UserError, match=r"^(format|out): "):
        run.export(format, file)
    assert "_saved" not in vars(run)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*get_attr:UserWarning")  # PyTorch 2.6, of itself
def test_torchscript_and_a_program_of_torch_export(run, images, tmp_path):
    script = run.export("torchscript", tmp_path / "network.ts")
    assert torch.allclose(torch.jit.load(script)(images), logits(run, images), atol=1e-5)
    program = torch.export.load(run.export("pt2", tmp_path / "network.pt2")).module()
    for batch in (images, images[:1], torch.rand(100, 1, 8, 8)):
        assert torch.allclose(program(batch), logits(run, batch), atol=1e-5)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["network.pt2", "network.ts"]


def test_the_file_is_in_the_run_directory_by_default(run):
    assert run.export("torchscript") == run.record.path / "network.ts"


def test_onnx(run, images, tmp_path, capfd):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(run.export("onnx", tmp_path / "network.onnx"))
    (found,) = session.run(["logits"], {"images": images.numpy()})
    assert torch.allclose(torch.from_numpy(found), logits(run, images), atol=1e-5)
    assert capfd.readouterr().out == ""  # PyTorch would tell of its steps where a command prints its file


def test_the_weights_alone(run, tmp_path):
    safetensors = pytest.importorskip("safetensors")
    file = run.export("safetensors", tmp_path / "network.safetensors")
    with safetensors.safe_open(file, "pt") as stored:
        weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
        assert json.loads(stored.metadata()["classes"]) == list(run.classes)
    assert all(torch.equal(weights[name], value) for name, value in run.network.state_dict().items())


def test_the_weights_alone_go_whole_and_with_all_that_they_need(run, tmp_path, monkeypatch):
    given = []
    package = SimpleNamespace(save=lambda weights, facts: given.append((weights, facts)) or b"content")
    for name in ("safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, name, package)
    assert run.export("safetensors", tmp_path / "network.safetensors").read_bytes() == b"content"
    ((weights, facts),) = given
    expected = run.network.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert all(value.is_contiguous() for value in weights.values()), "others are refused by the package"
    told = {name: json.loads(text) for name, text in facts.items()}
    assert (parse(told["config"]), told["classes"]) == (run.config, list(run.classes))
    assert told["preprocessing"] == json.loads(json.dumps(vars(run.preprocessing)))


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_a_full_disk_is_an_error_and_leaves_no_file(run, tmp_path, format):
    sizes = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, sizes[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            run.export(format, tmp_path / "network")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, sizes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("format", "module"), [("onnx", "onnxscript"), ("safetensors", "safetensors")])
def test_a_package_that_is_missing_is_one_line(run, tmp_path, monkeypatch, format, module):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    monkeypatch.setitem(__import__("sys").modules, f"{module}.torch", None)
    with pytest.raises(UserError, match=f"format: {format} needs the package {module}.*; pip install {format}"):
        run.export(format, tmp_path / "network")
    assert list(tmp_path.iterdir()) == []
