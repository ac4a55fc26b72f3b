"""The switches of a network are put back, and what is watched of it comes in the order of computation."""

import pytest
import torch
from torch import nn

from farkas_exp.layers.activation import Activation
from farkas_exp.layers.paths import allow_tf32, fused_allowed, in_mode, plain_path, single_precision
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


@pytest.mark.parametrize("before", [(True, False), (False, True)])
def test_single_precision_is_of_its_block_alone(before):
    kept = allow_tf32(*before)
    try:
        with single_precision():
            assert allow_tf32(True, True) == (False, False)
        with pytest.raises(AssertionError), single_precision(tf32=True):
            assert allow_tf32(False, False) != (True, True)
        assert allow_tf32(*before) == before, "convolutions, and products"
    finally:
        allow_tf32(*kept)


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
