"""The switches of a network are put back, and what is watched of it comes in the order of computation."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import nn

from farkas_exp.layers.activation import Activation
from farkas_exp.layers.paths import fused_allowed, in_mode, plain_path, single_precision, tf32_in_convolutions
from farkas_exp.layers.watching import each_pre_activation, watch_pre_activations


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("training", [True, False])
def test_every_module_gets_its_own_mode_back_also_after_a_failure(training):
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1).eval(), nn.Sequential(nn.Dropout()))
    before = modes(model)
    with in_mode(model, training):
        assert modes(model) == [training] * 5
    assert modes(model) == before == [True, True, False, True, True]
    with pytest.raises(ZeroDivisionError), in_mode(model, training):
        raise ZeroDivisionError
    assert modes(model) == before


def test_fused_paths_are_allowed_again_behind_the_outermost_block_also_after_a_failure():
    with plain_path():
        with pytest.raises(ZeroDivisionError), plain_path():
            raise ZeroDivisionError
        assert not fused_allowed()
    assert fused_allowed()


NEWER = hasattr(torch.backends, "fp32_precision")  # from PyTorch 2.9 on


def precisions() -> list[object]:
    """All of PyTorch's switches, or that it refuses to read one."""
    cuda, cudnn, mkldnn = (cast(Any, getattr(torch.backends, name)) for name in ("cuda", "cudnn", "mkldnn"))
    parts = [cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn] if NEWER else []
    switches = [torch.get_float32_matmul_precision, lambda: cudnn.allow_tf32]
    found: list[object] = []
    for switch in switches + [lambda part=part: part.fp32_precision for part in parts]:
        try:
            found.append(switch())
        except RuntimeError:
            found.append("contradictory")
    return found


SET_BY_A_PROGRAM: dict[str, Callable[[Any], None]] = {
    "nothing": lambda backends: None,
    "products": lambda backends: torch.set_float32_matmul_precision("medium"),
    "no convolutions": lambda backends: setattr(backends.cudnn, "allow_tf32", False),
    "newer, products": lambda backends: setattr(backends.cuda.matmul, "fp32_precision", "tf32"),
    "newer, convolutions": lambda backends: setattr(backends.cudnn.conv, "fp32_precision", "ieee"),
    "newer, on a CPU": lambda backends: setattr(backends.mkldnn.matmul, "fp32_precision", "bf16"),
    "newer, all": lambda backends: setattr(backends, "fp32_precision", "tf32"),
}


@pytest.fixture
def pytorchs_own():
    with single_precision():
        torch.backends.cudnn.allow_tf32 = True
        yield
        if NEWER:
            cast(Any, torch.backends).fp32_precision = "none"


@pytest.mark.usefixtures("pytorchs_own")
@pytest.mark.parametrize("name", [name for name in SET_BY_A_PROGRAM if NEWER or "newer" not in name])
def test_single_precision_is_of_its_block_alone_however_a_program_has_set_its_own(name):
    SET_BY_A_PROGRAM[name](torch.backends)
    before = precisions()
    with single_precision():
        assert set(precisions()) <= {"highest", False, "ieee", "none"}
        with single_precision(tf32=True):
            assert precisions()[:2] == ["high", True]
            assert tf32_in_convolutions()
        assert not tf32_in_convolutions()
    assert precisions() == before
    with pytest.raises(ZeroDivisionError), single_precision():
        raise ZeroDivisionError
    assert precisions() == before


class Twice(nn.Module):
    """Uses the second of its activations first, and the first one twice."""

    def __init__(self) -> None:
        super().__init__()
        self.late, self.early = Activation("relu"), Activation("relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.late(self.late(self.early(x) - 1) - 1)


def test_pre_activations_come_in_the_order_of_computation_and_as_they_were():
    model, x = Twice(), torch.tensor([-1.0, 2.5], requires_grad=True)
    with watch_pre_activations(model) as seen:
        output = model(x * 1)
    assert [(name, z.tolist()) for name, z in seen] == [("early", [-1, 2.5]), ("late", [-1, 1.5]), ("late", [-1, 0.5])]
    assert output.tolist() == [0, 0.5]
    (gradient,) = torch.autograd.grad(seen[-1][1].sum(), x)
    assert gradient.tolist() == [0, 1], "they are part of the graph"
    model(x * 1)
    assert len(seen) == 3, "not behind the block"


def test_a_tensor_that_is_returned_goes_into_the_activation():
    model = Twice()
    with each_pre_activation(model, lambda name, z: z + 10 if name == "early" else None):
        assert not fused_allowed()
        assert model(torch.tensor([-1.0])).item() == 7
    with pytest.raises(ZeroDivisionError), each_pre_activation(model, lambda name, z: z * (1 / 0)):
        model(torch.tensor([-1.0]))
    assert model(torch.tensor([-1.0])).item() == 0
    assert not any(module._forward_pre_hooks for module in model.modules())
