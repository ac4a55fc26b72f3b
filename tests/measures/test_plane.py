"""What a network makes of the plane, where it is known by hand."""

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from farkas_exp.layers.activation import Activation
from farkas_exp.measures.plane import CELLS, plane_figures


def steps(layers: int) -> nn.Sequential:
    """Layer l turns a positive point into itself + l, and class 1 has the logit x + layers + 2 y; dropout is idle."""
    parts: list[nn.Module] = [nn.Flatten()]
    for _ in range(layers):
        parts += [nn.Linear(2, 2), Activation("relu"), nn.Dropout(0.5)]
    net = nn.Sequential(*parts, nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        for each in net:
            if isinstance(each, nn.Linear):
                each.weight.copy_(torch.eye(2))
                if each.bias is not None:
                    each.bias.fill_(1.0)
        net[-1].weight.copy_(torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
    return net


@pytest.mark.parametrize(("layers", "shown"), [(1, [1]), (3, [1, 3]), (10, [4, 5, 10])])
def test_the_fourth_the_middle_and_the_last_layer_are_shown_at_the_points(layers, shown):
    points = torch.tensor([[0.0, 1.0], [10.0, 0.0], [5.0, 0.12345678]])
    found = plane_figures(steps(layers), points.view(3, 2, 1, 1), torch.tensor([1, 0, 0]))
    assert list(found["activations"]) == [str(layer) for layer in shown]
    for layer in shown:
        expected = [[float(f"{value:.4g}") for value in row] for row in (points + layer).tolist()]
        assert found["activations"][str(layer)] == expected
    assert found["points"] == [[0, 1], [10, 0], [5, 0.1235]]
    assert found["labels"] == [1, 0, 0]


def test_what_is_shown_of_a_layer_is_behind_its_activation():
    net = nn.Sequential(nn.Flatten(), Activation("softplus"))  # the ReLU overwrites what it is given
    points = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    found = plane_figures(net, points.view(2, 2, 1, 1), torch.tensor([1, 0]))
    torch.testing.assert_close(torch.tensor(found["activations"]["1"]), softplus(points), rtol=1e-3, atol=0)


def test_the_map_goes_over_x_first_with_three_tenths_around_the_points_on_each_side():
    points = torch.tensor([[1.0, 5.0], [11.0, 3.0], [4.0, 4.0]])
    net = steps(1)
    found = plane_figures(net, points.view(3, 2, 1, 1), torch.zeros(3, dtype=torch.long))
    assert found["extent"] == pytest.approx([-2, 14, 2.4, 5.6])
    x, y = torch.linspace(-2, 14, CELLS)[:, None], torch.linspace(2.4, 5.6, CELLS)[None, :]
    expected = torch.sigmoid((x + 1).relu() - 2 * (y + 1))
    torch.testing.assert_close(torch.tensor(found["class_1"]), expected, rtol=1e-3, atol=0)
