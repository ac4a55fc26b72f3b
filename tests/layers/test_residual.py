"""Algorithm 2: the residual Farkas layer, on its plain and on its fused path."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
import torch.nn.functional as F

from farkas_exp.kernels import accelerate
from farkas_exp.layers.activation import Activation
from farkas_exp.layers.certificate import certify
from farkas_exp.layers.paths import plain_path
from farkas_exp.layers.residual import FarkasResidualConv2d, ResidualConv2d, append_shortcut
from tests.layers.made_layers import appended, residual
from tests.networks import normal

AGG = {"sum": torch.sum, "mean": torch.mean}
PATHS = ["plain", "fused"]


def layer_of(aggregation="sum", kernel=3, **options):
    return accelerate(residual(aggregation, kernel, **options), torch.device("cpu"))


def activate(layer, hidden, shortcut, path, name="relu"):
    """The activated layer on the asked path; checks that the path was taken."""
    with activations() as calls, plain_path() if path == "plain" else nullcontext():
        out = layer.activate(hidden, shortcut, Activation(name))
    assert len(calls) == (path == "plain")
    return out


@contextmanager
def activations():
    """What activations are called with; not seen by a hook, from which the fused path steps aside."""
    calls, forward = [], Activation.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Activation, "forward", lambda self, input: calls.append(input.clone()) or forward(self, input))
        yield calls


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("last_bias", [-9.0, 9.0])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("aggregation", AGG)
@pytest.mark.parametrize("path", PATHS)
def test_the_layer_equals_algorithm_2_with_its_gradients(path, aggregation, kernel, last_bias, channels_last):
    layer = layer_of(aggregation, kernel)
    with torch.no_grad():
        layer.bias[-1] = last_bias
    hidden, x = normal(2, 3, 6, 7, seed=5), normal(2, 5, 6, 7, seed=6)
    if channels_last:
        hidden, x = (tensor.to(memory_format=torch.channels_last) for tensor in (hidden, x))
    inputs = (hidden.requires_grad_(), x.requires_grad_(), layer.weight, layer.bias)
    y = x + F.conv2d(hidden, layer.weight, padding=kernel // 2)  # the second line of Algorithm 2
    reference = torch.relu(appended(y, layer.bias, AGG[aggregation]))
    cotangent = normal(*reference.shape, seed=7)
    expected = torch.autograd.grad(reference, inputs, cotangent)
    ours = activate(layer, hidden, x, path)
    assert ours.shape == (2, 6, 6, 7)
    assert ours.is_contiguous(memory_format=torch.channels_last) is channels_last
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)
    for mine, literal in zip(torch.autograd.grad(ours, inputs, cotangent), expected, strict=True):
        torch.testing.assert_close(mine, literal, rtol=0, atol=1e-12 * max(1.0, float(literal.abs().max())))


@pytest.mark.parametrize("aggregation", AGG)
def test_the_fused_path_has_right_first_and_second_derivatives(aggregation):
    layer = layer_of(aggregation, kernel=1)
    inputs = (normal(2, 3, 2, 2, seed=5).requires_grad_(), normal(2, 5, 2, 2, seed=6).requires_grad_())

    def smooth_in_the_output(hidden, shortcut):
        return activate(layer, hidden, shortcut, "fused").pow(3)

    assert torch.autograd.gradcheck(smooth_in_the_output, inputs)
    assert torch.autograd.gradgradcheck(smooth_in_the_output, inputs)


def test_the_fused_path_leaves_its_inputs_alone_and_needs_no_gradient_of_the_shortcut():
    layer = layer_of()
    hidden, x = normal(2, 3, 4, 4, seed=5), normal(2, 5, 4, 4, seed=6)
    before = hidden.clone(), x.clone()
    out = activate(layer, hidden, x, "fused")
    out.sum().backward()
    fused = layer.weight.grad.clone()
    layer.zero_grad()
    activate(layer, hidden, x, "plain").sum().backward()
    torch.testing.assert_close(fused, layer.weight.grad, rtol=0, atol=1e-12)
    assert torch.equal(hidden, before[0])
    assert torch.equal(x, before[1])


@pytest.mark.parametrize(("name", "learned"), [("elu", False), ("relu", True)])
def test_only_relu_with_a_fixed_lambda_is_fused(name, learned):
    layer = layer_of(learn_lambda=learned)
    hidden, x = normal(2, 3, 4, 4), normal(2, 5, 4, 4)
    with activations() as seen:
        out = layer.activate(hidden, x, Activation(name))
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], layer(hidden, x), rtol=0, atol=1e-13)
    torch.testing.assert_close(out, Activation(name)(layer(hidden, x)), rtol=0, atol=1e-13)


def test_a_shortcut_of_another_precision_is_not_rounded_to_the_branch():
    layer = accelerate(FarkasResidualConv2d(3, 5, 1), torch.device("cpu"))
    hidden, x = normal(2, 3, 4, 4).float(), 1 + normal(2, 5, 4, 4, seed=1).float() * 1e-4
    with torch.autocast("cpu", torch.bfloat16):
        out = layer.activate(hidden, x, Activation("relu"))
    assert out.dtype == torch.float32
    branch = layer.branch(hidden).detach().bfloat16().float()
    torch.testing.assert_close(out, append_shortcut(branch, x, 1.0).relu(), rtol=0, atol=0.02)


@pytest.mark.parametrize("cutoff", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("rule", ["sum", "mean", "learned"])
def test_any_shortcut_is_safe(rule, cutoff):
    for seed in range(5):
        layer = layer_of("sum" if rule == "learned" else rule, seed=seed, learn_lambda=rule == "learned", cutoff=cutoff)
        if rule == "learned":
            lam = layer.lambda_logits.detach().softmax(0)
        else:
            lam = torch.tensor([1 / 6] * 6 if rule == "sum" else [0.1] * 5 + [0.5], dtype=torch.float64)
        bound = float(lam @ layer.augmented()[1].detach())
        for scale in (0.0, 1.0, -100.0):
            hidden, x = normal(4, 3, 5, 5, seed=seed), normal(4, 5, 5, 5, seed=seed + 50, scale=scale).abs() * scale
            z = layer(hidden, x).detach()
            combined = torch.einsum("nchw,c->nhw", z, lam)
            torch.testing.assert_close(combined, torch.full_like(combined, bound), rtol=0, atol=1e-10)
            certificate = certify(layer, hidden, x)
            assert certificate.lambda_b == pytest.approx(bound, abs=1e-12)
            assert certificate.margin == pytest.approx(float(z.amax(1).min()), abs=1e-15)
            assert certificate.margin >= max(bound, cutoff) - 1e-10


def test_the_worst_case_a_zero_layer_on_a_zero_shortcut_is_dead_without_a_margin_only():
    hidden, zero = normal(2, 3, 4, 4), torch.zeros(2, 5, 4, 4, dtype=torch.float64)
    for margin in (0.0, 0.1):
        layer = layer_of(margin=margin)
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.zero_()
        certificate = certify(layer, hidden, zero)
        assert (certificate.strict, certificate.active) == (margin > 0, margin > 0)


def test_the_layer_is_made_on_the_device_that_is_asked_for():
    assert {p.device.type for p in FarkasResidualConv2d(3, 5, 1, device="meta").parameters()} == {"meta"}


def test_certify_asks_for_the_shortcut():
    with pytest.raises(ValueError, match="with its shortcut"):
        certify(layer_of(), normal(1, 3, 4, 4))


def test_the_plain_residual_layer_adds_the_shortcut():
    layer = ResidualConv2d(3, 5, 3, padding=1, dtype=torch.float64)
    hidden, x = normal(2, 3, 4, 4), normal(2, 5, 4, 4, seed=1)
    expected = F.conv2d(hidden, layer.weight, layer.bias, padding=1) + x
    torch.testing.assert_close(layer(hidden, x), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(layer.activate(hidden, x, Activation("relu")), expected.relu(), rtol=0, atol=1e-13)
