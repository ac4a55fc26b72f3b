"""The networks that came with the sibling methods."""

import pytest
import torch
from torch import nn

from farkas_exp.initialization.apply import initialize
from farkas_exp.machine.errors import UserError
from farkas_exp.measures.activity import dead_samples, measure_activity
from farkas_exp.models.create import create_model


def weights(model):
    return [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def test_rect_conv_has_its_depth_and_keeps_the_size_of_its_maps():
    model = create_model("rect_conv", 10, in_channels=1, image_size=28, depth=5, width=8)
    layers = weights(model)
    assert [tuple(layer.weight.shape) for layer in layers] == [(8, 1, 3, 3)] + [(8, 8, 3, 3)] * 4 + [(10, 8)]
    assert [activity.points for activity in measure_activity(model, torch.rand(2, 1, 28, 28))] == [2 * 28 * 28] * 5


@pytest.mark.parametrize(("name", "spatial"), [("mlp", False), ("rect_conv", True)])
def test_a_residual_layer_adds_its_input_to_its_pre_activation(name, spatial):
    torch.manual_seed(0)
    model = create_model(name, 10, image_size=4, depth=3, width=6, residual=True)
    images = torch.rand(2, 3, 4, 4)
    hidden = images if spatial else images.flatten(1)
    for number, unit in enumerate(model.hidden):
        layer = unit.layer if number == 0 else unit.unit.layer
        hidden = torch.relu(layer(hidden) + (hidden if number else 0))
    expected = model.classifier(hidden.mean((2, 3)) if spatial else hidden)
    assert torch.allclose(model(images), expected, atol=1e-6)
    initialize(model, "zero_last")  # each branch zero: the layers pass on what they get
    first = torch.relu(model.hidden[0].layer(images if spatial else images.flatten(1)))
    assert torch.allclose(model(images), model.classifier(first.mean((2, 3)) if spatial else first), atol=1e-6)


def test_batch_norm_before_the_activation_stands_between_branch_and_sum():
    model = create_model("mlp", 2, image_size=1, depth=2, width=4, residual=True,
                         normalization={"name": "batch", "position": "before"})  # fmt: skip
    images = torch.rand(8, 3, 1, 1)
    first = torch.relu(model.hidden[0].norm(model.hidden[0].layer(images.flatten(1))))
    unit = model.hidden[1].unit
    second = torch.relu(unit.norm(unit.layer(first)) + first)
    assert torch.allclose(model(images), model.classifier(second), atol=1e-5)


def test_a_farkas_network_of_constant_width_has_no_shortcuts():
    with pytest.raises(UserError, match=r"model.residual: a residual Farkas layer has one output more"):
        create_model("farkas_mlp", 2, residual=True)


def test_densenet40_has_the_originals_convolutions():
    model = create_model("densenet40")
    layers = weights(model)
    assert len(layers) == 40
    assert sum(layer.weight.numel() for layer in layers) == 1_001_616  # 1.0 million, as the paper states
    assert model.classifier.in_features == 16 + 36 * 12
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_every_farkas_network_is_free_of_dead_points():
    torch.manual_seed(0)
    images = torch.rand(4, 3, 8, 8)
    for name, sizes in (("farkas_densenet40", {"blocks": (3, 2), "width": 4}), ("farkas_rect_conv", {"depth": 12})):
        model = create_model(name, 10, image_size=8, **sizes)
        assert all(layer.dead_points == 0 for layer in measure_activity(model, images)), name
        assert dead_samples(model, images) == 0


def test_mobilenet_is_torchvisions_with_fewer_strides():
    from torchvision.models import mobilenet_v2

    model = create_model("mobilenet_v2", normalization="batch")
    original = mobilenet_v2(num_classes=10)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in original.parameters())
    assert model.features(torch.rand(2, 3, 32, 32)).shape == (2, 1280, 4, 4)
    activities = measure_activity(model, torch.rand(2, 3, 32, 32))
    assert len(activities) == sum(isinstance(m, nn.ReLU6) for m in original.modules())
    plain = create_model("mobilenet_v2")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    assert all(m.bias is not None for m in weights(plain))
    with pytest.raises(UserError, match=r"normalization.position: unknown .after.; choose from: before"):
        create_model("mobilenet_v2", normalization={"name": "batch", "position": "after"})
