"""Single precision, TF32 and bf16: what is set, and what measures without it."""

import pytest
import torch

from farkas_exp.layers.certificate import certify
from farkas_exp.layers.farkas import FarkasLinear
from farkas_exp.layers.paths import allow_tf32, single_precision
from farkas_exp.machine.errors import UserError
from farkas_exp.measures import figures
from farkas_exp.registry import MEASURES
from farkas_exp.training.precision import computing_in, set_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def allowed():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(autouse=True)
def pytorchs_own():
    before = allow_tf32(True, False)
    yield
    allow_tf32(*before)


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
