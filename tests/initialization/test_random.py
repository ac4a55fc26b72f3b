import math

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.prune import l1_unstructured

from farkas_exp.initialization.apply import initialize
from farkas_exp.initialization.matched import feature_variance
from farkas_exp.initialization.random import weight_layers
from farkas_exp.layers.farkas import FarkasLayer
from farkas_exp.layers.residual import ResidualBlock
from farkas_exp.machine.errors import UserError
from farkas_exp.models.create import create_model
from farkas_exp.registry import INITIALIZATIONS

OPTIONS = {"bias_shift": {"bias": 1.0}, "bias_uniform": {"bias": 1.0}}
SEEDLESS = ("pytorch", "zero_last", "match_farkas", "zero", "bias_shift")
NOT_FOR_RESNETS = ("local_minimum", "minus_identity")
SMALL = {"blocks": (2, 2), "widths": (16, 32)}


def network(name="farkasnet34", seed=0, **options):
    torch.manual_seed(seed)
    return create_model(name, 10, **{**SMALL, **options})


def images(n=32, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("model", ["resnet34", "farkasnet34", "farkasnet50"])
@pytest.mark.parametrize("name", sorted(set(INITIALIZATIONS) - set(NOT_FOR_RESNETS)))
def test_every_init_is_a_function_of_its_seed_and_leaves_the_global_generator_alone(model, name):
    first, second, other = (network(model, aggregation={"margin": 0.1}) for _ in range(3))
    twin = network()
    state = torch.get_rng_state()
    for net, seed in ((first, 1), (second, 1), (other, 2)):
        initialize(net, name, images=images(), twin=twin, seed=seed, **OPTIONS.get(name, {}))
    assert torch.equal(state, torch.get_rng_state())
    pairs = zip(first.parameters(), second.parameters(), other.parameters(), strict=True)
    same = [(torch.equal(a, b), torch.equal(a, c)) for a, b, c in pairs]
    assert all(equal for equal, _ in same)
    assert all(equal for _, equal in same) == (name in SEEDLESS)


def test_pytorch_leaves_the_builders_weights():
    before, after = network(), network()
    initialize(after, "pytorch", seed=3)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


@pytest.mark.parametrize("model", ["resnet34", "farkasnet34"])
def test_zero_last_makes_every_block_its_shortcut(model):
    net = network(model)
    initialize(net, "zero_last")
    for block in net.modules():
        if isinstance(block, ResidualBlock):
            layer, _ = block.branch_end()
            shortcut = torch.rand(2, layer.weight.shape[0], 4, 4)
            output = block(shortcut)
            torch.testing.assert_close(output[:, : shortcut.shape[1]], shortcut)
            assert output[:, shortcut.shape[1] :].abs().sum() == 0


def spread(net):
    """Standard deviation of every weight times sqrt(fan_in), and the largest absolute bias."""
    layers = list(weight_layers(net))
    stds = [
        float(layer.weight.detach().std()) * math.sqrt(layer.weight[0].numel())
        for layer in layers
        if layer.weight.numel() > 2000
    ]
    return stds, max(float(layer.bias.detach().abs().max()) for layer in layers)


@pytest.mark.parametrize("model", ["resnet34", "farkasnet34"])
def test_kaiming_has_variance_two_over_fan_in_and_a_gain(model):
    net = network(model)
    initialize(net, "kaiming", seed=1)
    stds, bias = spread(net)
    assert stds == pytest.approx([math.sqrt(2)] * len(stds), rel=0.1)
    assert bias == 0
    initialize(net, "kaiming", gain=0.5, seed=1)
    assert spread(net)[0] == pytest.approx([std * 0.5 / math.sqrt(2) for std in stds], rel=1e-4)


def test_xavier_is_uniform_with_glorots_bound():
    net = network("mlp", blocks=None, widths=None, depth=2, width=100)
    initialize(net, "xavier", seed=1)
    layer = list(weight_layers(net))[1]
    bound = math.sqrt(6 / 200)
    assert float(layer.weight.detach().abs().max()) == pytest.approx(bound, rel=0.01)
    assert float(layer.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_the_gain_of_xavier_scales_its_bound():
    nets = [create_model("resnet18", blocks=(1, 1), widths=(4, 8)) for _ in range(2)]
    initialize(nets[0], "xavier", seed=1)
    initialize(nets[1], "xavier", gain=2.0, seed=1)
    plain, scaled = (next(iter(weight_layers(net))).weight for net in nets)
    torch.testing.assert_close(scaled, 2 * plain)


def test_orthogonal_rows_are_orthogonal_with_the_gain_of_relu():
    net = network()
    initialize(net, "orthogonal", seed=1)
    for layer in weight_layers(net):
        matrix = layer.weight.detach().flatten(1).double()
        rows, columns = matrix.shape
        gram = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
        torch.testing.assert_close(gram, 2 * torch.eye(len(gram), dtype=torch.float64), atol=1e-4, rtol=1e-4)


def test_rai_gives_every_row_one_beta_entry_and_small_normal_ones():
    net = create_model("farkas_mlp", 10, depth=2, width=400)
    initialize(net, "rai", seed=1)
    layer = list(weight_layers(net))[1]
    assert isinstance(layer, FarkasLayer)
    matrix = torch.cat((layer.weight, layer.bias[:-1, None]), 1).detach()
    largest = matrix.amax(1)
    scale = 0.6007 / 20
    # Beta(2, 1): mean 2/3, P(x < 1/2) = 1/4.
    assert float(largest.mean()) == pytest.approx(2 / 3, abs=0.04)
    assert float((largest < 0.5).float().mean()) == pytest.approx(0.25, abs=0.07)
    rest = matrix[matrix < 5 * scale]
    assert float(rest.std()) == pytest.approx(scale, rel=0.05)
    assert (matrix > 5 * scale).sum(1).max() <= 1
    assert abs(float(layer.bias.detach()[-1])) < 5 * scale


def test_rai_gives_every_row_its_beta_entry_where_there_is_no_bias():
    layer = nn.Conv2d(1, 200, 1, bias=False)
    initialize(layer, "rai")
    assert layer.weight.min() > 0, "a row of one entry, which is Beta(2, 1)"
    assert layer.weight.max() < 1


@pytest.mark.parametrize("model", ["resnet34", "farkasnet50"])
def test_torchvisions_draw_is_hes_by_the_fan_out_and_leaves_biases_and_classifier(model):
    before, after = network(model), network(model)
    initialize(after, "torchvision", seed=1)
    generator = torch.Generator().manual_seed(1)
    for layer in weight_layers(before):
        if layer.weight.dim() == 4:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    for (name, expected), found in zip(before.named_parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(found, expected, msg=name)


@pytest.mark.parametrize("model", ["resnet50_imagenet", "farkasnet50_imagenet"])
def test_init_bn0_ends_every_branch_on_zero_and_draws_a_small_classifier(model):
    norm = {"normalization": "batch", "blocks": (1, 1), "widths": (64, 128)}
    before, after = network(model, **norm), network(model, **norm)
    initialize(before, "torchvision", seed=1)
    initialize(after, "torchvision", seed=1, last_scale=0.0, classifier_std=0.01)
    ends = set()
    for block in after.modules():
        if isinstance(block, ResidualBlock):
            layer, norm = block.branch_end()
            ends |= set((norm or layer).parameters())
            assert (norm is None) == ("farkas" in model)
    assert ends
    *_, classifier = weight_layers(after)
    for (name, expected), found in zip(before.named_parameters(), after.named_parameters(), strict=True):
        if found[1] is classifier.weight:
            assert float(found[1].detach().std()) == pytest.approx(0.01, rel=0.1)
            assert float(found[1].detach().mean()) == pytest.approx(0.0, abs=0.001)
        else:
            torch.testing.assert_close(found[1], expected * (found[1] not in ends), msg=name)


@pytest.mark.parametrize("model", ["resnet34", "farkasnet34"])
def test_last_scale_multiplies_the_end_of_every_branch_and_nothing_else(model):
    plain, scaled = network(model), network(model)
    initialize(plain, "kaiming", seed=1)
    initialize(scaled, "kaiming", seed=1, last_scale=0.25)
    ends = {id(p) for b in scaled.modules() if isinstance(b, ResidualBlock) for p in b.branch_end()[0].parameters()}
    for (name, before), after in zip(plain.named_parameters(), scaled.parameters(), strict=True):
        factor = 0.25 if id(after) in ends else 1.0
        torch.testing.assert_close(after, factor * before, msg=name)
    assert len(ends) == 2 * sum(SMALL["blocks"])


def test_the_last_layers_can_be_scaled_by_a_power_of_the_number_of_blocks():
    by_depth, by_number = network("resnet34"), network("resnet34")
    initialize(by_depth, "kaiming", seed=1, last_scale=0.5, last_depth_exponent=-0.5)
    initialize(by_number, "kaiming", seed=1, last_scale=0.5 * sum(SMALL["blocks"]) ** -0.5)
    assert all(torch.equal(a, b) for a, b in zip(by_depth.parameters(), by_number.parameters(), strict=True))


@pytest.mark.parametrize("model", ["resnet34", "resnet50"])
def test_match_farkas_is_one_gain_that_gives_the_features_the_twins_variance(model):
    twin = network(model.replace("resnet", "farkasnet"), seed=7, blocks=(4, 4))
    before, after = network(model, blocks=(4, 4)), network(model, blocks=(4, 4))
    initialize(after, "match_farkas", images=images(), twin=twin)
    assert feature_variance(before, images()) < 0.8 * feature_variance(twin, images())
    assert feature_variance(after, images()) == pytest.approx(feature_variance(twin, images()), rel=0.011)
    *hidden, classifier = zip(weight_layers(before), weight_layers(after), strict=True)
    gains = [float((b.weight / a.weight).detach().mean()) for a, b in hidden]
    assert gains == pytest.approx([gains[0]] * len(gains), rel=1e-4)
    assert gains[0] > 1.02
    assert torch.equal(classifier[0].weight, classifier[1].weight)
    assert all(torch.equal(a.bias, b.bias) for a, b in hidden)


def test_the_variance_of_features_is_that_between_images_averaged_over_the_units():
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.Dropout(0.5), nn.Linear(2, 5))
    nn.init.eye_(net[1].weight)
    batch = torch.tensor([[[[0.0, 1.0]]], [[[2.0, 5.0]]], [[[4.0, 9.0]]]])
    assert feature_variance(net, batch) == pytest.approx((4 + 16) / 2)
    assert net.training


def test_match_farkas_looks_at_64_images():
    twin, first = network("farkasnet34", seed=7), images(64)
    found = []
    for batch in (first, torch.cat([first, 100 * images(8)])):
        net = network("resnet34")
        initialize(net, "match_farkas", images=batch, twin=twin)
        found.append(net.state_dict())
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_a_trainable_norm_before_the_sum_is_scaled_instead_of_the_layer():
    net = network("resnet34", normalization={"name": "batch", "position": "before", "affine": True})
    initialize(net, "zero_last")
    for block in net.modules():
        if isinstance(block, ResidualBlock):
            layer, norm = block.branch_end()
            assert float(norm.weight.detach().abs().sum()) == 0
            assert float(layer.weight.detach().abs().sum()) > 0


def test_a_norm_with_a_scale_and_no_bias_before_the_sum_is_scaled_too():
    net = network("resnet34", normalization={"name": "rms", "position": "before", "affine": True})
    norms = [block.branch_end()[1] for block in net.modules() if isinstance(block, ResidualBlock)]
    assert norms
    assert not any(getattr(norm, "bias", None) is not None for norm in norms)
    initialize(net, "pytorch", last_scale=0.25)
    assert all(torch.equal(norm.weight, torch.full_like(norm.weight, 0.25)) for norm in norms)


def test_a_norm_without_a_scale_before_the_sum_leaves_nothing_to_scale():
    net = network("resnet34", normalization={"name": "batch", "position": "before"})
    for change in ({"init": "zero_last"}, {"init": "pytorch", "last_scale": 0.5}):
        with pytest.raises(UserError, match="undoes any scale"):
            initialize(net, **change)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("resnet34", {"init": "lsuv"}, r"init.name: lsuv needs training images"),
        ("resnet34", {"init": "lsuv", "images": images(0)}, r"init.name: lsuv needs training images"),
        ("resnet34", {"init": "kaiming", "gain": -1.0}, r"init.gain: -1.0 is out of range"),
        ("resnet34", {"init": "pytorch", "last_scale": -1.0}, r"init.last_scale: -1.0 is out of range"),
        ("fixup34", {"init": "kaiming"}, r"init: FixUp brings its own"),
        ("mlp", {"init": "zero_last"}, r"zero_last needs a network with residual branches"),
        ("mlp", {"init": "residual_xavier"}, r"residual_xavier needs a network with residual branches"),
        ("mlp", {"init": "identity_small"}, r"identity_small needs a network with residual branches"),
        ("mlp", {"init": "pytorch", "last_scale": 0.5}, r"init.last_scale needs a network with residual branches"),
        ("mlp", {"init": "kaiming", "last_depth_exponent": -0.5}, r"init.last_depth_exponent needs a network with res"),
        ("fixup34", {"init": "pytorch", "last_depth_exponent": -0.5}, r"init: FixUp brings its own"),
        ("resnet34", {"init": "match_farkas", "images": images()}, r"match_farkas needs a plain network"),
    ],
)
def test_what_does_not_fit_is_one_line(model, arguments, message):
    options = {} if model == "mlp" else SMALL
    net = create_model(model, 10, **options)
    with pytest.raises(UserError, match=message):
        initialize(net, **arguments)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            nn.Sequential(nn.Linear(2, 2), nn.Conv1d(2, 2, 3)),
            "init: 1 is a Conv1d, and this initialization is for Linear, Conv2d",
        ),
        (nn.TransformerEncoderLayer(4, 2, 4), "init: self_attn is a MultiheadAttention, and this initialization is"),
        (nn.Sequential(nn.BatchNorm2d(3)), "init: the network has no Linear, Conv2d or Farkas layer to initialize"),
        (nn.Sequential(weight_norm(nn.Linear(2, 2))), "init: 0 computes its weight or bias from other parameters"),
        (l1_unstructured(nn.Linear(2, 2), "bias", 1), "init: the layer computes its weight or bias from other param"),
    ],
)
def test_what_an_initialization_would_leave_or_what_would_undo_it_is_refused(net, message):
    with pytest.raises(UserError, match=message):
        initialize(net, "kaiming")
    initialize(net, "pytorch")


def test_the_farkas_guarantee_holds_after_every_init():
    for name in sorted(set(INITIALIZATIONS) - set(NOT_FOR_RESNETS)):
        net, twin = network(aggregation={"margin": 0.1}), network("farkasnet34", seed=1)
        initialize(net, name, images=images(), twin=twin, seed=1, **OPTIONS.get(name, {}))
        for layer in net.modules():
            if isinstance(layer, FarkasLayer) and not hasattr(layer, "branch"):
                with torch.no_grad():
                    output = layer(torch.randn(4, layer.weight.shape[1], 5, 5))
                assert float(output.amax(1).min()) >= -1e-6, name
    assert isinstance(net, nn.Module)
