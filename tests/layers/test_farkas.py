"""Theorem 3.2, Corollary 3.3 and Algorithm 1 for linear and convolutional Farkas layers."""

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linprog

from farkas_exp.layers.certificate import certify, lambda_b
from farkas_exp.layers.farkas import FarkasConv2d, FarkasLinear, farkas_conv2d, farkas_linear
from farkas_exp.layers.rule import FarkasRule
from farkas_exp.machine.errors import UserError
from tests.layers.made_layers import appended, conv, linear, scatter_parameters
from tests.networks import normal

AGG = {"sum": torch.sum, "mean": torch.mean}
RULES = ["sum", "mean", "learned"]
GEOMETRIES = [
    {},
    {"padding": 1},
    {"stride": 2, "padding": 2},
    {"dilation": 2, "padding": 3},
    {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
    {"padding": "same"},
]


def simplex_of(layer, rule):
    """Lambda from its definition: equal for `sum`, half of it on the last for `mean`, a softmax where learned."""
    m = layer.outputs
    if rule == "learned":
        return layer.lambda_logits.detach().exp() / layer.lambda_logits.detach().exp().sum()
    if rule == "sum":
        return torch.full((m,), 1 / m, dtype=torch.float64)
    return torch.tensor([1 / (2 * (m - 1))] * (m - 1) + [0.5], dtype=torch.float64)


def least_largest(weight, bias):
    """min over all x of max_i (W x + b)_i, by linear programming: the primal problem in the proof of Theorem 3.2."""
    m, n = weight.shape
    ones = torch.ones(m, 1, dtype=torch.float64)
    solution = linprog(
        [0.0] * n + [1.0],
        A_ub=torch.cat((weight, -ones), 1).numpy(),
        b_ub=-bias.numpy(),
        bounds=[(None, None)] * (n + 1),
    )
    assert solution.status == 0, solution.message
    return solution.fun


# The theorem


@pytest.mark.parametrize("bias_shift", [-2.0, 0.0, 2.0])
@pytest.mark.parametrize("rule", RULES)
def test_the_worst_input_of_all_attains_lambda_b_and_no_less(rule, bias_shift):
    for seed in range(10):
        layer = scatter_parameters(linear(rule), seed, bias_shift)
        weight, bias = (tensor.detach() for tensor in layer.augmented())
        bound = float(simplex_of(layer, rule) @ bias)
        assert bound >= -1e-12
        assert least_largest(weight, bias) == pytest.approx(bound, abs=1e-9)
        assert lambda_b(layer) == pytest.approx(bound, abs=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("rule", RULES)
def test_a_linear_layer_has_an_active_unit_for_every_sample(rule, scale):
    for seed in range(10):
        layer = scatter_parameters(linear(rule), seed, bias_shift=-0.5)
        x = normal(500, 6, seed=seed, scale=scale)
        z = layer(x).detach()
        lam, (_, bias) = simplex_of(layer, rule), layer.augmented()
        torch.testing.assert_close(z @ lam, (lam @ bias.detach()).expand(500), rtol=0, atol=1e-12 * max(1, scale))
        assert z.amax(1).min() >= -1e-12 * max(1, scale)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_a_convolution_has_an_active_channel_at_every_position(rule, geometry):
    for seed in range(4):
        layer = scatter_parameters(conv(rule, geometry), seed, bias_shift=0.2 if seed % 2 else -0.2)
        z = layer(normal(6, 3, 9, 8, seed=seed)).detach()
        lam, bias = simplex_of(layer, rule), layer.augmented()[1].detach()
        combined = torch.einsum("nchw,c->nhw", z, lam)
        torch.testing.assert_close(combined, (lam @ bias).expand_as(combined), rtol=0, atol=1e-12)
        assert z.amax(1).min() >= float(lam @ bias) - 1e-12 >= -2e-12


@pytest.mark.parametrize("cutoff", [-4.6, -0.3, 0.0, 0.7, 2.0])
@pytest.mark.parametrize("rule", RULES)
def test_with_a_cutoff_the_largest_unit_reaches_it_for_every_input(rule, cutoff):
    for seed in range(6):
        layer = scatter_parameters(linear(rule, cutoff=cutoff), seed, bias_shift=-3.0)
        weight, bias = (tensor.detach() for tensor in layer.augmented())
        least = least_largest(weight, bias)
        assert least >= cutoff - 1e-9
        assert least == pytest.approx(lambda_b(layer), abs=1e-9)
        if cutoff >= 0:
            assert least == pytest.approx(cutoff, abs=1e-9), "the biases are low, so the bound is the tightest one"


def test_the_corollary_as_printed_fails_for_a_positive_cutoff_where_the_layer_does_not():
    weight = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    b, c = torch.tensor([0.0, 1.1], dtype=torch.float64), 1.0
    assert b[1] > c - b[0], "Corollary 3.3's condition, with lambda = (1/2, 1/2)"
    x = torch.tensor([[0.55]], dtype=torch.float64)
    torch.testing.assert_close(F.linear(x, weight, b), torch.tensor([[0.55, 0.55]], dtype=torch.float64))

    torch.testing.assert_close(
        farkas_linear(x, weight[:1], b, FarkasRule(cutoff=c)), torch.tensor([[0.55, 1.45]], dtype=torch.float64)
    )
    layer = FarkasLinear(1, 2, cutoff=c, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.copy_(b)
    assert least_largest(*(tensor.detach() for tensor in layer.augmented())) == pytest.approx(c, abs=1e-9)


@pytest.mark.parametrize("cutoff", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("rule", RULES)
def test_a_margin_makes_the_inequality_strict(rule, cutoff):
    for seed in range(5):
        layer = scatter_parameters(linear(rule, cutoff=cutoff, margin=0.25), seed, bias_shift=-3.0)
        lambda_m = float(simplex_of(layer, rule)[-1])
        least = least_largest(*(tensor.detach() for tensor in layer.augmented()))
        expected = (cutoff if cutoff >= 0 else lambda_m * cutoff) + 0.25 * lambda_m
        assert least == pytest.approx(expected, abs=1e-9)
        assert certify(layer, normal(4, 6)).strict


def test_all_zero_parameters_are_dead_without_a_margin_and_alive_with_one():
    x = normal(7, 6)
    for margin in (0.0, 0.1):
        layer = linear("sum", margin=margin)
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.zero_()
        certificate = certify(layer, x)
        assert (certificate.strict, certificate.active) == (margin > 0, margin > 0)
        assert certificate.margin == pytest.approx(margin)


@pytest.mark.parametrize("rule", RULES)
def test_the_guarantee_survives_training_against_it(rule):
    torch.manual_seed(0)
    x, images = normal(64, 6), normal(8, 3, 6, 6)
    for layer, batch in ((linear(rule), x), (conv(rule, {"padding": 1}), images)):
        before = [parameter.detach().clone() for parameter in layer.parameters()]
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.3, momentum=0.9)
        for _ in range(30):
            optimizer.zero_grad()
            torch.logsumexp(layer(batch), dim=1).mean().backward()  # pulls the largest pre-activation down
            optimizer.step()
        for parameter, start in zip(layer.parameters(), before, strict=True):
            assert not torch.equal(parameter, start)
        lam = simplex_of(layer, rule)
        assert (lam > 0).all()
        assert float(lam.sum()) == pytest.approx(1)
        certificate = certify(layer, batch)
        assert certificate.lambda_b >= 0
        assert certificate.margin >= certificate.lambda_b - 1e-10


# Algorithm 1


def assert_equal_with_gradients(ours, reference, parameters):
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)
    cotangent = normal(*reference.shape, seed=99)
    for name, mine, literal in zip(
        ("input", "weight", "bias"),
        torch.autograd.grad(ours, parameters, cotangent),
        torch.autograd.grad(reference, parameters, cotangent),
        strict=True,
    ):
        tolerance = 1e-12 * max(1.0, float(literal.abs().max()))
        torch.testing.assert_close(mine, literal, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("last_bias", [-9.0, 9.0])
@pytest.mark.parametrize("aggregation", AGG)
def test_the_linear_layer_equals_algorithm_1_with_its_gradients(aggregation, last_bias):
    x, w, b = (t.requires_grad_() for t in (normal(11, 6), normal(4, 6, seed=1), normal(5, seed=2)))
    with torch.no_grad():
        b[-1] = last_bias
    ours = farkas_linear(x, w, b, FarkasRule(aggregation))
    assert_equal_with_gradients(ours, appended(F.linear(x, w), b, AGG[aggregation]), (x, w, b))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("last_bias", [-9.0, 9.0])
@pytest.mark.parametrize("aggregation", AGG)
def test_the_convolution_equals_algorithm_1_with_its_gradients(aggregation, last_bias, geometry):
    x, w, b = (t.requires_grad_() for t in (normal(2, 3, 8, 7), normal(4, 3, 3, 3, seed=1), normal(5, seed=2)))
    with torch.no_grad():
        b[-1] = last_bias
    ours = farkas_conv2d(x, w, b, **geometry, rule=FarkasRule(aggregation))
    assert_equal_with_gradients(ours, appended(F.conv2d(x, w, **geometry), b, AGG[aggregation]), (x, w, b))


@pytest.mark.parametrize("aggregation", AGG)
def test_the_modules_are_the_functions(aggregation):
    layer = scatter_parameters(linear(aggregation, margin=0.5, cutoff=-1.0), 3)
    x = normal(4, 6)
    expected = farkas_linear(x, layer.weight, layer.bias, FarkasRule(aggregation, 0.5, -1.0))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)
    geometry = {"stride": 2, "padding": 1, "dilation": 2}
    filters = scatter_parameters(conv(aggregation, geometry, margin=0.5, cutoff=-1.0), 4)
    images = normal(2, 3, 9, 9)
    expected = farkas_conv2d(images, filters.weight, filters.bias, 2, 1, 2, FarkasRule(aggregation, 0.5, -1.0))
    torch.testing.assert_close(filters(images), expected, rtol=0, atol=0)
    learned = scatter_parameters(conv("learned", geometry), 5)
    expected = farkas_conv2d(images, learned.weight, learned.bias, **geometry, simplex=learned.simplex())
    torch.testing.assert_close(learned(images), expected, rtol=0, atol=0)


def test_the_last_bias_has_no_gradient_while_the_aggregate_wins():
    layer = linear("sum")
    for last_bias, moves in ((-50.0, False), (50.0, True)):
        with torch.no_grad():
            layer.bias[-1] = last_bias
        layer.zero_grad()
        layer(normal(3, 6)).sum().backward()
        assert bool(layer.bias.grad[-1]) is moves


# Learned lambda


@pytest.mark.parametrize("aggregation", AGG)
def test_a_learned_lambda_starts_at_the_chosen_aggregation_and_gets_gradients(aggregation):
    fixed = linear(aggregation)
    learned = FarkasLinear(6, 5, aggregation=aggregation, learn_lambda=True, dtype=torch.float64)
    with torch.no_grad():
        learned.weight.copy_(fixed.weight)
        learned.bias.copy_(fixed.bias)
    x = normal(9, 6)
    torch.testing.assert_close(learned(x), fixed(x), rtol=0, atol=1e-12)
    learned(x).pow(2).sum().backward()
    assert (learned.lambda_logits.grad.abs() > 0).all()


def test_the_gradients_of_a_learned_lambda_are_those_of_finite_differences():
    layer = scatter_parameters(linear("learned", margin=0.1, cutoff=0.5), 1, bias_shift=-3.0)
    x = normal(3, 6)

    def outputs(logits):
        return farkas_linear(x, layer.weight, layer.bias, FarkasRule("sum", 0.1, 0.5), logits.softmax(0))

    logits = layer.lambda_logits.detach().clone().requires_grad_()
    torch.testing.assert_close(outputs(logits), layer(x), rtol=0, atol=0)
    assert torch.autograd.gradcheck(outputs, (logits,))


# bfloat16


@pytest.mark.parametrize("aggregation", AGG)
def test_in_bfloat16_the_aggregate_is_rounded_once_and_the_certificate_holds_to_rounding(aggregation):
    torch.manual_seed(0)
    layer = FarkasConv2d(16, 60, 3, padding=1, aggregation=aggregation)
    low = FarkasConv2d(16, 60, 3, padding=1, aggregation=aggregation, dtype=torch.bfloat16)
    low.load_state_dict(layer.state_dict())
    weight, bias = low.augmented()
    assert weight.dtype == bias.dtype == torch.bfloat16
    wide = low.weight.double()
    exact = -AGG[aggregation](wide, dim=0)
    assert ((weight[-1].double() - exact).abs() <= 2**-8 * exact.abs() + 1e-6).all()
    images = torch.rand(4, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    certificate = certify(low, images.bfloat16())
    assert certificate.lambda_b >= 0
    assert certificate.margin >= certificate.lambda_b - 0.02
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(images).dtype == torch.bfloat16
        assert certify(layer, images).margin >= lambda_b(layer) - 0.02


# certify


# Sizes and errors


@pytest.mark.parametrize("outputs", [1, 0])
def test_fewer_than_two_outputs_is_an_error_that_says_why(outputs):
    for build in (lambda: FarkasLinear(3, outputs), lambda: FarkasConv2d(3, outputs, 3)):
        with pytest.raises(ValueError, match=rf"at least 2 outputs, got {outputs}: its last component .*Section 3\.3"):
            build()
    with pytest.raises(ValueError, match="at least 2 outputs"):
        farkas_linear(normal(2, 3), normal(0, 3), normal(1))
    with pytest.raises(ValueError, match="at least 2 outputs"):
        farkas_linear(normal(2, 3), normal(0, 3), normal(1), simplex=torch.ones(1, dtype=torch.float64))


def test_other_wrong_arguments():
    with pytest.raises(UserError, match=r"aggregation.name: unknown 'men'; did you mean 'mean'"):
        FarkasLinear(3, 4, aggregation="men")
    with pytest.raises(
        UserError, match=r"stride: unknown 'stride'; choose from: aggregation, cutoff, learn_lambda, mar"
    ):
        FarkasLinear(4, 4, stride=2)
    for option, why in (
        ("groups", "its filters see all"),
        ("bias", "it always has"),
        ("padding_mode", "it pads with z"),
    ):
        with pytest.raises(UserError, match=f"^{option}: a Farkas layer has no such option: {why}"):
            FarkasConv2d(4, 4, 3, **{option: None})
    with pytest.raises(ValueError, match=r"aggregation.margin: -0.1 is out of range"):
        FarkasConv2d(3, 4, 3, margin=-0.1)
    for kernel in ((3,), (3, 3, 3)):
        with pytest.raises(ValueError, match=r"kernel_size: expected a whole number or two of them, got \(3"):
            FarkasConv2d(3, 4, kernel)
    with pytest.raises(ValueError, match="5 biases has 4 weight rows, got 5"):
        farkas_linear(normal(2, 3), normal(5, 3), normal(5))


def test_drop_in_shapes_and_default_initialization():
    torch.manual_seed(0)
    images = torch.rand(2, 8, 11, 11)
    filters = FarkasConv2d(8, 64, (3, 2), 2, (1, 0), 2)
    assert filters(images).shape == torch.nn.Conv2d(8, 64, (3, 2), 2, (1, 0), 2)(images).shape
    assert filters.weight.shape == (63, 8, 3, 2)
    assert filters.bias.shape == (64,)
    dense = FarkasLinear(100, 400)
    assert dense(torch.rand(2, 5, 100)).shape == (2, 5, 400)
    assert dense.weight.shape == (399, 100)
    for parameter, fan_in in ((filters.weight, 48), (filters.bias, 48), (dense.weight, 100), (dense.bias, 100)):
        largest = float(parameter.detach().abs().max()) * fan_in**0.5
        assert 0.9 < largest <= 1
        assert float(parameter.detach().std()) * fan_in**0.5 == pytest.approx(3**-0.5, rel=0.2)


def test_a_rule_is_given_whole_by_its_fields_or_by_both():
    rule = FarkasRule("mean", margin=0.5, cutoff=-1.0)
    assert FarkasConv2d(3, 4, 1, rule=rule).rule == rule
    assert FarkasLinear(3, 4, rule, margin=0.25).rule == FarkasRule("mean", margin=0.25, cutoff=-1.0)
    assert FarkasLinear(3, 4, aggregation="mean").rule == FarkasRule("mean")
    assert FarkasLinear(3, 4).rule == FarkasRule("sum", margin=0.0, cutoff=0.0, learn_lambda=False)


@pytest.mark.parametrize("learned", [False, True])
def test_a_printed_layer_says_its_sizes_and_its_rule(learned):
    layer = FarkasConv2d(3, 6, (5, 1), aggregation="mean", margin=0.5, learn_lambda=learned)
    assert all(part in str(layer) for part in ("3x5x1 -> 6", "mean", "margin=0.5", "cutoff=0"))
    assert ("learn_lambda" in str(layer)) is learned


@pytest.mark.parametrize(
    "made",
    [lambda: FarkasLinear(0, 3), lambda: FarkasLinear(2.5, 3), lambda: FarkasConv2d(3, 4, 0),
     lambda: FarkasConv2d(0, 4, 3), lambda: FarkasConv2d(3, 4, 2.5)],
)  # fmt: skip
def test_a_layer_without_inputs_or_a_kernel_is_refused(made):
    with pytest.raises(ValueError, match="whole numbers of at least 1, got weights of"):
        made()
