"""Layer-sequential unit variance, in networks and by hand."""

import pytest
import torch
from torch import nn

from farkas_exp.initialization.apply import initialize
from farkas_exp.initialization.lsuv import watching
from farkas_exp.initialization.random import weight_layers
from farkas_exp.layers.farkas import FarkasLinear
from farkas_exp.layers.paths import plain_path
from farkas_exp.machine.errors import UserError
from tests.networks import build, images

SMALL = {"blocks": (2, 2), "widths": (16, 32)}
BATCH = images(32, 3, 16, 16, seed=1)


@pytest.mark.parametrize(
    ("model", "position"), [("resnet34", "after"), ("farkasnet34", "after"), ("resnet34", "before")]
)
def test_every_layer_gets_an_output_of_unit_variance(model, position):
    net = build(model, normalization={"name": "batch", "position": position}, **SMALL)
    initialize(net, "lsuv", images=BATCH, seed=1)
    seen = {}
    net.eval()
    layers = list(weight_layers(net))
    for layer in layers:
        if hasattr(layer, "branch"):
            layer.branch = lambda hidden, layer=layer, branch=layer.branch: seen.setdefault(layer, branch(hidden))
        else:
            layer.register_forward_hook(lambda layer, inputs, output: seen.update({layer: output.clone()}))
    with torch.no_grad(), plain_path():
        net(BATCH)
    stds = [float(seen[layer].std(correction=0)) for layer in layers]
    assert stds == pytest.approx([1.0] * len(layers), abs=0.11)


def test_it_leaves_no_trace_on_the_network():
    net = build("farkasnet34", **SMALL, normalization="batch")
    keys = {name: set(vars(module)) for name, module in net.named_modules()}
    buffers = {name: value.clone() for name, value in net.named_buffers()}
    initialize(net, "lsuv", images=BATCH)
    assert {name: set(vars(module)) for name, module in net.named_modules()} == keys
    assert not any(module._forward_hooks for module in net.modules())
    assert net.training
    assert buffers
    assert all(torch.equal(value, buffers[name]) for name, value in net.named_buffers()), "running statistics"


def test_watching_changes_no_output_and_ends_also_where_something_fails():
    net, seen = build("farkasnet18", blocks=(1,), widths=(4,)), []
    keys = {name: set(vars(module)) for name, module in net.named_modules()}
    before = net(images(2, 3, 8, 8))
    with watching(list(weight_layers(net)), lambda layer, output: seen.append(layer)):
        assert torch.equal(net(images(2, 3, 8, 8)), before)
    assert seen == list(weight_layers(net))
    with pytest.raises(ZeroDivisionError), watching(list(weight_layers(net)), lambda layer, output: 1 / 0):
        net(images(2, 3, 8, 8))
    assert {name: set(vars(module)) for name, module in net.named_modules()} == keys
    assert not any(module._forward_hooks for module in net.modules())


def outputs(layer: nn.Module, points: torch.Tensor) -> torch.Tensor:
    return layer(points).detach()


def test_the_variance_is_that_of_the_whole_batch_over_its_number():
    """Two outputs -a and a have the deviation a; with one less in the denominator it would be a sqrt 2."""
    layer = nn.Linear(1, 1)
    initialize(layer, "lsuv", images=torch.tensor([[3.0], [-1.0]]))
    assert outputs(layer, torch.tensor([[2.0], [-2.0]])).abs().flatten().tolist() == pytest.approx([1, 1])
    assert float(layer.bias.detach()) == 0


@pytest.mark.parametrize(("deviation", "kept"), [(1.09, True), (0.91, True), (1.11, False), (0.89, False)])
def test_a_layer_within_a_tenth_of_1_keeps_its_orthonormal_weights(deviation, kept):
    layer = nn.Linear(3, 3)
    rows = torch.linalg.qr(torch.randn(300, 3, generator=torch.Generator().manual_seed(0)))[0]
    points = deviation * rows / rows.std(correction=0)
    initialize(layer, "lsuv", images=points)
    size = 1 if kept else 1 / deviation
    torch.testing.assert_close(layer.weight @ layer.weight.T, size**2 * torch.eye(3), rtol=1e-2, atol=1e-2)


def test_a_layer_whose_output_is_not_proportional_to_its_weight_is_divided_again():
    """The margin of a Farkas layer keeps its last component away from zero, so that one division is not enough."""
    layer = FarkasLinear(2, 3, margin=1.5)
    points = 4 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    initialize(layer, "lsuv", images=points)
    assert float(outputs(layer, points).std(correction=0)) == pytest.approx(1, abs=0.1)


class Backwards(nn.Module):
    """Two layers that are registered in the other order than they are used in, and an idle one."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.first, self.idle = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(points))


def test_layers_are_scaled_in_the_order_of_their_use_and_an_idle_one_is_not():
    net, points = Backwards(), 50 * torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    initialize(net, "lsuv", images=points)
    hidden = outputs(net.first, points)
    assert float(hidden.std(correction=0)) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(net.second.weight @ net.second.weight.T, torch.eye(2))  # the first left it nothing to do
    torch.testing.assert_close(net.idle.weight @ net.idle.weight.T, torch.eye(2))


@pytest.mark.parametrize("points", [torch.full((3, 2), torch.nan), torch.full((3, 2), torch.inf)])
def test_an_output_without_a_deviation_is_an_error(points):
    layer = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"init\.name: lsuv: the output of 0 is not finite on these images"):
        initialize(layer, "lsuv", images=points)
    assert all(parameter.isfinite().all() for parameter in layer.parameters())


def test_a_dead_output_is_left_as_it_is():
    layer = nn.Linear(2, 2)
    initialize(layer, "lsuv", images=torch.zeros(3, 2))
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(2))
