"""The CIFAR networks: sizes, structure against the text of the algorithms, and the guarantee in a whole network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from farkas_exp.layers.activation import Activation
from farkas_exp.layers.certificate import certify
from farkas_exp.layers.farkas import FarkasLayer
from farkas_exp.layers.paths import plain_path
from farkas_exp.layers.residual import FarkasResidualConv2d, ResidualConv2d
from farkas_exp.measures.activity import measure_activity
from farkas_exp.models.create import create_model
from farkas_exp.models.resnet import BasicBlock, Bottleneck, Transition
from farkas_exp.registry import NETWORKS
from tests.layers.made_layers import appended
from tests.networks import build, dead_points, images, parameters

AGG = {"sum": torch.sum, "mean": torch.mean}


# Sizes


@pytest.mark.parametrize("normalization", ["none", "batch"])
@pytest.mark.parametrize(
    ("name", "variant", "count"),
    [
        ("resnet18", None, 797_034),
        ("farkasnet18", "authors", 304_255),
        ("resnet34", None, 488_714),
        ("farkasnet34", None, 525_864),
        ("resnet50", None, 1_521_578),
        ("farkasnet50", None, 1_519_862),
        ("resnet101", None, 2_711_850),
        ("farkasnet101", None, 2_826_408),
    ],
)
def test_the_eight_parameter_counts(name, variant, count, normalization):
    assert parameters(create_model(name, 10, normalization=normalization, variant=variant)) == count


@pytest.mark.parametrize(
    ("name", "variant", "millions"),
    [
        ("resnet18", None, 39.76), ("farkasnet18", "authors", 46.46), ("resnet34", None, 72.27),
        ("farkasnet34", None, 82.09), ("resnet50", None, 98.24), ("farkasnet50", None, 98.02),
        ("resnet101", None, 174.0), ("farkasnet101", None, 181.2),
    ],
)  # fmt: skip
def test_multiply_adds_of_an_image(name, variant, millions):
    """Of the free weight rows: the aggregated one is a sum, not a product (the specification's count)."""
    model, total = create_model(name, variant=variant).eval(), 0

    def count(layer, inputs, output):
        nonlocal total
        positions = output[0, 0].numel() if output.dim() == 4 else 1
        total += layer.weight.numel() * positions

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear, FarkasLayer)):
            layer.register_forward_hook(count)
    with torch.no_grad(), plain_path():
        model(images(1, 3, 32, 32))
    assert total / 1e6 == pytest.approx(millions, rel=1e-3)


def test_both_18_layer_networks_have_the_same_blocks_by_default():
    blocks = [sum(isinstance(m, BasicBlock) for m in create_model(n).modules()) for n in ("resnet18", "farkasnet18")]
    assert blocks == [8, 8]
    authors = create_model("farkasnet18", variant="authors")
    assert sum(isinstance(m, BasicBlock) for m in authors.modules()) == 9


def test_a_farkas_stage_grows_by_one_channel_a_block():
    model = create_model("farkasnet34")
    shapes = []
    for module in model.modules():
        if isinstance(module, BasicBlock):
            module.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape[1:])))
    model(images(1, 3, 32, 32))
    assert shapes == [(width + j, size, size) for width, size in ((16, 32), (32, 16), (64, 8)) for j in range(5)]
    assert model.classifier.in_features == 69
    assert not isinstance(model.classifier, FarkasLayer)


# Structure


def algorithm1(x, layer, aggregate):
    """Algorithm 1 as printed, with a convolution that keeps the size."""
    return F.relu(appended(F.conv2d(x, layer.weight, padding=layer.weight.shape[-1] // 2), layer.bias, aggregate))


def algorithm2_end(x, hidden, layer, aggregate):
    """Algorithm 2 as printed, after its first line."""
    y = x + F.conv2d(hidden, layer.weight, padding=layer.weight.shape[-1] // 2)
    return F.relu(appended(y, layer.bias, aggregate))


def batch_norm(x):
    return F.batch_norm(x, None, None, training=True)


@pytest.mark.parametrize("normalization", ["none", "batch"])
@pytest.mark.parametrize("aggregation", AGG)
@pytest.mark.parametrize(("name", "widths"), [("farkasnet18", (4, 6)), ("farkasnet50", (8, 12))])
def test_a_farkasnet_equals_its_literal_transcription(name, widths, aggregation, normalization):
    model = build(
        name, 1, blocks=[2, 1], widths=widths, image_size=8, aggregation=aggregation, normalization=normalization
    ).double()
    agg = AGG[aggregation]
    norm = batch_norm if normalization == "batch" else lambda x: x
    batch = images(3, 3, 8, 8, dtype=torch.float64)

    x = norm(algorithm1(batch, model.stem.layer, agg))
    for module in (m for stage in model.stages for m in stage):
        if isinstance(module, Transition):
            x = F.avg_pool2d(norm(algorithm1(x, module.project.layer, agg)), 2)
        elif isinstance(module, BasicBlock):
            hidden = norm(algorithm1(x, module.first.layer, agg))
            x = norm(algorithm2_end(x, hidden, module.last.layer, agg))
        else:
            assert isinstance(module, Bottleneck)
            hidden = norm(algorithm1(x, module.down.layer, agg))
            hidden = norm(algorithm1(hidden, module.middle.layer, agg))
            x = norm(algorithm2_end(x, hidden, module.last.layer, agg))
    expected = F.linear(x.mean((2, 3)), model.classifier.weight, model.classifier.bias)

    out = model(batch)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-11)
    with plain_path():
        torch.testing.assert_close(model(batch), expected, rtol=0, atol=1e-11)
    cotangent = images(*out.shape, seed=3, dtype=torch.float64)
    ours = torch.autograd.grad(out, list(model.parameters()), cotangent)
    literal = torch.autograd.grad(expected, list(model.parameters()), cotangent)
    for mine, theirs in zip(ours, literal, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


def plain(x, conv):
    return F.conv2d(x, conv.weight, conv.bias, padding=conv.weight.shape[-1] // 2)


@pytest.mark.parametrize("position", [None, "before"])
def test_a_resnet_normalizes_after_the_activation_by_default_and_before_it_if_asked(position):
    model = build(
        "resnet34", 1, blocks=[1, 2], widths=[4, 6], image_size=8, normalization={"name": "batch", "position": position}
    ).double()
    batch = images(3, 3, 8, 8, dtype=torch.float64)

    def unit(x, conv):
        return batch_norm(F.relu(plain(x, conv))) if position is None else F.relu(batch_norm(plain(x, conv)))

    x = unit(batch, model.stem.layer)
    for module in (m for stage in model.stages for m in stage):
        if isinstance(module, Transition):
            x = F.avg_pool2d(unit(x, module.project.layer), 2)
        else:
            branch = plain(unit(x, module.first.layer), module.last.layer)
            x = batch_norm(F.relu(x + branch)) if position is None else F.relu(x + batch_norm(branch))
    expected = model.classifier(x.mean((2, 3)))
    torch.testing.assert_close(model(batch), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["farkasnet50", "farkasnet101"])
def test_the_authors_last_convolutions_are_six_times_smaller(name):
    ours, theirs = build(name, 2), build(name, 2, variant="authors")
    changed = 0
    for (key, mine), (_, authors) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        if ".last." not in key:
            assert torch.equal(authors, mine), key
            continue
        changed += 1
        weight = ours.get_submodule(key.rpartition(".")[0]).weight
        factor = (weight.shape[1] / (9 * weight.shape[0])) ** 0.5  # own fan-in c // 4, theirs 9 c
        assert factor == pytest.approx(1 / 6, rel=0.03)
        torch.testing.assert_close(authors, mine * factor)
    assert changed == 2 * sum(isinstance(m, Bottleneck) for m in ours.modules())


def test_head_bn_normalizes_the_logits():
    logits = build("resnet18", head_bn=True, blocks=[1], widths=[4])(images(32, 3, 8, 8))
    torch.testing.assert_close(logits.mean(0), torch.zeros(10), rtol=0, atol=1e-4)
    assert build("resnet18", blocks=[1], widths=[4])(images(32, 3, 8, 8)).mean(0).abs().max() > 1e-3


# The guarantee


def test_a_whole_farkasnet101_has_no_dead_point_whatever_the_seed():
    for seed in range(8):
        model = build("farkasnet101", seed, image_size=8, aggregation="mean" if seed % 2 else "sum")
        fractions = dead_points(model, images(2, 3, 8, 8, seed=seed))
        assert len(fractions) == 1 + 3 * 33 + 3
        assert max(fractions) == 0.0, seed


def test_a_narrow_deep_plain_network_has_dead_points_where_the_farkas_one_has_none():
    shape = {"blocks": [6, 6], "widths": [2, 2], "image_size": 8}
    plain_worst, farkas_worst = [], []
    for seed in range(10):
        batch = images(8, 3, 8, 8, seed=seed)
        plain_worst.append(max(dead_points(build("resnet18", seed, **shape), batch)))
        farkas_worst.append(max(dead_points(build("farkasnet18", seed, **shape), batch)))
    assert sum(worst > 0 for worst in plain_worst) >= 3
    assert farkas_worst == [0.0] * 10


@pytest.mark.parametrize("activation", ["relu", "elu", "softplus"])
@pytest.mark.parametrize("normalization", ["batch", "layer", "group", "instance"])
def test_normalization_after_the_activation_keeps_the_guarantee(normalization, activation):
    for seed in range(5):
        model = build(
            "farkasnet18", seed, blocks=[2, 2], widths=[4, 5], image_size=8, normalization=normalization,
            activation=activation, aggregation={"margin": 0.01},
        )  # fmt: skip
        assert max(dead_points(model, images(8, 3, 8, 8, seed=seed))) == 0.0


@pytest.mark.parametrize("normalization", ["batch", "layer", "group", "instance"])
def test_a_trained_shift_of_the_normalization_voids_the_guarantee_before_the_activation_only(normalization):
    worst = {}
    for position in ("before", "after"):
        model = build(
            "farkasnet18", blocks=[2, 2], widths=[4, 5], image_size=8, aggregation={"margin": 0.01},
            normalization={"name": normalization, "position": position, "affine": True},
        )  # fmt: skip
        with torch.no_grad():
            for module in model.modules():
                if not isinstance(module, (FarkasLayer, nn.Linear)) and getattr(module, "bias", None) is not None:
                    module.bias.fill_(-1.0)
        worst[position] = max(dead_points(model, images(8, 3, 8, 8)))
    assert worst["before"] > 0
    assert worst["after"] == 0


# Compiling, options


def test_a_compiled_farkasnet_equals_the_eager_one():
    model = build("farkasnet18", blocks=[1, 1], widths=[4, 6], image_size=8, normalization="batch")
    batch = images(4, 3, 8, 8)
    eager = model(batch)
    expected = torch.autograd.grad(eager.square().sum(), list(model.parameters()))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    out = compiled(batch)
    torch.testing.assert_close(out, eager)
    for mine, theirs in zip(torch.autograd.grad(out.square().sum(), list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


# Without Algorithm 2


@pytest.mark.parametrize("name", ["farkasnet18", "farkasnet50", "farkasnet50_imagenet"])
def test_without_append_all_layers_but_the_sums_are_farkas_layers_and_nothing_grows(name):
    sizes = {"blocks": [2, 1], "widths": [8, 16], "image_size": 32}
    plain = build(name.replace("farkasnet", "resnet"), **sizes)
    model = build(name, aggregation={"append": False}, **sizes)
    ends = [m for m in model.modules() if isinstance(m, ResidualConv2d)]
    assert len(ends) == 3
    assert not [m for m in model.modules() if isinstance(m, FarkasResidualConv2d)]
    activated = sum(isinstance(m, Activation) for m in model.modules())
    assert sum(isinstance(m, FarkasLayer) for m in model.modules()) == activated - len(ends)
    channels = [m.classifier.in_features if hasattr(m, "classifier") else m.fc.in_features for m in (plain, model)]
    assert channels == [16, 16]


def test_without_append_a_block_is_the_one_with_it_less_its_last_channel():
    kept, left = (build("farkasnet18", blocks=[1], widths=[8], aggregation={"append": a}) for a in (True, False))
    whole, cut = ((m.stem, m.stages[0][0]) for m in (kept, left))
    with torch.no_grad():
        for mine, theirs in ((cut[0].layer, whole[0].layer), (cut[1].first.layer, whole[1].first.layer)):
            mine.load_state_dict(theirs.state_dict())
        cut[1].last.layer.weight.copy_(whole[1].last.layer.weight)
        cut[1].last.layer.bias.copy_(whole[1].last.layer.bias[:-1])
    batch = images(2, 3, 8, 8)
    torch.testing.assert_close(cut[1](cut[0](batch)), whole[1](whole[0](batch))[:, :-1])


@pytest.mark.parametrize("scale", [-10.0, 10.0])
def test_without_append_algorithm_1s_layers_keep_their_guarantee_and_the_sums_have_none(scale):
    model = build("farkasnet18", blocks=[2, 2], widths=[4, 4], aggregation={"append": False, "margin": 1e-3})
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, ResidualConv2d):
                m.bias.fill_(scale)
    found = measure_activity(model, images(4, 3, 8, 8))
    sums = [layer for layer in found if layer.name.endswith(".last")]
    assert len(sums) == 4
    assert all(layer.dead_points == 0 and layer.margin > 0 for layer in found if layer not in sums)
    assert {layer.dead_points for layer in sums} == {float(scale < 0)}
    inputs = {}
    for m in model.modules():
        if isinstance(m, FarkasLayer):
            m.register_forward_pre_hook(lambda layer, given: inputs.update({layer: given[0]}))
    with torch.no_grad(), plain_path():
        model(images(4, 3, 8, 8))
    certificates = [certify(layer, given) for layer, given in list(inputs.items())]
    assert len(certificates) == 1 + 4 + 1
    assert all(each.strict and each.margin >= each.lambda_b for each in certificates)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "selu", "softplus"])
def test_options_reach_every_farkas_layer(activation):
    model = build(
        "farkasnet50", blocks=[1, 1], widths=[8, 8], image_size=8, activation=activation,
        aggregation={"name": "mean", "margin": 0.3, "learn_lambda": True},
    )  # fmt: skip
    layers = [m for m in model.modules() if isinstance(m, FarkasLayer)]
    cutoffs = {m.cutoff for m in model.modules() if isinstance(m, Activation)}
    assert len(layers) == 1 + 2 * 3 + 1
    assert len(cutoffs) == 1
    for layer in layers:
        assert (layer.rule.aggregation, layer.rule.margin, layer.rule.cutoff) == ("mean", 0.3, *cutoffs)
        assert layer.lambda_logits is not None


def test_every_small_image_network_maps_images_to_logits():
    for name in NETWORKS:
        if not name.endswith("imagenet"):
            model = build(name, num_classes=7, in_channels=1, image_size=8)
            assert model(images(2, 1, 8, 8)).shape == (2, 7), name
