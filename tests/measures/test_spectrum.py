"""Singular values of layers, effective ranks, and projections of them."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from farkas_exp.layers.farkas import FarkasConv2d, FarkasLayer, FarkasLinear
from farkas_exp.layers.standardization import Standardizable
from farkas_exp.machine.errors import UserError
from farkas_exp.measures.spectrum import conv_singular_values, effective_rank, effective_ranks, used_weight
from farkas_exp.methods.base import Training, build_methods, execution_mode
from farkas_exp.methods.rank_projection import PROJECTIONS, map_sizes, project_ranks, project_weight
from farkas_exp.models.create import create_model


def dense_circulant(weight, size):
    """The matrix of a convolution with circular padding, column by column."""
    height, width = size
    columns = []
    for index in range(weight.shape[1] * height * width):
        unit = torch.zeros(weight.shape[1] * height * width, dtype=weight.dtype)
        unit[index] = 1
        maps = F.pad(unit.view(1, -1, height, width), (1, 1, 1, 1), mode="circular")
        columns.append(F.conv2d(maps, weight).flatten())
    return torch.stack(columns, 1)


def test_fourier_singular_values_are_those_of_the_dense_circulant_matrix():
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    dense = torch.linalg.svdvals(dense_circulant(weight, (5, 4)))
    assert conv_singular_values(weight, (5, 4)).shape == (5 * 4, 2), "a row for each frequency"
    fast = conv_singular_values(weight, (5, 4)).flatten().sort(descending=True).values
    assert fast.shape == (5 * 4 * 2,)
    assert (dense[: len(fast)] - fast).abs().max() < 1e-13


def test_projections_change_the_singular_values_as_they_say():
    weight = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(weight)
    cap = float(values[1:3].mean())
    lowered = torch.linalg.svdvals(project_weight(weight, (1, 1), lambda s: torch.where(s < cap, 0 * s, s)))
    assert torch.allclose(lowered, torch.cat((values[:2], torch.zeros(2, dtype=values.dtype))), atol=1e-12)
    capped = torch.linalg.svdvals(project_weight(weight, (1, 1), lambda s: s.clamp(max=cap)))
    assert torch.allclose(capped, values.clamp(max=cap))
    square = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for same in (weight, square, torch.randn(2, 2, 3, 1).double(), torch.randn(2, 2, 1, 3).double()):
        assert torch.allclose(project_weight(same, (5, 4), lambda s: s), same)
    kernel = torch.randn(3, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(project_weight(kernel, (5, 4), lambda s: s), kernel)  # nothing is lost by the transform
    full = project_weight(kernel, (3, 3), lambda s: s.clamp(max=1.0))  # as large as the map: nothing is cropped
    assert torch.allclose(conv_singular_values(full, (3, 3)), conv_singular_values(kernel, (3, 3)).clamp(max=1.0))


@pytest.mark.parametrize("name", ["resnet34", "farkasnet34"])
def test_rank_min_lowers_and_rank_max_raises_the_effective_rank_of_every_layer(name):
    images = torch.rand(2, 3, 8, 8)
    ranks = []
    for projection, threshold in ((None, 0.0), ("rank_min", 0.3), ("rank_max", 0.2)):
        torch.manual_seed(0)
        model = create_model(name, 10, blocks=(2, 1), widths=(4, 8))
        if projection:
            project_ranks(model, images, projection, threshold)
        for layer in model.modules():
            if isinstance(layer, FarkasLayer) and not hasattr(layer, "branch"):
                with torch.no_grad():
                    assert layer(torch.randn(9, layer.weight.shape[1], 4, 4)).amax(1).min() > 0
        ranks.append(torch.tensor(list(effective_ranks(model, images).values())))
    before, low, high = ranks
    assert len(before) == 1 + 2 * 3 + 1 + 1
    assert (low < before).float().mean() > 0.7
    assert (high > before).float().mean() > 0.7
    assert low.mean() < before.mean() < high.mean()


def test_the_map_of_a_layer_is_its_input_s_and_no_smaller_than_its_kernel():
    """Strides are ignored; the network, in the mode of training, learns nothing from the images."""
    strided, wide = nn.Conv2d(1, 2, 3, stride=(2, 3), padding=1), nn.Conv2d(2, 2, (5, 1), padding=(2, 0))
    farkas, flat = FarkasConv2d(2, 3, 3, stride=2, padding=1), nn.Linear(12, 2)
    model = nn.Sequential(strided, nn.BatchNorm2d(2), wide, farkas, nn.Flatten(), flat)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sizes = map_sizes(model, torch.rand(2, 1, 8, 12))
    assert sizes == {strided: (8, 12), wide: (5, 4), farkas: (4, 4), flat: (1, 1)}
    assert list(sizes) == [strided, wide, farkas, flat]
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_effective_rank_by_hand():
    assert effective_rank(torch.tensor([2.0, 0.0])) == 1
    assert effective_rank(torch.ones(9)) == pytest.approx(3)
    assert effective_rank(torch.zeros(3)) == 0


def test_a_callback_acts_on_the_last_epochs_only(monkeypatch):
    from tests.configs import config

    made = config(epochs=10, callback={"name": "rank_min", "threshold": 0.1, "last_epochs": 5, "every_epochs": 2})
    calls = []
    monkeypatch.setattr("farkas_exp.methods.rank_projection.project_ranks", lambda *arguments: calls.append(arguments))

    class Data:
        def fixed_batch(self, n):
            return torch.zeros(n, 1, 1, 1), torch.zeros(n)

    def made_for(made):
        model = nn.Linear(1, 1)
        return build_methods(Training(made, model, Data(), model))[0]

    def due(made):
        projection, found = made_for(made), []
        for epoch in range(10):
            before = len(calls)
            changed = projection.after_epoch(epoch)
            found += [epoch] if len(calls) > before else []
            assert changed == (len(calls) > before)
        return found

    assert due(made) == [5, 7, 9]
    assert {call[2:] for call in calls} == {("rank_min", 0.1)}
    own = made.callback
    healing = dataclasses.replace(made, callback=dataclasses.replace(own, every_epochs=1, healing_epochs=2, lr=1e-3))
    assert due(healing) == [5, 6, 7]  # two epochs are trained after the last projection
    rates = [made_for(healing).learning_rate(0.5, epoch) for epoch in range(4, 10)]
    assert rates == pytest.approx([0.5, 1e-3, 1e-4, 1e-5, 1e-5, 1e-5])  # after a fifth and a third of five
    assert made_for(made).learning_rate(0.5, 9) == 0.5
    averaged = dataclasses.replace(made, optimizer=dataclasses.replace(made.optimizer, ema=0.9))
    with pytest.raises(UserError, match=r"^callback.name: rank_m.. cuts the weights, and not their average"):
        execution_mode(averaged, "none")
    with pytest.raises(UserError, match=r"callback.last_epochs: with a rate of their own .* give at most 4"):
        execution_mode(dataclasses.replace(healing, epochs=4), "none")  # it would begin at a tenth of the rate
    with pytest.raises(UserError, match=r"callback.healing_epochs: 5 leaves no epoch to project after"):
        execution_mode(dataclasses.replace(made, callback=dataclasses.replace(own, healing_epochs=5)), "none")
    with pytest.raises(UserError, match=r"callback.threshold: rank_max needs the singular value"):
        execution_mode(config(callback={"name": "rank_max"}), "none")


def test_the_projections_keep_a_value_that_is_at_the_threshold():
    values = torch.tensor([3.0, 2.0, 1.9])
    assert PROJECTIONS["rank_min"](values, 2.0).tolist() == [3, 2, 0]
    assert PROJECTIONS["rank_max"](values, 2.0).tolist() == pytest.approx([2, 2, 1.9])


def test_the_effective_rank_of_a_farkas_layer_has_its_aggregated_row():
    layer = FarkasLinear(6, 4)
    (found,) = effective_ranks(nn.Sequential(nn.Flatten(), layer), torch.rand(2, 1, 2, 3)).values()
    rows = torch.cat([layer.weight, -layer.weight.sum(0, keepdim=True)]).detach()
    assert found == pytest.approx(effective_rank(torch.linalg.svdvals(rows)), rel=1e-5)


def test_the_effective_rank_of_a_convolution_is_that_on_its_maps():
    layer = nn.Conv2d(2, 3, 3, padding=1)
    (found,) = effective_ranks(layer, torch.rand(1, 2, 5, 4)).values()
    dense = torch.linalg.svdvals(dense_circulant(layer.weight.detach(), (5, 4)))
    assert found == pytest.approx(effective_rank(dense), rel=1e-4)


def test_the_effective_rank_is_that_of_the_weight_in_use():
    model = create_model("resnet18", 3, in_channels=2, image_size=4, blocks=(1,), widths=(4,), weight="standardized")
    layer = next(each for each in model.modules() if isinstance(each, Standardizable))
    assert torch.equal(used_weight(layer), layer.used_weight())
    assert not torch.equal(used_weight(layer), layer.weight)
