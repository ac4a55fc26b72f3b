"""The vision transformer against PyTorch's own encoder, and what its Farkas layers guarantee for tokens."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from farkas_exp.conversion.network import LAYER, convert
from farkas_exp.initialization.apply import initialize
from farkas_exp.layers.certificate import certify
from farkas_exp.layers.farkas import FarkasLayer
from farkas_exp.layers.paths import plain_path
from farkas_exp.layers.watching import watch_pre_activations
from farkas_exp.machine.errors import UserError
from farkas_exp.measures.activity import dead_samples, measure_activity
from farkas_exp.measures.hessian import hessian_extremes, loss_and_gradient_norm
from farkas_exp.models.vit import MLPBlock, attention
from tests.networks import build, normal

SMALL = {"in_channels": 2, "image_size": 8, "width": 12, "depth": 2, "heads": 3, "patch": 4, "expansion": 2}
TOKENS = 4


def vit(name="vit", **options):
    net = build(name, **SMALL | options).double()
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):  # gains, shifts and places that are seen
            parameter.add_(0.1 * normal(parameter.numel(), seed=number).view_as(parameter))
    return net


def reference(net, normalized=True):
    """PyTorch's encoder with the weights of `net`: its blocks, normalizations and activations."""
    layer = nn.TransformerEncoderLayer(12, 3, 24, dropout=0.0, activation="relu", batch_first=True, norm_first=True)
    last = nn.LayerNorm(12) if normalized else None
    encoder = nn.TransformerEncoder(layer, 2, last, enable_nested_tensor=False).double()
    own = net.state_dict()
    places = {
        "self_attn.in_proj_": (0, "inputs."), "self_attn.out_proj.": (0, "output."), "norm1.": (0, "norm."),
        "linear1.": (1, "layer."), "linear2.": (1, "output."), "norm2.": (1, "norm."),
    }  # fmt: skip
    weights = {f"norm.{kind}": own[f"norm.{kind}"] for kind in ("weight", "bias")} if normalized else {}
    for number in range(2):
        for theirs, (half, ours) in places.items():
            for kind in ("weight", "bias"):
                if normalized or not theirs.startswith("norm"):
                    weights[f"layers.{number}.{theirs}{kind}"] = own[f"blocks.{2 * number + half}.{ours}{kind}"]
    if not normalized:
        for layer in encoder.layers:
            layer.norm1 = layer.norm2 = nn.Identity()
    encoder.load_state_dict(weights)
    return encoder.train()  # in evaluation PyTorch has a path of its own, for LayerNorm alone


def by_hand(net, images, normalized=True):
    kernel = net.embedding.weight.view(12, 2, 4, 4)  # the patches are what a convolution of stride 4 sees
    tokens = F.conv2d(images, kernel, net.embedding.bias, stride=4).flatten(2).transpose(1, 2) + net.places
    return net.classifier(reference(net, normalized)(tokens).mean(1))


@pytest.mark.parametrize("normalization", ["layer", "none"])
def test_it_is_pytorchs_encoder(normalization):
    net, images = vit(normalization=normalization), normal(3, 2, 8, 8)
    expected = by_hand(net, images, normalization == "layer")
    torch.testing.assert_close(net(images), expected)
    with plain_path():
        torch.testing.assert_close(net(images), expected)


@pytest.mark.parametrize("name", ["rms", "dyt"])
def test_other_normalizations_are_token_by_token(name):
    net, tokens = vit(normalization=name), normal(7, 12)
    norm = net.blocks[0].norm
    together = norm(tokens)
    torch.testing.assert_close(together, torch.cat([norm(token[None]) for token in tokens]))
    if name == "rms":
        torch.testing.assert_close(together, F.rms_norm(tokens, (12,), norm.weight, eps=1e-5))


def test_attention_and_its_plain_form_have_pytorchs_values_and_gradients():
    parts = [normal(2, 3, 5, 4, seed=seed).requires_grad_() for seed in range(3)]
    given = normal(2, 3, 5, 4, seed=3)
    expected = F.scaled_dot_product_attention(*parts)
    with plain_path():
        plain = attention(*parts)
    torch.testing.assert_close(plain, expected)
    for own, theirs in zip(*(torch.autograd.grad(each, parts, given) for each in (plain, expected)), strict=True):
        torch.testing.assert_close(own, theirs)


@pytest.mark.parametrize("normalization", ["none", "layer", "rms", "dyt"])
def test_the_farkas_twin_is_the_plain_network_of_its_augmented_weights(normalization):
    farkas, plain = vit("farkas_vit", normalization=normalization), vit(normalization=normalization)
    weights = farkas.state_dict()
    for place, module in farkas.named_modules():
        if isinstance(module, FarkasLayer):
            weights[f"{place}.weight"], weights[f"{place}.bias"] = module.augmented()
    plain.load_state_dict(weights)
    images = normal(3, 2, 8, 8)
    torch.testing.assert_close(farkas(images), plain(images))


@torch.no_grad()
def worst(net, steps=50):
    """The certificate of each layer on tokens that were moved to where its largest pre-activation is small."""
    found = []
    for layer in (module for module in net.modules() if isinstance(module, FarkasLayer)):
        with torch.enable_grad():
            tokens = (20 * normal(64, 12)).requires_grad_()
            for _ in range(steps):
                (slope,) = torch.autograd.grad(layer(tokens).amax(-1).sum(), tokens)
                tokens = (tokens - 0.5 * slope).detach().requires_grad_()
        found.append(certify(layer, tokens))
    return found


@pytest.mark.parametrize("aggregation", ["sum", "mean"])
@pytest.mark.parametrize("normalization", ["none", "layer", "rms", "dyt"])
def test_every_token_has_an_active_unit_whatever_attention_gives_it(normalization, aggregation):
    net = vit("farkas_vit", normalization=normalization, aggregation={"name": aggregation, "margin": 0.05})
    for image in (normal(16, 2, 8, 8), torch.zeros(1, 2, 8, 8).double(), -50 * normal(16, 2, 8, 8).abs()):
        every = certify(net, image)
        assert len(every) == 2
        assert every.strict
        assert every.active
        with watch_pre_activations(net) as seen:
            net(image)
        assert all(z.shape == (TOKENS * len(image), 24) for _, z in seen)  # each token is a point
        assert all((z.amax(1) >= each.lambda_b - 1e-9).all() for (_, z), each in zip(seen, every.values(), strict=True))
    assert all(each.margin >= each.lambda_b > 0 for each in worst(net))


def test_a_plain_network_and_a_shift_behind_the_layer_have_dead_tokens():
    images = normal(16, 2, 8, 8)
    plain, net = vit(normalization="layer"), vit("farkas_vit", normalization="layer", aggregation={"margin": 0.05})
    with torch.no_grad():
        for module in plain.modules():
            if isinstance(module, MLPBlock):
                module.layer.bias -= 3
    assert max(layer.dead_points for layer in measure_activity(plain, images)) > 0.5
    shift = -max(layer.margin for layer in measure_activity(net, images)) - 0.1
    for module in net.modules():
        if isinstance(module, FarkasLayer):
            module.register_forward_hook(lambda layer, inputs, output: output + shift)
    assert max(layer.dead_points for layer in measure_activity(net, images)) > 0


def test_gelu_has_no_slope_at_some_units_above_the_point_below_which_it_is_flat():
    x = torch.linspace(-20, 0, 20_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(F.gelu(x).sum(), x)
    flat_below = x.detach()[(slope.abs() > 0.01).nonzero()[0, 0]]
    assert -3.5 < float(flat_below) < -2.5
    assert float(slope[x > -1].abs().min()) < 1e-3


def test_activity_counts_tokens_and_dead_samples_images():
    net, images = vit("farkas_vit", normalization="none"), normal(5, 2, 8, 8)
    (first, second) = measure_activity(net, images)
    assert (first.points, first.units, second.points) == (5 * TOKENS, 24, 5 * TOKENS)
    assert list(first.active) == ["free", "aggregated"]
    assert dead_samples(net, images) == 0
    plain = vit()
    with torch.no_grad():
        plain.blocks[1].layer.weight.zero_()
        plain.blocks[1].layer.bias.fill_(-1)
        plain.blocks[1].layer.weight[0, 0] = 1e3
    with watch_pre_activations(plain) as seen:
        plain(images)
    alive = (seen[0][1].view(5, -1) > 0).any(1)  # an image is dead if all its tokens are
    assert dead_samples(plain, images) == pytest.approx(1 - float(alive.double().mean()))


def test_a_zero_branch_and_a_multiplier_of_zero_are_the_shortcut():
    images = normal(3, 2, 8, 8)
    zero, multiplied = vit(), vit(residual_scaling={"multiplier": 0.0})
    with torch.no_grad():
        for key, parameter in multiplied.named_parameters():
            if key.endswith("multiplier"):
                parameter.zero_()
    initialize(zero, "zero_last")
    for net in (zero, multiplied):
        tokens = net.embedding(net.patches(images)) + net.places
        torch.testing.assert_close(net(images), net.classifier(tokens.mean(1)))
    assert sum(key.endswith("multiplier") for key, _ in multiplied.named_parameters()) == 4  # one a branch


def test_convert_makes_the_twin_of_the_plain_network():
    plain = vit(normalization="layer")
    done = convert(plain)
    assert [place.form for place in done.places] == [LAYER, LAYER]
    twin = vit("farkas_vit", normalization="layer")
    twin.load_state_dict(done.network.state_dict())
    images = normal(3, 2, 8, 8)
    torch.testing.assert_close(done.network(images), twin(images))


def test_second_derivatives_are_there():
    net, images, labels = vit("farkas_vit", normalization="layer"), normal(3, 2, 8, 8), torch.tensor([0, 1, 2])
    smallest, largest = hessian_extremes(net, images, labels, steps=5)
    assert smallest < 0 < largest
    assert loss_and_gradient_norm(net, images, labels)[1] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 3}, "model.patch: 3 does not divide the 8 pixels"),
        ({"heads": 5}, "model.heads: 5 do not share the width 12 evenly"),
        ({"normalization": "instance"}, "normalization.name: instance needs images"),
        ({"normalization": {"name": "layer", "position": "before"}}, "normalization.position: unknown 'before'"),
        ({"activation": "tailored"}, "activation.name: tailored is for networks of plain layers without shortcuts"),
        (
            {"aggregation": "mean", "width": 1, "heads": 1, "expansion": 1, "name": "farkas_vit"},
            "model.width: 1 is too",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(options, message):
    with pytest.raises(UserError, match=message):
        vit(options.get("name", "vit"), **{key: value for key, value in options.items() if key != "name"})


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning")
def test_it_is_exported_for_any_number_of_images():
    net, images = vit("farkas_vit", normalization="layer").eval(), normal(3, 2, 8, 8)
    with torch.no_grad():
        script = torch.jit.trace(net, images[:2])
        torch.testing.assert_close(script(images), net(images))
        shapes = ({0: torch.export.Dim("images", min=1)},)
        program = torch.export.export(net, (images[:2],), dynamic_shapes=shapes).module()
        torch.testing.assert_close(program(images), net(images))
