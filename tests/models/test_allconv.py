"""The all-convolutional residual network, its head, initialization and schedule (Hardt and Ma 2017, Section 4)."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from farkas_exp.config import parse
from farkas_exp.config.identity import identify
from farkas_exp.initialization.apply import initialize
from farkas_exp.initialization.matched import classifier_of, feature_variance
from farkas_exp.initialization.random import weight_layers
from farkas_exp.layers.farkas import FarkasConv2d
from farkas_exp.layers.residual import ResidualBlock
from farkas_exp.machine.errors import UserError
from farkas_exp.measures.activity import measure_activity
from farkas_exp.models.create import create_model
from farkas_exp.models.head import RandomProjection
from farkas_exp.runs import RunDirectory
from farkas_exp.training.optimizer import build_optimizer
from farkas_exp.training.schedule import learning_rate
from farkas_exp.training.session import train
from tests.composing import composed, jobs
from tests.configs import config, values

SMALL = {"blocks": (2, 2), "widths": (8, 16)}


def convolutions(model):
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | FarkasConv2d)]


def trainable(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def images(n=2, size=8):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_the_network_has_the_papers_convolutions_and_parameters():
    with torch.device("meta"):
        model = create_model("allconv_residual", 10, head="random_projection")
        biased = create_model("allconv_residual", 10, head="random_projection", bias=True)
    layers = convolutions(model)
    assert len(layers) == 55
    assert trainable(model) == 13_538_736
    assert trainable(biased) == 13_538_736 + sum(layer.weight.shape[0] for layer in layers)
    shapes = [(layer.weight.shape[1], layer.weight.shape[0], layer.stride[0]) for layer in layers]
    stages = [(16, 64, 1), (64, 128, 2), (128, 256, 2)]
    assert shapes == [(3, 16, 1)] + [s for i, o, k in stages for s in [(i, o, k)] + [(o, o, 1)] * 17]
    assert len(model.blocks) == 27
    assert model(torch.empty(1, 3, 32, 32, device="meta")).shape == (1, 10)


def test_the_network_is_the_papers_formula():
    """x + C2(relu(C1 x)) without an activation behind the sum, pooling and zero channels where the shape changes."""
    torch.manual_seed(0)
    model = create_model("allconv_residual", 10, image_size=8, bias=True, **SMALL)
    stem, *layers = convolutions(model)
    hidden = F.conv2d(images(), stem.weight, stem.bias, padding=1)
    assert hidden.shape[1] == 2  # a quarter of the first stage, as 16 of 64
    for number, (first, last) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
        stride = 2 if number == 2 else 1
        branch = F.conv2d(F.relu(F.conv2d(hidden, first.weight, first.bias, stride, 1)), last.weight, last.bias, 1, 1)
        shortcut = F.avg_pool2d(hidden, 2) if stride == 2 else hidden
        hidden = branch
        hidden[:, : shortcut.shape[1]] += shortcut  # the other channels of the shortcut are zero
    expected = F.linear(hidden.mean((2, 3)), model.classifier.weight, model.classifier.bias)
    torch.testing.assert_close(model(images()), expected)


@pytest.mark.parametrize("size", [7, 8, 9])
def test_a_zero_branch_leaves_the_pooled_and_zero_padded_input(size):
    model = create_model("allconv_residual", 10, image_size=size, **SMALL)
    initialize(model, "zero_last")
    block = model.blocks[2]
    hidden = torch.rand(2, 8, size, size)
    output = block(hidden)
    half = math.ceil(size / 2)
    assert output.shape == (2, 16, half, half)
    torch.testing.assert_close(output[:, :8, 0, 0], hidden[:, :, :2, :2].mean((2, 3)))
    edge = 1 if size % 2 else 2  # of an odd size the last window has what is left
    torch.testing.assert_close(output[:, :8, -1, -1], hidden[:, :, -edge:, -edge:].mean((2, 3)))
    assert not output[:, 8:].any()


def test_in_the_farkas_network_every_block_has_an_active_unit_at_every_position():
    torch.manual_seed(0)
    plain, farkas = (create_model(name, 10, image_size=8, **SMALL)
                     for name in ("allconv_residual", "farkas_allconv_residual"))  # fmt: skip
    assert [isinstance(layer, FarkasConv2d) for layer in convolutions(farkas)] == [False] + [True, False] * 4
    with torch.no_grad():
        for model in (plain, farkas):
            for layer in convolutions(model)[1::2]:
                layer.weight.copy_(-layer.weight.abs())  # what kills a plain layer for positive inputs
            model.stem.weight.abs_()
            for layer in convolutions(model)[2::2]:
                layer.weight.abs_()
    assert max(layer.dead_points for layer in measure_activity(plain, images())) == 1
    activities = measure_activity(farkas, images())
    assert len(activities) == 4
    assert all(layer.dead_points == 0 for layer in activities)


@pytest.mark.parametrize(("model", "options"), [("allconv_residual", {"bias": True}), ("farkas_allconv_residual", {}),
                                                ("resnet18", {}), ("farkasnet18", {})])  # fmt: skip
def test_the_small_init_has_the_papers_standard_deviations(model, options):
    """1/(k^2 c) in residual branches, 1/(k sqrt c) elsewhere."""
    torch.manual_seed(0)
    net = create_model(model, 10, blocks=(2, 2), widths=(64, 96), **options)
    head = net.classifier.weight.clone()
    initialize(net, "identity_small", seed=1)
    branches = {
        layer for name, layer in net.named_modules() if ".first." in name or name.endswith(("last", "last.layer"))
    }
    found = 0
    for layer in convolutions(net):
        kernel, channels = layer.weight.shape[-1], layer.bias.shape[0] if layer.bias is not None else len(layer.weight)
        std = 1 / (kernel**2 * channels) if layer in branches else 1 / (kernel * math.sqrt(channels))
        count = layer.weight.numel()
        assert float(layer.weight.detach().std()) == pytest.approx(
            std, rel=5 / math.sqrt(2 * count)
        )  # five standard errors
        assert abs(float(layer.weight.detach().mean())) < 5 * std / math.sqrt(count)
        assert layer.bias is None or not layer.bias.any()
        found += layer in branches
    assert found == 8
    assert torch.equal(net.classifier.weight, head)


def test_the_small_init_of_linear_branches_has_kernel_size_1_and_leaves_other_layers_alone():
    net = create_model("mlp", 10, image_size=4, depth=4, width=96, residual=True)
    inside = [layer for block in net.modules() if isinstance(block, ResidualBlock) for layer in weight_layers(block)]
    others = [layer for layer in weight_layers(net) if layer not in inside]
    before = [layer.weight.clone() for layer in others]
    initialize(net, "identity_small", seed=1)
    for layer in inside:
        count, std = layer.weight.numel(), 1 / len(layer.bias)
        assert float(layer.weight.detach().std()) == pytest.approx(std, rel=5 / math.sqrt(2 * count))
        assert not layer.bias.any()
    assert inside
    assert others
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(others, before, strict=True))


@pytest.mark.parametrize("name", ["resnet18", "farkasnet34", "farkasnet50", "allconv_residual", "linear_residual"])
def test_a_random_projection_composes_is_not_trained_and_is_saved(name):
    sizes = {"depth": 2} if name == "linear_residual" else {"blocks": (1, 1), "widths": (8, 16)}
    torch.manual_seed(0)
    model = create_model(name, 10, image_size=8, head="random_projection", **sizes)
    before = model.classifier.weight.clone()
    assert before.abs().sum() > 0
    optimizer = build_optimizer(model, config(optimizer={"weight_decay": 0.1}).optimizer, 0.1)
    F.cross_entropy(model(images()), torch.tensor([0, 1])).backward()
    optimizer.step()
    assert torch.equal(model.classifier.weight, before)
    assert not any("classifier" in name for name, _ in model.named_parameters())
    assert torch.equal(model.state_dict()["classifier.weight"], before)


def test_a_random_projection_has_variance_one_over_its_inputs():
    torch.manual_seed(0)
    weight = RandomProjection(256, 100).weight
    assert weight.shape == (100, 256)
    assert float(weight.var()) == pytest.approx(1 / 256, rel=5 * math.sqrt(2 / weight.numel()))


@pytest.mark.parametrize("name", ["fixup34", "mobilenet_v2", "densenet40", "mlp", "resnet50_imagenet"])
def test_a_network_with_its_own_head_refuses_another(name):
    with pytest.raises(UserError, match=rf"^head.name: .* it needs a network that chooses its last layer, not {name}"):
        create_model(name, 10, head="random_projection")
    with pytest.raises(UserError, match=r"head.name: unknown 'random'; .*choose from: linear, random_projection"):
        create_model("resnet18", 10, head="random")


def test_the_matched_init_measures_what_a_random_projection_is_given():
    torch.manual_seed(0)
    model = create_model("resnet18", 10, image_size=8, head="random_projection", **SMALL)
    assert classifier_of(model) is model.classifier
    twin = create_model("farkasnet18", 10, image_size=8, head="random_projection", **SMALL)
    initialize(model, "match_farkas", images=images(16), twin=twin)
    wanted = feature_variance(twin, images(16))
    assert feature_variance(model, images(16)) == pytest.approx(wanted, rel=0.01)


def test_the_schedule_drops_at_steps_30000_and_50000():
    lr = composed("lr=step_30k_50k", "model=allconv_residual").lr
    steps = 50_000 // 128
    rates = [learning_rate(lr, epoch, 154) for epoch in range(154)]
    drops = [epoch * steps for epoch in range(1, 154) if rates[epoch] != rates[epoch - 1]]
    assert drops == [pytest.approx(30_000, abs=steps / 2), pytest.approx(50_000, abs=steps / 2)]
    assert (rates[0], rates[100], rates[153]) == (0.05, pytest.approx(0.005), pytest.approx(0.0005))
    shorter = [learning_rate(lr, epoch, 15) for epoch in range(15)]
    assert [epoch for epoch in range(1, 15) if shorter[epoch] != shorter[epoch - 1]] == [8, 13]  # 77 and 128 of 154


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_the_experiments_are_the_papers_protocol(dataset):
    made = jobs(f"allconv_{dataset}")
    assert [(job.model.name, job.seed) for job in made] == [
        (name, seed) for name in ("allconv_residual", "farkas_allconv_residual") for seed in (0, 1, 2)
    ]
    for job in made:
        assert (job.init.name, job.head.name, job.normalization.name) == ("identity_small", "random_projection", "none")
        assert (job.dataset.name, job.augmentation.cutout, job.augmentation.crop_padding) == (dataset, 0, 4)
        assert (job.optimizer.momentum, job.optimizer.weight_decay, job.batch_size) == (0.9, 1e-4, 128)
        assert (job.lr.value, job.lr.milestones, job.lr.gamma, job.epochs) == (0.05, (77, 128), 0.1, 154)
        assert (job.model.blocks, job.model.widths, job.model.bias) == (None, None, None)
    trained = composed(f"experiment=allconv_{dataset}", "model=allconv_residual", "head=linear", "init=pytorch")
    assert (trained.head.name, trained.init.name) == ("linear", "pytorch")


def test_head_and_biases_belong_to_the_identity_and_their_defaults_move_no_run():
    base = parse(values(model={"name": "allconv_residual"}))
    assert identify(parse(values(model={"name": "allconv_residual"}, head={"name": "linear"}))) == identify(base)
    changed = [values(model={"name": "allconv_residual", "bias": True}),
               values(model={"name": "allconv_residual"}, head={"name": "random_projection"})]  # fmt: skip
    assert len({identify(parse(each)).hash for each in changed} | {identify(base).hash}) == 3


@pytest.mark.parametrize("name", ["allconv_residual", "farkas_allconv_residual", "linear_residual"])
def test_the_networks_train(name, tmp_path):
    linear = name == "linear_residual"
    sizes = {"depth": 4, "blocks": None, "widths": None} if linear else {"blocks": [1, 1], "widths": [4, 8]}
    model = {"name": name, **sizes}
    epochs = 10 if linear else 2
    made = config(tmp_path, model=model, normalization={"name": "none"}, init={"name": "identity_small"},
                  head={"name": "random_projection"}, epochs=epochs,
                  augmentation={"flip": False, "cutout": 0})  # fmt: skip
    result = train(made, RunDirectory(tmp_path))
    assert result["status"] == "finished"
    built = create_model(name, 10, in_channels=1, image_size=8, head="random_projection", **sizes)
    assert result["parameters"] == trainable(built)
    assert len(RunDirectory(tmp_path).metrics.read_text().splitlines()) == epochs
    if linear:
        assert result["train_error"] < 60  # chance is 90


@pytest.mark.slow
@pytest.mark.parametrize(("name", "aggregation"), [("allconv_residual", "sum"), ("farkas_allconv_residual", "mean")])
def test_the_networks_leave_chance_on_digits(name, aggregation, tmp_path):
    made = config(tmp_path, model={"name": name, "blocks": [2, 2], "widths": [16, 32]}, batch_size=32, epochs=30,
                  normalization={"name": "none"}, init={"name": "identity_small"}, dataset={"train_limit": None},
                  aggregation={"name": aggregation}, optimizer={"weight_decay": 1e-4},
                  head={"name": "random_projection"}, augmentation={"flip": False, "cutout": 0},
                  lr={"value": 0.05, "milestones": [77, 128], "gamma": 0.1, "reference_epochs": 154})  # fmt: skip
    assert train(made, RunDirectory(tmp_path))["test_error"] < 60
