import math
import weakref

import pytest
import torch
from torch import nn

from farkas_exp.layers.activation import Activation
from farkas_exp.layers.farkas import FarkasLayer
from farkas_exp.layers.residual import FarkasResidualConv2d
from farkas_exp.measures.activity import _activity, dead_samples, measure_activity
from farkas_exp.models.create import create_model
from farkas_exp.report.activity import KINDS


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


def test_a_pre_activation_that_is_not_a_number_leaves_no_figure_a_number():
    z = torch.tensor([[1.0, -1.0], [-3.0, torch.nan]])
    found = _activity("layer", z, 0.0, "appended")
    assert set(found.active) == {"free", "appended"}
    shares = [found.dead_units, found.dead_points, found.margin, found.affine_units, found.sep_u, found.sep_p]
    assert all(math.isnan(share) for share in [*shares, *found.active.values()])


@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_a_farkas_network_has_no_dead_point_at_any_layer(normalization):
    model = create_model("farkasnet34", 10, normalization=normalization, blocks=(2, 2), widths=(4, 8))
    layers = measure_activity(model, torch.rand(4, 3, 8, 8))
    assert len(layers) == 1 + 2 * 4 + 1  # stem, two in each block, one transition
    assert all(layer.dead_points == 0 and layer.margin > 0 for layer in layers)
    assert layers[0].points == 4 * 64


def test_activity_by_kind_of_unit_by_hand():
    z = torch.tensor([[1.0, -1.0, 2.0], [1.0, 1.0, -3.0], [-1.0, -1.0, -1.0], [-1.0, 2.0, -2.0]])
    assert _activity("layer", z, 0.0).active == {"free": pytest.approx(5 / 12)}
    assert _activity("layer", z, 0.0, "appended").active == {"free": 0.5, "appended": 0.25}
    assert _activity("layer", z, -1.5, "aggregated").active == {"free": 1.0, "aggregated": 0.5}
    at_the_cutoff = _activity("layer", torch.tensor([[0.3, 1.0]]), 0.3)
    assert (at_the_cutoff.active, at_the_cutoff.affine_units, at_the_cutoff.dead_units) == ({"free": 0.5}, 0.5, 0.5)


@pytest.mark.parametrize("name", ["farkasnet18", "farkasnet50", "farkasnet50_imagenet"])
@pytest.mark.parametrize("position", ["after", "before"])
def test_every_layer_is_measured_by_the_kinds_of_its_units(name, position):
    model = create_model(
        name, 10, normalization={"name": "batch", "position": position}, blocks=(2, 1), widths=(8, 8), image_size=32
    )
    kinds = [set(layer.active) for layer in measure_activity(model, torch.rand(4, 3, 32, 32))]
    layers = [module for module in model.modules() if isinstance(module, FarkasLayer)]
    expected = [{"free", "appended" if isinstance(m, FarkasResidualConv2d) else "aggregated"} for m in layers]
    assert kinds == expected


def test_a_network_without_farkas_layers_has_free_units_alone():
    model = create_model("resnet18", 10, blocks=(1,), widths=(4,), image_size=8)
    assert {kind for layer in measure_activity(model, torch.rand(2, 3, 8, 8)) for kind in layer.active} == {"free"}


def test_the_appended_units_are_born_dead_where_the_shortcut_is_positive_and_nothing_is_normalized():
    torch.manual_seed(0)
    layers = measure_activity(create_model("farkasnet34"), torch.rand(4, 3, 32, 32))
    shares = {kind: [layer.active[kind] for layer in layers if kind in layer.active] for kind in KINDS}
    assert shares["appended"] == [0.0] * 15
    assert min(shares["aggregated"]) >= 0
    assert sum(shares["aggregated"]) / len(shares["aggregated"]) > 0.3


@pytest.mark.parametrize("measure", [measure_activity, dead_samples])
@pytest.mark.parametrize("name", ["resnet34", "farkasnet34"])
def test_measuring_changes_nothing(name, measure):
    model = create_model(name, 10, normalization="batch", blocks=(1,), widths=(4,))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    measure(model, torch.rand(4, 3, 8, 8))
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    measure(model.eval(), torch.rand(4, 3, 8, 8))
    assert not model.training


class Chain(nn.Module):
    """Activations one after the other, each fed with what a table says: pre-activations by hand."""

    def __init__(self, *tables: list[list[float]], cutoff: float | None = None) -> None:
        super().__init__()
        self.tables = [torch.tensor(table) for table in tables]
        self.activations = nn.ModuleList(Activation("relu", cutoff) for _ in tables)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for table, activation in zip(self.tables, self.activations, strict=True):
            output = activation(table)
        return output


FIRST = [[1.0, -1.0], [-1.0, -2.0], [0.3, -1.0]]
SECOND = [[-1.0, -0.5], [2.0, -0.5], [0.2, -0.5]]


@pytest.mark.parametrize(
    ("cutoff", "dead"), [(None, [1 / 2, 1 / 2]), (0.3, [1 / 2, 1 / 2]), (-1.2, [0, 0]), (1.5, [1, 1 / 2])]
)
def test_a_unit_is_dead_below_the_cutoff_of_its_activation(cutoff, dead):
    layers = measure_activity(Chain(FIRST, SECOND, cutoff=cutoff), torch.zeros(3, 1))
    assert [layer.dead_units for layer in layers] == pytest.approx(dead)


def test_a_point_is_dead_and_a_unit_affine_by_the_cutoff():
    (layer,) = measure_activity(Chain(FIRST, cutoff=0.3), torch.zeros(3, 1))
    assert (layer.dead_points, layer.affine_units) == (pytest.approx(2 / 3), 0.0)
    (layer,) = measure_activity(Chain(FIRST, cutoff=-1.5), torch.zeros(3, 1))
    assert (layer.dead_points, layer.affine_units) == (0.0, 0.5)


def test_the_separation_slacks_of_a_layer_by_hand():
    """Half of relu(1 - max) + relu(1 + min), over units for g_U (Sep-U) and over points for g_P."""
    (layer,) = measure_activity(Chain(FIRST), torch.zeros(3, 1))
    assert layer.sep_u == pytest.approx(((0 + 0) + (2 + 0)) / 2)
    assert layer.sep_p == pytest.approx(((0 + 0) + (2 + 0) + (0.7 + 0)) / 2)


def test_a_sample_that_dies_at_any_layer_is_dead():
    """The first table kills the second sample, the second one the first; each is lost in the whole network."""
    images = torch.zeros(3, 1)
    assert dead_samples(Chain(FIRST), images) == pytest.approx(1 / 3)
    assert dead_samples(Chain(SECOND), images) == pytest.approx(1 / 3)
    assert dead_samples(Chain(FIRST, SECOND), images) == pytest.approx(2 / 3)
    assert dead_samples(Chain(SECOND, FIRST), images) == pytest.approx(2 / 3)
    assert dead_samples(Chain(FIRST, SECOND, cutoff=0.3), images) == 1.0
    assert dead_samples(Chain(FIRST, SECOND, cutoff=-1.2), images) == 0.0
    assert dead_samples(Chain([[0.0], [0.1], [-0.0]]), images) == pytest.approx(2 / 3), "at the cutoff, too"


def test_a_sample_lives_while_one_position_of_one_channel_is_active():
    maps = torch.full((2, 3, 2, 2), -1.0)
    maps[1, 2, 0, 1] = 0.5
    assert dead_samples(Chain(maps.tolist()), torch.zeros(2, 1)) == 0.5


def test_no_pre_activation_is_kept_once_it_is_measured(monkeypatch):
    """Those of all layers together would not fit beside a large network."""
    kept, most = [], []

    def noted(name, z, cutoff, last="free"):
        most.append(sum(reference() is not None for reference in kept))
        kept.append(weakref.ref(z))
        return _activity(name, z, cutoff, last)

    monkeypatch.setattr("farkas_exp.measures.activity._activity", noted)
    model = create_model("farkas_mlp", 2, in_channels=2, image_size=1, depth=8, width=4)
    assert len(measure_activity(model, torch.rand(5, 2, 1, 1))) == 8
    assert max(most) <= 1, "the one that the next layer is just reading"
