"""Normalizations against their definitions, and the cutoffs of the activations against their derivatives."""

import pytest
import torch
import torch.nn.functional as F

from farkas_exp.config import NormalizationConfig
from farkas_exp.layers import (
    ACTIVATIONS,
    NORMALIZATIONS,
    Activation,
    GroupNorm,
    build_normalization,
    group_norm,
)
from farkas_exp.machine.errors import UserError


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm(name, channels, spatial=True, **options):
    return build_normalization(NormalizationConfig(name, **options), channels, spatial)


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
    assert sizes[False] == []
    assert sizes[True] == ([] if name == "none" else [6, 6])


def test_none_is_the_identity():
    x = normal(2, 3, 4, 4)
    assert norm("none", 3)(x) is x


@pytest.mark.parametrize("channels", [1, 2, 5, 9])
def test_groups_are_cut_to_the_channels_and_features_keep_something_to_normalize(channels):
    assert norm("group", channels, groups=8)(torch.rand(2, channels, 4, 4)).shape == (2, channels, 4, 4)
    if channels > 1:
        features = norm("group", channels, spatial=False, groups=8)(normal(3, channels))
        assert (features.abs() > 1e-3).any(1).all()


def test_unknown_names_name_the_key_and_the_nearest():
    with pytest.raises(UserError, match=r"normalization.name: unknown 'bach'; did you mean 'batch'"):
        norm("bach", 3)
    with pytest.raises(UserError, match=r"activation.name: unknown 'rleu'; did you mean 'relu'"):
        Activation("rleu")


def slope(name, x):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(Activation(name)(x * 1.0).sum(), x)
    return gradient.abs()


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_the_cutoff_is_the_largest_point_below_which_the_activation_is_flat(name):
    c = ACTIVATIONS[name].cutoff
    below = c - torch.logspace(-6, 1.5, 200, dtype=torch.float64)
    assert slope(name, below).max() <= 0.01 * (1 + 1e-9)
    above = c + torch.logspace(-6, 0.5, 200, dtype=torch.float64)
    assert slope(name, above).min() > 0.01


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_torchs_functions(name):
    x = normal(100)
    assert torch.equal(Activation(name)(x.clone()), getattr(F, name)(x))


def test_the_cutoff_can_be_chosen_and_relu_works_in_place():
    assert Activation("elu").cutoff == pytest.approx(-4.60517, abs=1e-5)
    assert Activation("elu", -2.0).cutoff == -2.0
    assert Activation("relu", 0.5).cutoff == 0.5
    x = normal(10)
    assert Activation("relu")(x).data_ptr() == x.data_ptr()
