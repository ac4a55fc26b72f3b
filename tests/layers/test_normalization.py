"""Normalizations against their definitions, and the cutoffs of the activations against their derivatives."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from farkas_exp.config.extensions import extended
from farkas_exp.config.schema import ActivationConfig, NormalizationConfig
from farkas_exp.layers.activation import Activation
from farkas_exp.layers.farkas import FarkasLinear
from farkas_exp.layers.normalization import GroupNorm, RMSNorm, build_normalization, dynamic_tanh, group_norm, rms_norm
from farkas_exp.layers.residual import FarkasResidualConv2d
from farkas_exp.layers.rule import FarkasRule
from farkas_exp.machine.errors import UserError
from farkas_exp.models.kit import LayerKit, ResidualUnit, Unit
from farkas_exp.registry import ACTIVATIONS, NORMALIZATIONS
from tests.networks import normal


def norm(name, channels, spatial=True, **options):
    return build_normalization(group(name, **options), channels, spatial)


def group(name, **options):
    """The group of the configuration, with the keys that the normalization brings."""
    return extended("normalization", NormalizationConfig, name)(name, **options)


def standardized(values: torch.Tensor) -> torch.Tensor:
    return (values - values.mean()) / (values.var(correction=0) + 1e-5).sqrt()


@pytest.mark.parametrize(
    ("channels", "sizes"), [(7, [3, 2, 2]), (8, [3, 3, 2]), (65, [22, 22, 21]), (4, [2, 1, 1]), (3, [1, 1, 1])]
)
@pytest.mark.parametrize("affine", [False, True])
def test_uneven_groups_equal_the_definition_group_by_group(channels, sizes, affine):
    x = 3 + 2 * normal(2, channels, 4, 3)
    weight, bias = (normal(channels, seed=1), normal(channels, seed=2)) if affine else (None, None)
    expected = torch.empty_like(x)
    for sample in range(2):
        start = 0
        for size in sizes:
            expected[sample, start : start + size] = standardized(x[sample, start : start + size])
            start += size
    if affine:
        expected = expected * weight[:, None, None] + bias[:, None, None]
    torch.testing.assert_close(group_norm(x, 3, weight, bias), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("channels", "groups"), [(8, 8), (8, 2), (64, 8), (6, 1)])
def test_even_groups_are_torchs_own(channels, groups):
    x, weight, bias = normal(2, channels, 4, 3), normal(channels, seed=1), normal(channels, seed=2)
    assert torch.equal(group_norm(x, groups, weight, bias), F.group_norm(x, groups, weight, bias))


def test_the_group_norm_module_uses_its_affine_map():
    x = normal(2, 7, 4, 4)
    module = GroupNorm(3, 7, affine=True).double()
    with torch.no_grad():
        module.weight.copy_(normal(7, seed=1))
        module.bias.copy_(normal(7, seed=2))
    torch.testing.assert_close(module(x), group_norm(x, 3, module.weight, module.bias), rtol=0, atol=0)
    assert not list(GroupNorm(3, 7).parameters())


@pytest.mark.parametrize(
    ("name", "over"),
    [("batch", lambda x: x.transpose(0, 1).flatten(1)), ("layer", lambda x: x.flatten(1)),
     ("group", lambda x: x.unflatten(1, (3, 2)).flatten(2).flatten(0, 1)),
     ("instance", lambda x: x.flatten(2).flatten(0, 1))],
)  # fmt: skip
def test_each_normalization_standardizes_over_its_own_axes(name, over):
    module = norm(name, 6, groups=3).double()
    x = normal(5, 6, 4, 4) * (1 + torch.arange(6)[:, None, None]) + torch.arange(5)[:, None, None, None]
    expected = torch.stack([standardized(row) for row in over(x)])
    torch.testing.assert_close(over(module(x)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("spatial", [True, False])
@pytest.mark.parametrize("name", sorted(NORMALIZATIONS))
def test_normalizations_are_affine_free_unless_asked(name, spatial):
    if name == "instance" and not spatial:
        with pytest.raises(UserError, match=r"normalization.name: instance needs images"):
            norm(name, 6, spatial=False)
        return
    sizes = {affine: [p.numel() for p in norm(name, 6, spatial, affine=affine).parameters()]
             for affine in (False, True)}  # fmt: skip
    assert sizes[False] == ([1] if name == "dyt" else [])  # its alpha
    assert sizes[True] == sizes[False] + {"none": [], "rms": [6]}.get(name, [6, 6])


@pytest.mark.parametrize("shape", [(5, 6, 4, 3), (5, 6)])
def test_rms_divides_each_image_by_its_root_mean_square(shape):
    x = 2 + normal(*shape) * (1 + torch.arange(5).view(-1, *[1] * (len(shape) - 1)))
    out = norm("rms", 6, len(shape) == 4).double()(x)
    torch.testing.assert_close(out.square().flatten(1).mean(1), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.flatten(1), F.rms_norm(x.flatten(1), (x[0].numel(),), eps=1e-5), rtol=0, atol=1e-12)
    assert not list(RMSNorm(6).parameters())
    weight = normal(6, seed=1)
    torch.testing.assert_close(rms_norm(x, weight).transpose(1, -1), out.transpose(1, -1) * weight, rtol=0, atol=1e-12)


def test_rms_counts_in_single_precision_and_keeps_the_type():
    x = torch.full((1, 4096), 1.0).bfloat16()
    x[0, 0] = 64.0  # a sum in bfloat16 would stop growing beside it
    out = rms_norm(x)
    assert out.dtype == torch.bfloat16
    assert out[0, 1].item() == pytest.approx((4096 / (4095 + 4096)) ** 0.5, rel=1e-2)


@pytest.mark.parametrize("shape", [(5, 6, 4, 3), (5, 6)])
def test_dynamic_tanh_is_an_element_wise_tanh_with_one_learned_slope(shape):
    x = normal(*shape)
    module = norm("dyt", 6, len(shape) == 4, alpha=0.7).double()
    torch.testing.assert_close(module(x), torch.tanh(0.7 * x), rtol=0, atol=1e-7)
    weight, bias, alpha = normal(6, seed=1), normal(6, seed=2), torch.tensor(0.3, dtype=torch.float64)
    out = dynamic_tanh(x, alpha, weight, bias)
    expected = weight * torch.tanh(0.3 * x.transpose(1, -1)) + bias
    torch.testing.assert_close(out.transpose(1, -1), expected, rtol=0, atol=1e-12)
    (module(x) * 0.1).square().sum().backward()
    assert module.alpha.grad.abs() > 0
    assert norm("dyt", 6).alpha.item() == 0.5  # the paper's


def kit(name, position, **options):
    return LayerKit(True, True, FarkasRule(), ActivationConfig(), group(name, position=position, **options))


@pytest.mark.parametrize("position", ["after", "before"])
@pytest.mark.parametrize("name", ["rms", "dyt"])
def test_rms_and_dynamic_tanh_neither_revive_nor_kill_a_unit(name, position):
    layer = FarkasLinear(4, 6, dtype=torch.float64)
    unit, x = Unit(kit(name, position), layer, 6, spatial=False).double(), 3 * normal(200, 4)
    active = layer(x) > 0
    assert active.any(1).all()
    assert not active.all()
    assert torch.equal(unit(x) != 0, active)
    if position == "before":  # a mean that is subtracted, or a shift, does both
        assert not torch.equal(Unit(kit("batch", "before"), layer, 6, spatial=False).double()(x) != 0, active)
        if name == "rms":
            torch.nn.init.constant_(
                (turned := Unit(kit(name, "before", affine=True), layer, 6).double()).norm.weight, -1
            )
            assert torch.equal(turned(x) != 0, layer(x) < 0)
        if name == "dyt":
            torch.nn.init.constant_(
                (shifted := Unit(kit(name, "before", affine=True), layer, 6).double()).norm.bias, -2
            )
            assert not shifted(x).any()


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("name", sorted(NORMALIZATIONS))
def test_the_relu_behind_a_normalization_overwrites_nothing_that_the_gradient_needs(name, affine):
    unit = Unit(kit(name, "before", affine=affine), nn.Identity(), 6).double()
    of_unit, plainly = (normal(3, 6, 4, 4).requires_grad_() for _ in range(2))
    for out, leaf in ((unit(of_unit * 1.0), of_unit), (F.relu(unit.norm(plainly)), plainly)):
        (out * normal(3, 6, 4, 4, seed=1)).sum().backward()
        assert leaf.grad.abs().sum() > 0
    torch.testing.assert_close(of_unit.grad, plainly.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("margin", [0.0, 0.3])
@pytest.mark.parametrize(("name", "kept"), [("rms", True), ("dyt", False)])
def test_between_a_branch_and_its_sum_rms_keeps_the_guarantee_and_dynamic_tanh_loses_it(name, kept, margin):
    layer = FarkasResidualConv2d(1, 2, 1, margin=margin, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.fill_(-1.0)
        layer.bias.zero_()
    unit, hidden, seen = ResidualUnit(kit(name, "before"), layer, 3).double(), torch.ones(1, 1, 1, 1).double(), []
    unit.activation.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    branch = unit.norm(layer.branch(hidden)).detach()
    unit(hidden, branch.mean() - branch[:, :-1])  # the shortcut that makes all three pre-activations equal: the worst
    (worst,) = seen
    torch.testing.assert_close(worst, branch.mean().expand_as(worst), rtol=0, atol=1e-12)
    assert (worst.max() > -1e-12) == kept
    assert (worst.max() > 0.01) == (kept and margin > 0)


def test_none_is_the_identity():
    x = normal(2, 3, 4, 4)
    assert norm("none", 3)(x) is x


@pytest.mark.parametrize("channels", [1, 2, 5, 9])
def test_groups_are_cut_to_the_channels_and_features_keep_something_to_normalize(channels):
    assert norm("group", channels, groups=8)(torch.rand(2, channels, 4, 4)).shape == (2, channels, 4, 4)
    if channels > 1:
        features = norm("group", channels, spatial=False, groups=8)(normal(3, channels))
        assert (features.abs() > 1e-3).any(1).all()


FLAT = sorted(name for name in ACTIVATIONS if ACTIVATIONS[name].cutoff > float("-inf"))


def slope(name, x):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(Activation(name)(x * 1.0).sum(), x)
    return gradient.abs()


@pytest.mark.parametrize("name", FLAT)
def test_the_cutoff_is_the_largest_point_below_which_the_activation_is_flat(name):
    c = ACTIVATIONS[name].cutoff
    below = c - torch.logspace(-6, 1.5, 200, dtype=torch.float64)
    assert slope(name, below).max() <= 0.01 * (1 + 1e-9)
    above = c + torch.logspace(-6, 0.5, 200, dtype=torch.float64)
    assert slope(name, above).min() > 0.01


@pytest.mark.parametrize("name", FLAT)
def test_activations_are_torchs_functions(name):
    x = normal(100)
    assert torch.equal(Activation(name)(x.clone()), getattr(F, name)(x))


def test_the_cutoff_can_be_chosen_and_relu_works_in_place():
    assert Activation("elu").cutoff == pytest.approx(-4.60517, abs=1e-5)
    assert Activation("elu", -2.0).cutoff == -2.0
    assert Activation("relu", 0.5).cutoff == 0.5
    x = normal(10)
    assert Activation("relu")(x).data_ptr() == x.data_ptr()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("groups", [2, 3])
def test_group_norm_is_traced(groups):
    norm, maps = GroupNorm(groups, 4), torch.rand(3, 4, 2, 2)
    torch.testing.assert_close(torch.jit.trace(norm, maps[:2])(maps), norm(maps))


def test_an_activation_prints_its_name_its_cutoff_and_what_was_made_for_it():
    made = Activation("elu", -2.5)
    assert str(made) == "Activation(elu, cutoff=-2.5)"
    made.fit(torch.abs, "one")
    assert str(made) == "Activation(elu, cutoff=-2.5, one)"
    assert made(torch.tensor([-1.0])).tolist() == [1]
