"""Single precision, TF32 and bf16: what is set, and what measures without it."""

from contextlib import contextmanager

import pytest
import torch

from farkas_exp.layers.certificate import certify
from farkas_exp.layers.farkas import FarkasLinear
from farkas_exp.layers.paths import single_precision
from farkas_exp.machine.errors import UserError
from farkas_exp.measures import figures
from farkas_exp.registry import MEASURES
from farkas_exp.runs import open_run
from farkas_exp.trained.run import load
from farkas_exp.training.precision import computing_in, set_precision
from farkas_exp.training.session import train
from tests.configs import config

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def allowed():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(autouse=True)
def pytorchs_own():
    with single_precision():
        torch.backends.cudnn.allow_tf32 = True
        yield


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_a_run_multiplies_by_tf32_in_its_own_precision_only(precision, tf32):
    set_precision(precision, GPU)
    assert allowed() == (tf32, tf32)


def test_tf32_needs_a_gpu():
    with pytest.raises(UserError, match="precision: tf32 needs a GPU; use precision=fp32"):
        set_precision("tf32", CPU)
    assert allowed() == (True, False)


def test_what_was_set_before_comes_back():
    with computing_in("fp32", CPU):
        assert allowed() == (False, False)
        with single_precision(tf32=True):
            assert allowed() == (True, True)
        assert allowed() == (False, False)
    assert allowed() == (True, False)
    with pytest.raises(RuntimeError), computing_in("fp32", CPU):
        raise RuntimeError
    assert allowed() == (True, False)


def test_certificates_and_measurements_do_without(monkeypatch):
    seen = []
    layer = FarkasLinear(2, 3)
    layer.register_forward_hook(lambda *ignored: seen.append(allowed()))
    certify(layer, torch.zeros(1, 2))
    monkeypatch.setitem(MEASURES["param_norm"].__dict__, "build", lambda subject: seen.append(allowed()) or {})
    figures.measure(None, ["param_norm"])
    assert seen == [(False, False)] * 2


@contextmanager
def double_by_default():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def coarse_products():
    torch.set_float32_matmul_precision("medium")
    yield
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_a_program_has_set_for_itself_changes_no_number_of_a_run(tmp_path, precision):
    mine = config(tmp_path / "alone", epochs=1, precision=precision)
    with open_run(mine).locked() as run:
        alone = train(mine, run)
    surroundings = {
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        "double": double_by_default,
        "no_grad": torch.no_grad,
        "inference": torch.inference_mode,
        "meta": lambda: torch.device("meta"),
        "coarse products": coarse_products,
    }
    for name, surrounding in surroundings.items():
        mine = config(tmp_path / name, epochs=1, precision=precision, diagnostics={"epochs": [1]})
        with surrounding(), open_run(mine).locked() as run:
            assert train(mine, run)["test_loss"] == alone["test_loss"], name
            found = load(run.path)
            assert found.evaluate()["test_loss"] == alone["test_loss"], name
            images = torch.zeros(2, *found.info.image_shape, dtype=torch.float32, device="cpu")
            probabilities = found.probabilities(images)
            assert torch.get_default_dtype() == (torch.float64 if name == "double" else torch.float32)
        torch.testing.assert_close(probabilities, load(run.path).probabilities(images.clone()), rtol=0, atol=0)
