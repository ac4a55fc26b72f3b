"""FixUp, the networks of linear layers, and the ImageNet networks."""

import itertools

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from farkas_exp.kernels import accelerate
from farkas_exp.layers.farkas import FarkasLayer
from farkas_exp.layers.residual import ResidualBlock
from farkas_exp.models.create import SCALAR_MODULES, WEIGHT_MODULES, create_model
from farkas_exp.models.fixup import FixupBlock
from farkas_exp.models.imagenet import Projection
from farkas_exp.registry import NETWORKS, NORMALIZATIONS
from tests.networks import build, dead_points, images, parameters, pretended_gpu

# FixUp


def test_fixup34_has_its_parameters_and_starts_with_zero_logits():
    model = build("fixup34")
    weights = 3 * 16 * 9 + 10 * 16 * 16 * 9 + (16 + 9 * 32) * 32 * 9 + (32 + 9 * 64) * 64 * 9
    assert parameters(model) == weights + 64 * 10 + 10 + 15 * 5 + 2 == 461_959
    scalars = [m for m in model.modules() if isinstance(m, SCALAR_MODULES)]
    assert [tuple(p.shape) for m in scalars for p in m.parameters()] == [(1,)] * (15 * 5 + 2)
    assert torch.equal(model(images(2, 3, 32, 32)), torch.zeros(2, 10))


@torch.no_grad()
def test_fixups_initialization():
    model = build("fixup34", 3)
    assert float(model.stem.weight.abs().max()) <= 27**-0.5
    assert float(model.stem.weight.std()) == pytest.approx((27 * 3) ** -0.5, rel=0.1)
    for block in model.blocks:
        expected = (2 / (block.conv1.out_channels * 9)) ** 0.5 * 15**-0.5
        assert float(block.conv1.weight.std()) == pytest.approx(expected, rel=0.08)
        assert float(block.conv1.weight.abs().max()) > 2.5 * expected, "normal, not uniform"
        assert not block.conv2.weight.any()
        assert [float(getattr(block, name).bias) for name in ("bias1a", "bias1b", "bias2a", "bias2b")] == [0.0] * 4
        assert float(block.scale.scale) == 1.0
    assert not any(p.any() for p in model.classifier.parameters())


def scatter(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def test_fixup_equals_its_formula():
    model = scatter(build("fixup34", blocks=[1, 2], widths=[4, 7]).double())
    batch = images(2, 3, 9, 9, dtype=torch.float64)
    x = F.relu(F.conv2d(batch, model.stem.weight, padding=1) + model.stem_bias.bias)
    for block, stride in zip(model.blocks, (1, 2, 1), strict=True):
        b1a, b1b, b2a, b2b = (getattr(block, f"bias{which}").bias for which in ("1a", "1b", "2a", "2b"))
        hidden = F.relu(F.conv2d(x + b1a, block.conv1.weight, stride=stride, padding=1) + b1b)
        branch = F.conv2d(hidden + b2a, block.conv2.weight, padding=1) * block.scale.scale + b2b
        shortcut = x
        if stride == 2:
            shortcut = (x + b1a)[:, :, ::2, ::2]
            shortcut = torch.cat((shortcut, torch.zeros_like(branch[:, 4:])), 1)
        x = F.relu(shortcut + branch)
    expected = F.linear(x.mean((2, 3)) + model.classifier_bias.bias, model.classifier.weight, model.classifier.bias)
    torch.testing.assert_close(model(batch), expected, rtol=0, atol=1e-11)
    assert sum(isinstance(m, FixupBlock) for m in model.modules()) == 3


# Linear layers


@pytest.mark.parametrize("position", ["none", "after", "before"])
def test_an_mlp_equals_its_formula(position):
    options = {"depth": 3, "width": 5, "in_channels": 2, "image_size": 4}
    batch_norm = {"name": "batch", "position": position}
    model = build("mlp", 0, normalization="none" if position == "none" else batch_norm, **options).double()
    batch = images(6, 2, 4, 4, dtype=torch.float64)
    x = batch.reshape(6, 32)
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    for layer in linears[:-1]:
        x = x @ layer.weight.T + layer.bias
        norm = (lambda v: v) if position == "none" else (lambda v: F.batch_norm(v, None, None, training=True))
        x = norm(x.relu()) if position == "after" else norm(x).relu()
    expected = x @ linears[-1].weight.T + linears[-1].bias
    assert len(linears) == 4
    torch.testing.assert_close(model(batch), expected, rtol=0, atol=1e-12)


def test_mlp_defaults_and_a_plain_classifier():
    inputs = 3 * 32 * 32
    assert parameters(create_model("mlp")) == (inputs + 1) * 16 + 9 * 17 * 16 + 17 * 10
    farkas = create_model("farkas_mlp")
    assert parameters(farkas) == (inputs * 15 + 16) + 9 * (16 * 15 + 16) + 17 * 10
    assert sum(isinstance(m, FarkasLayer) for m in farkas.modules()) == 10
    assert type(farkas.classifier) is nn.Linear


@pytest.mark.parametrize("normalization", ["none", "batch", "layer", "group"])
def test_deep_narrow_linear_layers_die_without_farkas_and_not_with_it(normalization):
    shape = {"depth": 30, "width": 4, "in_channels": 2, "image_size": 1, "normalization": normalization}
    plain, farkas = [], []
    for seed in range(10):
        batch = images(64, 2, 1, 1, seed=seed)
        plain.append(max(dead_points(build("mlp", seed, **shape), batch)))
        # A hair of margin: without normalization a signal can fade to where rounding decides.
        farkas.append(max(dead_points(build("farkas_mlp", seed, aggregation={"margin": 1e-4}, **shape), batch)))
    assert sum(worst > 0 for worst in plain) >= 6
    assert farkas == [0.0] * 10


# ImageNet


@pytest.mark.parametrize("layers", [50, 101, 152])
def test_the_plain_imagenet_networks_have_torchvisions_parameters_by_name_and_shape(layers):
    with torch.device("meta"):
        ours = create_model(f"resnet{layers}_imagenet", 1000, normalization="batch", image_size=224)
        theirs = torchvision.models.get_model(f"resnet{layers}")
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert parameters(ours) == parameters(theirs)


def test_resnet50_equals_torchvisions_for_equal_weights():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50()
    ours = create_model("resnet50_imagenet", 1000, normalization="batch", image_size=64)
    for parameter in (p for p in theirs.parameters() if p.dim() == 1):
        nn.init.uniform_(parameter, 0.5, 1.0)  # scales and shifts that are not 1 and 0
    ours.load_state_dict(theirs.state_dict())
    batch = images(2, 3, 64, 64)
    torch.testing.assert_close(ours(batch), theirs(batch), rtol=1e-4, atol=1e-4)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(batch), theirs(batch), rtol=1e-4, atol=1e-4)


SMALL = {"blocks": [1, 2], "widths": [16, 32], "image_size": 32}


@pytest.mark.parametrize(
    ("normalization", "position"),
    [("none", None), *itertools.product(["batch", "layer", "group", "instance"], [None, "after"])],
)
def test_a_convolution_has_a_bias_where_no_normalization_follows_it(normalization, position):
    model = build("resnet50_imagenet", normalization={"name": normalization, "position": position}, **SMALL)
    with_bias = {m.bias is not None for m in model.modules() if isinstance(m, nn.Conv2d)}
    assert with_bias == {normalization == "none" or position == "after"}
    assert model(images(2, 3, 32, 32)).shape == (2, 10)
    norms = [m for m in model.modules() if not isinstance(m, WEIGHT_MODULES) and list(m.parameters(recurse=False))]
    assert len(norms) == (0 if normalization == "none" else 1 + 3 * 3 + (2 if position is None else 0))


def test_the_plain_imagenet_network_after_the_activation_equals_its_formula():
    model = build("resnet50_imagenet", normalization={"name": "batch", "position": "after", "affine": False}, **SMALL)
    model = model.double()
    batch = images(2, 3, 32, 32, dtype=torch.float64)

    def norm(x):
        return F.batch_norm(x, None, None, training=True)

    def conv(x, layer, stride, padding):
        return F.conv2d(x, layer.weight, layer.bias, stride, padding)

    x = F.max_pool2d(norm(conv(batch, model.conv1, 2, 3).relu()), 3, 2, 1)
    strides = iter((1, 2, 1))
    for block in (*model.layer1, *model.layer2):
        stride = next(strides)
        hidden = norm(conv(x, block.conv1, 1, 0).relu())
        hidden = norm(conv(hidden, block.conv2, stride, 1).relu())
        if isinstance(block.downsample, nn.Sequential):
            x = conv(x, block.downsample[0], stride, 0)
        x = norm((conv(hidden, block.conv3, 1, 0) + x).relu())
    expected = F.linear(x.mean((2, 3)), model.fc.weight, model.fc.bias)
    torch.testing.assert_close(model(batch), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("layers", "blocks"), [(50, [3, 4, 6, 3]), (101, [3, 4, 23, 3]), (152, [3, 8, 36, 3])])
def test_the_farkas_imagenet_networks_count_as_worked_out_by_hand(layers, blocks):
    with torch.device("meta"):
        model = create_model(f"farkasnet{layers}_imagenet", 1000, normalization="batch", image_size=224)
    expected = farkas(3 * 49, 64) + farkas(64, 256)
    channels = None
    for count, width in zip(blocks, (256, 512, 1024, 2048), strict=True):
        expected += 0 if channels is None else farkas(channels, width)
        for c in range(width, width + count):
            inner = c // 4
            expected += farkas(c, inner) + farkas(9 * inner, inner)
            expected += inner * c + (c + 1) + 2 * (c + 1)
        channels = width + count
    assert parameters(model) == expected + (channels + 1) * 1000


def farkas(fan_in: int, outputs: int) -> int:
    """A Farkas layer with m - 1 free rows and m biases, and an affine batch norm over m."""
    return fan_in * (outputs - 1) + outputs + 2 * outputs


@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_the_farkas_imagenet_network_halves_five_times_and_has_no_dead_point(normalization):
    for seed in range(3):
        model = build(
            "farkasnet50_imagenet", seed, blocks=[1, 1, 1, 2], widths=[16, 20, 24, 28], image_size=64,
            normalization=normalization,
        )  # fmt: skip
        batch = images(2, 3, 64, 64, seed=seed)
        assert max(dead_points(model, batch)) == 0.0
        assert model.stem(batch).shape == (2, 16, 16, 16)
        assert model.stages(model.stem(batch)).shape == (2, 30, 2, 2)


def test_the_farkas_imagenet_norm_is_affine_and_after_the_activation_unless_asked():
    def norms(**options):
        model = create_model("farkasnet50_imagenet", normalization={"name": "batch", **options}, **SMALL)
        return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)], model

    found, model = norms()
    assert {m.affine for m in found} == {True}
    assert model.stem[0].norm_after
    assert {m.affine for m in norms(affine=False)[0]} == {False}
    assert not norms(position="before")[1].stem[0].norm_after


@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_the_farkas_network_with_strided_projections_has_no_dead_point(normalization):
    for seed in range(3):
        model = build(
            "farkasnet50_imagenet", seed, blocks=[2, 1, 2], widths=[16, 20, 24], image_size=64,
            normalization=normalization, downsample="conv",
        )  # fmt: skip
        batch = images(2, 3, 64, 64, seed=seed)
        assert max(dead_points(model, batch)) == 0.0
        assert sum(isinstance(m, FarkasLayer) for m in model.modules()) == 1 + 3 * 5
        projections = [m for m in model.modules() if isinstance(m, Projection)]
        assert [(m.in_channels, m.out_channels, m.stride) for m in projections] == [
            (4, 16, (1, 1)), (18, 20, (2, 2)), (21, 24, (2, 2)),
        ]  # fmt: skip
        assert model.fc.in_features == 26


def test_the_plain_network_can_halve_its_images_as_the_farkas_network_does():
    pooled = build("resnet50_imagenet", normalization="batch", downsample="pool", **SMALL)
    farkas_net = build("farkasnet50_imagenet", normalization="batch", **SMALL)
    kinds = [[type(m).__name__.removeprefix("Farkas") for m in net.modules()] for net in (pooled, farkas_net)]
    assert kinds[0] == kinds[1], "the same modules in the same places"
    assert not pooled.stem[0].norm_after
    assert farkas_net.stem[0].norm_after
    default = build("resnet50_imagenet", normalization="batch", **SMALL)
    assert (
        default.state_dict().keys()
        == build("resnet50_imagenet", normalization="batch", downsample="conv", **SMALL).state_dict().keys()
    )


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("inputs", [2, 15, 16])
def test_a_thin_projection_equals_the_strided_convolution(inputs, size):
    thin = Projection(inputs, 3, 1, 2, dtype=torch.float64)
    images = torch.randn(2, inputs, size, size, dtype=torch.float64, requires_grad=True)
    ours, expected = thin(images), F.conv2d(images, thin.weight, thin.bias, 2)
    torch.testing.assert_close(ours, expected)
    wanted = (images, thin.weight, thin.bias)
    for mine, theirs in zip(*(torch.autograd.grad(z.pow(2).sum(), wanted) for z in (ours, expected)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_every_residual_block_names_the_end_of_its_branch():
    for name in ("resnet18", "farkasnet50", "fixup34", "resnet50_imagenet", "farkasnet50_imagenet"):
        model = build(name, normalization="none", image_size=32)
        blocks = [m for m in model.modules() if isinstance(m, ResidualBlock)]
        assert blocks
        for block in blocks:
            layer, norm = block.branch_end()
            assert any(layer is m for m in block.modules())
            assert norm is None or isinstance(norm, nn.Identity)


EVERY_NORMALIZATION = ("resnet34", "farkasnet18", "farkasnet50", "farkasnet50_imagenet", "densenet40", "vit",
                       "farkas_mlp", "farkas_rect_conv", "allconv_residual")  # fmt: skip
"""Networks of each kind of block; the others of a kind differ in their sizes."""
PRETENDED = [
    pytest.param(name, normalization, marks=[] if quick else pytest.mark.slow)
    for name in sorted(NETWORKS)
    for normalization in sorted(NORMALIZATIONS)
    if (normalization == "none" or NETWORKS[name].positions)
    and (NETWORKS[name].spatial or not NORMALIZATIONS[normalization].maps_only)
    for quick in [name in EVERY_NORMALIZATION or normalization == "none"]
]


@pytest.mark.parametrize(("name", "normalization"), PRETENDED)
def test_every_network_runs_forward_on_a_pretended_gpu(name, normalization):
    """Every tensor is on the device: the mistake of mixed devices shows without a GPU, in the kernels as well."""
    own = {"blocks": (1, 1), "widths": (8, 12), "depth": 2, "width": 8}
    options = {key: own[key] for key in own if key in NETWORKS[name].options}
    with pretended_gpu(), torch.device("cuda"):
        model = create_model(name, image_size=32, normalization=normalization, **options)
        accelerate(model, torch.device("cuda"))
        logits = model(torch.rand(4, 3, 32, 32))
    assert logits.device.type == "cuda"
    assert logits.shape == (4, 10)
