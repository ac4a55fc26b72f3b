"""`debug=anomaly` by hand: each place that it looks at, and what it says of it."""

from typing import Any

import pytest
import torch
from torch import nn

from farkas_exp.methods.base import Method, Training, build_methods, execution_mode, penalized
from tests.configs import config

Nothing: Any = None


class Pair(nn.Module):
    """Three outputs: the input times a number, an integer and nothing, which have no NaN to look for."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        return self.factor * x, torch.tensor(3), None


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last, self.scale = nn.Sequential(Pair()), nn.Linear(2, 2), 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.inner(x)[0]) * self.scale


def looking(epoch: int = 4) -> tuple[Net, Method]:
    torch.manual_seed(0)
    model = Net()
    (method,) = build_methods(Training(config(debug="anomaly"), model, Nothing, model))
    method.begin_epoch(epoch)
    return model, method


@pytest.mark.parametrize("asked", ["auto", "none"])
def test_its_steps_are_not_compiled_nor_recorded(asked):
    assert execution_mode(config(debug="anomaly", compile=asked), "graph") == "none"


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_the_innermost_output_that_is_not_finite_is_named_with_the_epoch(bad):
    model, method = looking()
    with pytest.raises(FloatingPointError, match=r"^the output of inner.0 \(Pair\) is not finite, in epoch 5$"):
        penalized([method], model, torch.tensor([[bad, 0.0]]))
    with torch.no_grad():
        model.last.bias[1] = bad
    with pytest.raises(FloatingPointError, match=r"^the output of last \(Linear\) is"), method.evaluating():
        model(torch.ones(1, 2))
    model(torch.ones(1, 2))  # nobody looks behind the block
    model, method = looking()
    model.scale = bad
    with pytest.raises(FloatingPointError, match=r"^the output of the network \(Net\) is"), method.evaluating():
        model(torch.ones(1, 2))


def test_the_gradient_of_an_output_is_looked_at_on_the_way_back():
    model, method = looking()
    logits, _ = penalized([method], model, torch.ones(1, 2))
    with pytest.raises(FloatingPointError, match=r"^the gradient of the output of the network \(Net\) is not finite"):
        (logits.sum() * torch.inf).backward()
    with torch.no_grad():
        model.last.weight[0, 1] = torch.inf
    with method.watching():
        hidden = model.inner(torch.ones(1, 2))[0]
    with pytest.raises(FloatingPointError, match=r"^the gradient of the output of inner.0 \(Pair\) is not finite"):
        (hidden @ model.last.weight.T).sum().backward()


def test_gradients_and_parameters_of_a_step_are_named():
    model, method = looking()
    method.change_gradients()  # no parameter has a gradient yet
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method.change_gradients()
    method.after_step()
    model.last.weight.grad[1, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"^the gradient of the parameter last.weight is not finite"):
        method.change_gradients()
    method.after_step()
    with torch.no_grad():
        model.inner[0].factor.fill_(-torch.inf)
    with pytest.raises(FloatingPointError, match=r"^the parameter inner.0.factor after a step is not finite, in epoch"):
        method.after_step()


def test_what_is_finite_passes_and_stays_as_it_is():
    (model, method), (other, _) = looking(), looking()
    images = torch.randn(3, 2)
    logits, terms = penalized([method], model, images)
    assert not terms
    assert torch.equal(logits, other(images))
    for each in (logits, other(images)):
        each.square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert not any(module._forward_hooks for module in model.modules())
