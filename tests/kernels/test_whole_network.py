"""The augmentation of a whole network at once against that of each layer by itself."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from farkas_exp.kernels import accelerate, fused, in_use, restore
from farkas_exp.kernels.fused import FusedLayer
from farkas_exp.kernels.whole_network import augment_together
from farkas_exp.layers.paths import plain_path
from farkas_exp.layers.residual import ResidualBlock
from farkas_exp.models.create import create_model
from farkas_exp.registry import NETWORKS

CPU = torch.device("cpu")
FARKAS = [name for name in NETWORKS if NETWORKS[name].farkas]
OWN = {"blocks": (2, 1), "widths": (8, 12), "depth": 2, "width": 8}


def networks(name, dtype=torch.float64, **options):
    """A network of plain layers, and a copy whose layers are augmented together."""
    torch.manual_seed(0)
    own = {key: value for key, value in OWN.items() if key in NETWORKS[name].options}
    alone = create_model(name, image_size=16, **own | options).to(dtype)
    together = copy.deepcopy(alone)
    fused.swap(together, CPU)
    augment_together(together)
    return alone, together


def images(dtype=torch.float64, count=5):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=dtype)


def results(model, batch):
    model.zero_grad()
    output = model(batch)
    output.square().sum().backward()
    return [output, *(parameter.grad for parameter in model.parameters())]


def assert_equal(mine, theirs, **tolerance):
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, **({"rtol": 1e-11, "atol": 1e-11} | tolerance))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("aggregation", ["sum", {"name": "mean", "margin": 0.1}])
@pytest.mark.parametrize("name", FARKAS)
def test_outputs_and_gradients_are_those_of_the_plain_formulas(name, aggregation, channels_last):
    alone, together = networks(name, aggregation=aggregation, normalization="none")
    if channels_last:
        alone, together = (each.to(memory_format=torch.channels_last) for each in (alone, together))
    assert "whole_network" in in_use(together)
    assert_equal(results(together, images()), results(alone, images()))
    with torch.no_grad():
        assert_equal([together(images())], [alone(images())])
    assert all(layer.given is None for layer in together.modules() if isinstance(layer, FusedLayer))


@pytest.mark.parametrize(
    "options",
    [
        {"weight": "scaled"},
        {"weight": "standardized", "normalization": "batch"},
        {"residual_scaling": {"multiplier": 0.5}},
        {"residual_scaling": {"alpha": 0.7, "beta": 0.3}, "aggregation": {"name": "mean", "margin": 0.1}},
        {"normalization": {"name": "batch", "position": "before"}},
        {"activation": "softplus"},
        {"aggregation": {"name": "mean", "learn_lambda": True}},
    ],
    ids=str,
)
def test_so_they_are_whatever_the_layers_do_with_their_weights_and_what_follows_them(options):
    alone, together = networks("farkasnet18", **options)
    assert_equal(results(together, images()), results(alone, images()))


@pytest.mark.parametrize("last", ["above", "below", "tie"])
def test_the_last_bias_wins_loses_and_ties(last):
    alone, together = networks("farkas_mlp", width=3)
    for layer in (layer for layer in together.modules() if isinstance(layer, FusedLayer)):
        with torch.no_grad():
            layer.bias[:-1] = torch.tensor([0.25, -0.125])  # whose sum is exact
            layer.bias[-1] = -0.125 + {"above": 1.0, "below": -1.0, "tie": 0.0}[last]
    alone.load_state_dict(together.state_dict())
    assert_equal(results(together, images()), results(alone, images()))


def test_a_frozen_parameter_gets_no_gradient():
    alone, together = networks("farkasnet18")
    for model in (alone, together):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("stages.0" not in name)
    pairs = list(zip(results(together, images()), results(alone, images()), strict=True))
    assert any(a is None for a, _ in pairs)
    assert_equal([a for a, b in pairs if b is not None], [b for _, b in pairs if b is not None])


def test_second_derivatives_are_those_of_the_plain_formulas():
    def penalty_gradients(model):
        parameters = list(model.parameters())
        first = torch.autograd.grad(model(images()).pow(3).sum(), parameters, create_graph=True)
        return torch.autograd.grad(sum(gradient.square().sum() for gradient in first), parameters)

    alone, together = networks("farkas_mlp", activation="softplus")
    assert_equal(penalty_gradients(together), penalty_gradients(alone), rtol=1e-9, atol=1e-9)


def test_in_half_precision_it_is_the_layers_own_rounding():
    alone, together = networks("farkasnet18", dtype=torch.float32)
    by_layer = copy.deepcopy(alone)
    fused.swap(by_layer, CPU)
    found = []
    for model in (together, by_layer):
        with torch.autocast("cpu", torch.bfloat16):
            output = model(images(torch.float32))
        output.float().square().sum().backward()
        found.append([output, *(parameter.grad for parameter in model.parameters())])
        assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}
    assert_equal(*found, rtol=0.02, atol=0.02)


def test_a_copy_augments_its_own_layers_and_taken_out_each_layer_its_own():
    alone, together = networks("farkasnet18")
    other = copy.deepcopy(together)
    with torch.no_grad():
        for parameter in together.parameters():
            parameter.zero_()
    assert_equal(results(other, images()), results(alone, images()))
    restore(other)
    assert in_use(other) == []
    assert not other._forward_pre_hooks
    assert torch.equal(other(images()), alone(images()))


def test_a_forward_that_fails_leaves_nothing_behind_and_a_layer_alone_is_right():
    alone, together = networks("farkasnet18")
    with pytest.raises(RuntimeError):
        together(images()[:, :2])
    (layer, *_), (plain, *_) = ([m for m in model.modules() if hasattr(m, "augmented")] for model in (together, alone))
    assert layer.given is None
    torch.testing.assert_close(layer(images()), plain(images()), rtol=1e-12, atol=1e-12)


def test_on_the_plain_path_every_layer_computes_the_plain_formula():
    alone, together = networks("farkasnet18")
    with plain_path():
        assert torch.equal(together(images()), alone(images()))


class Calls(TorchDispatchMode):
    """Counts the operators that are called, without views."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        is_view = any(returned.alias_info and not returned.alias_info.is_write for returned in function._schema.returns)
        self.count += not is_view and function not in (
            torch.ops.aten.detach.default,
            torch.ops.aten._unsafe_view.default,
        )
        return function(*arguments, **(keywords or {}))


def calls(model):
    batch, labels = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    model.zero_grad()
    model(batch)  # the layout is made once
    with Calls() as counted:
        torch.nn.functional.cross_entropy(model(batch), labels).backward()
    return counted.count


@pytest.mark.parametrize(("plain", "farkas"), [("resnet34", "farkasnet34"), ("resnet50", "farkasnet50")])
def test_a_step_takes_three_calls_a_block_more_than_a_plain_one_and_a_constant(plain, farkas):
    torch.manual_seed(0)
    model = create_model(farkas)
    blocks = sum(isinstance(module, ResidualBlock) for module in model.modules())
    fused.swap(model, CPU)
    by_layer = calls(model)
    augment_together(model)
    together, least = calls(model), calls(create_model(plain))
    assert together <= least + 3 * blocks + 30
    assert together < by_layer / 1.5


def test_it_is_for_gpus():
    model = accelerate(create_model("farkasnet18", blocks=(1,), widths=(8,)), CPU)
    assert "whole_network" not in in_use(model)
    model = accelerate(create_model("farkasnet18", blocks=(1,), widths=(8,)), torch.device("cuda"))
    assert "whole_network" in in_use(model)
