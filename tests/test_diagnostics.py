import pytest
import torch

from farkas_exp.diagnostics import measure_activity
from farkas_exp.diagnostics.activity import _activity
from farkas_exp.models import create_model


def test_dead_units_dead_points_and_margin_by_hand():
    z = torch.tensor([[1.0, -1.0, -2.0], [-3.0, -0.5, 0.0], [2.0, 0.1, -1.0]])
    activity = _activity("layer.activation", z, 0.0)
    assert (activity.name, activity.units, activity.points) == ("layer", 3, 3)
    assert activity.dead_units == pytest.approx(1 / 3)  # the third unit is never above 0
    assert activity.dead_points == pytest.approx(1 / 3)  # the second point has no unit above 0
    assert activity.margin == 0.0
    assert _activity("layer", z, -0.6).dead_points == 0.0


def test_the_points_of_a_convolution_are_samples_and_positions():
    z = torch.full((2, 3, 4, 5), -1.0)
    z[0, 1, 2, 3] = 7.0
    activity = _activity("layer", z, 0.0)
    assert (activity.units, activity.points) == (3, 40)
    assert activity.dead_units == pytest.approx(2 / 3)
    assert activity.dead_points == pytest.approx(39 / 40)
    assert activity.margin == -1.0


@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_a_farkas_network_has_no_dead_point_at_any_layer(normalization):
    model = create_model("farkasnet34", 10, normalization=normalization, blocks=(2, 2), widths=(4, 8))
    layers = measure_activity(model, torch.rand(4, 3, 8, 8))
    assert len(layers) == 1 + 2 * 4 + 1  # stem, two in each block, one transition
    assert all(layer.dead_points == 0 and layer.margin > 0 for layer in layers)
    assert layers[0].points == 4 * 64


def test_a_narrow_deep_plain_network_has_dead_points_and_a_farkas_network_of_its_shape_has_none():
    images = torch.randn(50, 1, 4, 4)
    for name, dead in (("mlp", True), ("farkas_mlp", False)):
        torch.manual_seed(0)
        layers = measure_activity(create_model(name, 10, in_channels=1, image_size=4, depth=40, width=4), images)
        assert len(layers) == 40
        assert (max(layer.dead_points for layer in layers) > 0.5) == dead
        assert (min(layer.margin for layer in layers) <= 0) == dead


def test_measuring_changes_nothing():
    model = create_model("farkasnet34", 10, normalization="batch", blocks=(1,), widths=(4,))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    measure_activity(model, torch.rand(4, 3, 8, 8))
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
