"""A completed pre-activation has an active unit, wherever it comes from; Algorithm 2 completes a padded sum."""

import pytest
import torch
import torch.nn.functional as F

from farkas_exp.layers.certificate import certify
from farkas_exp.layers.completion import FarkasCompletion
from farkas_exp.layers.residual import FarkasResidualConv2d
from farkas_exp.layers.rule import FarkasRule


@pytest.mark.parametrize("aggregation", ["sum", "mean"])
@pytest.mark.parametrize(("cutoff", "margin"), [(0.0, 0.0), (0.0, 0.3), (-2.0, 0.1), (1.0, 0.0)])
@pytest.mark.parametrize(("shape", "dim"), [((4, 5), -1), ((3, 5, 2, 2), -3), ((3, 5, 2, 2), 1)])
def test_the_largest_channel_is_at_least_the_bound_for_any_input(aggregation, cutoff, margin, shape, dim):
    layer = FarkasCompletion(5, FarkasRule(aggregation, margin, cutoff), dim).double()
    with torch.no_grad():
        layer.bias.fill_(-3.0)  # the bound holds it up
    input = 10 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 20
    found = certify(layer, input)
    assert found.lambda_b >= cutoff - 1e-12
    assert found.margin >= found.lambda_b - 1e-9
    assert found.strict == (margin > 0 or cutoff < 0)
    output = layer(input)
    assert torch.equal(output.narrow(dim, 0, 4), input.narrow(dim, 0, 4))


def test_algorithm_2_is_the_completion_of_a_sum_whose_shortcut_has_a_channel_of_zeros():
    torch.manual_seed(0)
    grown = FarkasResidualConv2d(3, 4, 3, padding=1, aggregation="mean").double()
    hidden, shortcut = torch.randn(2, 3, 5, 5).double(), torch.randn(2, 4, 5, 5).double()
    with torch.no_grad():
        grown.bias.zero_()  # the free biases of Algorithm 2 are outside of the aggregate
        branch = F.conv2d(hidden, torch.cat((grown.weight, grown.weight[:1])), padding=1)  # the last one is not used
        completed = FarkasCompletion(5, FarkasRule("mean")).double()(branch + F.pad(shortcut, (0, 0, 0, 0, 0, 1)))
        torch.testing.assert_close(grown(hidden, shortcut), completed)


def test_the_bias_has_a_gradient_from_the_start():
    layer = FarkasCompletion(3, FarkasRule(margin=0.1))
    assert layer.bias.item() == pytest.approx(0.1)
    layer(torch.ones(2, 3)).sum().backward()
    assert layer.bias.grad > 0


def test_a_bound_below_zero_leaves_the_bias_at_zero():
    assert FarkasCompletion(3, FarkasRule(cutoff=-2.0)).bias.item() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_last_channel_is_minus_the_mean_of_the_others_in_its_gradient_and_in_the_type_of_the_input(dtype):
    input = torch.ones(2, 5, dtype=dtype, requires_grad=True)
    output = FarkasCompletion(5, FarkasRule("mean"))(input)
    assert output.dtype == dtype
    (gradient,) = torch.autograd.grad(output[:, -1].sum(), input)
    assert gradient.tolist() == [[-0.25, -0.25, -0.25, -0.25, 0]] * 2


def test_another_number_of_channels_is_refused():
    with pytest.raises(ValueError, match=r"of 3 channels got \(2, 4\)"):
        FarkasCompletion(3)(torch.ones(2, 4))


def test_a_single_channel_is_refused():
    with pytest.raises(ValueError, match="at least 2 outputs"):
        FarkasCompletion(1)
