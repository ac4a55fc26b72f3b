"""Starts and figures of the loss landscape: Lemma 1, Hessian, tangent kernel, ranks."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from farkas_exp.data.arrays.moons import make_moons
from farkas_exp.initialization import initialize
from farkas_exp.initialization.landscape import inherited_minimum, linear_classifier
from farkas_exp.layers import FarkasLayer, FarkasLinear
from farkas_exp.layers.standardization import Standardizable
from farkas_exp.machine.errors import UserError
from farkas_exp.measures.hessian import hessian_extremes, lanczos_extremes, loss_and_gradient_norm, parameter_norm
from farkas_exp.measures.ntk import kernel_change, kernel_correlation, tangent_kernel
from farkas_exp.measures.spectrum import conv_singular_values, effective_rank, effective_ranks, used_weight
from farkas_exp.methods import Training, build_methods, execution_mode
from farkas_exp.methods.rank_projection import PROJECTIONS, project_ranks, project_weight
from farkas_exp.models import create_model
from farkas_exp.training.schedule import learning_rate_at


def moons(count=85):
    points, labels = make_moons(count, 0.1, torch.Generator().manual_seed(0))
    return points.float().view(-1, 2, 1, 1), labels


def lemma_network():
    """200 points, 8 -> [6, 5, 7] -> 3, in float64: the points, their labels, the classifier, the network's layers."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(200, 8, dtype=torch.float64, generator=generator)
    labels = torch.randint(3, (200,), generator=generator)
    weight, bias = linear_classifier(points, labels, 3)
    return points, labels, weight, bias, inherited_minimum(weight, bias, [6, 5, 7], points)


def hessian_matrix(loss, flat):
    """The exact Hessian of a function of one vector."""
    return torch.autograd.functional.hessian(loss, flat)


def run_layers(layers, points):
    hidden = points
    for weight, bias in layers[:-1]:
        hidden = F.relu(F.linear(hidden, weight, bias))
    return F.linear(hidden, *layers[-1])


def test_lemma_1_gives_the_linear_classifier_with_all_units_active():
    points, _, weight, bias, layers = lemma_network()
    assert [tuple(w.shape) for w, _ in layers] == [(6, 8), (5, 6), (7, 5), (3, 7)]
    assert (run_layers(layers, points) - F.linear(points, weight, bias)).abs().max() < 1e-12
    hidden = points
    for w, b in layers[:-1]:
        hidden = F.linear(hidden, w, b)
        assert hidden.min() >= 1 - 1e-12


def test_the_inherited_point_is_a_local_minimum():
    """Theorem 1: the gradient vanishes, no small perturbation is lower, no eigenvalue of the Hessian is negative."""
    points, labels, _, _, layers = lemma_network()
    shapes = [(w.shape, b.shape) for w, b in layers]
    start = torch.cat([torch.cat((w.flatten(), b)) for w, b in layers])

    def loss(flat):
        parts, place = [], 0
        for w, b in shapes:
            size = w.numel()
            parts.append((flat[place : place + size].view(w), flat[place + size : place + size + b.numel()]))
            place += size + b.numel()
        return F.cross_entropy(run_layers(parts, points), labels)

    gradient = torch.autograd.functional.jacobian(loss, start)
    assert gradient.norm() < 1e-6
    generator = torch.Generator().manual_seed(1)
    here = loss(start)
    for _ in range(500):
        step = torch.randn(start.shape, dtype=start.dtype, generator=generator)
        assert loss(start + 1e-3 * step / step.norm()) >= here - 1e-12
    values = torch.linalg.eigvalsh(hessian_matrix(loss, start))
    assert values[-1] > 1
    assert values[0] > -1e-6 * values[-1]


def test_local_minimum_puts_an_mlp_there_and_training_stays():
    images, labels = moons()
    model = create_model("mlp", 2, in_channels=2, image_size=1, depth=3, width=10)
    initialize(model, "local_minimum", images=images, labels=labels)
    weight, bias = linear_classifier(images.flatten(1), labels, 2)
    best_linear = F.cross_entropy(F.linear(images.flatten(1).double(), weight, bias), labels)
    start = F.cross_entropy(model(images), labels)
    assert float(start.detach()) == pytest.approx(float(best_linear), abs=1e-5)
    assert loss_and_gradient_norm(model, images, labels)[1] < 1e-3
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) == pytest.approx(float(best_linear), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("farkas_mlp", {}, "is for model=mlp, plain"),
        ("mlp", {"normalization": "batch"}, "without normalization"),
        ("mlp", {"residual": True}, "shortcuts"),
        ("rect_conv", {}, "is for model=mlp"),
        ("mlp", {"width": 1}, "model.width: 1 is too narrow for init=local_minimum; it must be >= 2"),
        ("mlp", {"activation": "elu"}, "with ReLU"),
    ],
)
def test_lemma_1_is_refused_where_it_does_not_hold(name, options, message):
    images, labels = moons()
    model = create_model(name, 2, **{"in_channels": 2, "image_size": 1, "depth": 2, "width": 4, **options})
    with pytest.raises(UserError, match=message):
        initialize(model, "local_minimum", images=images, labels=labels)


def test_zero_and_bias_starts():
    def made(name, **options):
        torch.manual_seed(0)
        model = create_model("mlp", 2, in_channels=2, image_size=1, depth=2, width=4)
        initialize(model, name, **options)
        return model

    plain, zero, shifted, spread = (
        made(name, **options)
        for name, options in (
            ("pytorch", {}),
            ("zero", {}),
            ("bias_shift", {"bias": 20}),
            ("bias_uniform", {"bias": 50}),
        )
    )
    assert all(not p.any() for p in zero.parameters())
    for own, p in zip(shifted.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own, p if p.dim() == 2 else p + 20)
    biases = torch.cat([p.flatten() for p in spread.parameters() if p.dim() == 1])
    assert 25 < biases.abs().max() <= 50
    assert biases.min() < 0 < biases.max()


def test_a_bias_of_a_normalization_is_shifted_too():
    """Batch norm between a convolution and its activation undoes the convolution's own bias."""
    norm = {"name": "batch", "position": "before", "affine": True}
    model = create_model("resnet18", 10, blocks=(1,), widths=(4,), normalization=norm)
    initialize(model, "bias_shift", bias=20)
    betas = [module.bias for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert betas
    assert all((beta == 20).all() for beta in betas)
    initialize(model, "bias_uniform", bias=50)
    assert all(beta.abs().max() > 5 for beta in betas)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bias_shift", {}, "init.bias: bias_shift needs a number"),
        ("bias_uniform", {"bias": -1.0}, "init.bias: -1.0 is out of range; it must be positive"),
        ("zero", {"bias": 1.0}, "init.bias: init zero has no bias"),
    ],
)
def test_a_bias_where_it_does_not_fit_is_refused(name, options, message):
    model = create_model("mlp", 2, in_channels=2, image_size=1)
    with pytest.raises(UserError, match=message):
        initialize(model, name, **options)


def test_a_farkas_network_starts_from_zero_with_a_margin_only():
    with pytest.raises(UserError, match=r"aggregation.margin=0.1"):
        initialize(create_model("farkas_mlp", 2, in_channels=2, image_size=1), "zero")
    model = create_model("farkas_mlp", 2, in_channels=2, image_size=1, aggregation={"margin": 0.1})
    initialize(model, "zero")
    assert float(model.hidden[0].layer(torch.randn(5, 2)).detach().amax(1).min()) == pytest.approx(0.1)


def exact_hessian(model, images, labels):
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])

    def loss(vector):
        parts = torch.split(vector, [shape.numel() for shape in shapes])
        named = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return F.cross_entropy(functional_call(model, named, images), labels)

    return hessian_matrix(loss, flat)


@pytest.mark.parametrize("name", ["mlp", "farkas_mlp"])
def test_lanczos_finds_the_extreme_eigenvalues_of_the_exact_hessian(name):
    torch.manual_seed(0)
    model = create_model(name, 2, in_channels=2, image_size=1, depth=2, width=5, activation="softplus").double()
    images, labels = moons(30)
    images = images.double()
    exact = torch.linalg.eigvalsh(exact_hessian(model, images, labels))
    for steps in (200, 40):  # 200: more than there are parameters, so the space is exhausted
        smallest, largest = hessian_extremes(model, images, labels, steps=steps)
        assert smallest == pytest.approx(float(exact[0]), abs=1e-8 * float(exact[-1]))
        assert largest == pytest.approx(float(exact[-1]), rel=1e-8)


def test_lanczos_on_a_matrix_with_a_wide_spectrum():
    """The shifted power method of the paper finds the smallest eigenvalue to the accuracy of the largest only."""
    values = torch.cat((torch.linspace(-1e-3, 1, 99, dtype=torch.float64), torch.tensor([1e3], dtype=torch.float64)))
    basis, _ = torch.linalg.qr(torch.randn(100, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    matrix = basis @ torch.diag(values) @ basis.T
    smallest, largest = lanczos_extremes(lambda v: matrix @ v, torch.ones(100, dtype=torch.float64), 100)
    assert (smallest, largest) == (pytest.approx(-1e-3, abs=1e-9), pytest.approx(1e3))
    assert lanczos_extremes(lambda v: 2 * v, torch.ones(5, dtype=torch.float64), 5) == pytest.approx((2, 2))
    assert lanczos_extremes(torch.zeros_like, torch.ones(5, dtype=torch.float64), 5) == (0, 0)


def test_norms_of_parameters_and_gradient():
    model = create_model("mlp", 2, in_channels=2, image_size=1, depth=2, width=5)
    images, labels = moons(30)
    F.cross_entropy(model(images), labels).backward()
    gradient = math.sqrt(sum(float(p.grad.pow(2).sum()) for p in model.parameters()))
    loss, norm = loss_and_gradient_norm(model, images, labels)
    assert norm == pytest.approx(gradient, rel=1e-5)
    assert loss == pytest.approx(float(F.cross_entropy(model(images), labels).detach()))
    assert parameter_norm(model) == pytest.approx(
        math.sqrt(sum(float(p.detach().pow(2).sum()) for p in model.parameters()))
    )
    assert model.training


class WithIdlePart(nn.Module):
    """A network in double precision with a parameter that its output does not depend on."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(2, 4), nn.Softplus(), nn.Linear(4, 2)).double()
        self.idle = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, images):
        return self.layers(images)


def test_a_parameter_that_does_nothing_adds_zeros_and_no_more():
    model = WithIdlePart()
    images, labels = moons(20)
    images = images.double()
    exact = torch.linalg.eigvalsh(exact_hessian(model.layers, images, labels))
    extremes = hessian_extremes(model, images, labels, steps=40)
    assert extremes == pytest.approx((min(0.0, float(exact[0])), float(exact[-1])), abs=1e-9)
    assert torch.equal(tangent_kernel(model, images[:3]), tangent_kernel(model.layers, images[:3]))


def test_the_first_vector_of_lanczos_is_drawn_from_its_seed_alone():
    model = WithIdlePart()
    images, labels = moons(20)
    found = []
    for own, other in ((1, 0), (1, 5), (2, 5)):
        torch.manual_seed(other)
        found.append(hessian_extremes(model, images.double(), labels, steps=3, seed=own))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("name", ["mlp", "farkas_mlp", "resnet34", "farkasnet34"])
def test_the_tangent_kernel_is_the_jacobian_times_its_transpose(name):
    torch.manual_seed(0)
    sizes = {"depth": 2, "width": 5} if "mlp" in name else {"blocks": (1,), "widths": (4,), "normalization": "batch"}
    model = create_model(name, 3, in_channels=2, image_size=4, **sizes)
    images = torch.randn(4, 2, 4, 4)
    model.eval()
    rows = []
    for logit in model(images).flatten():
        parts = torch.autograd.grad(logit, list(model.parameters()), retain_graph=True)
        rows.append(torch.cat([part.flatten() for part in parts]))
    matrix = torch.stack(rows)
    assert torch.allclose(tangent_kernel(model, images), matrix @ matrix.T, rtol=1e-4, atol=1e-5)


def trained_correlation(width, steps=200):
    """Correlation of a two-layer network's kernel before and after training on 25 moons points."""
    torch.manual_seed(0)
    images, labels = moons(25)
    model = create_model("mlp", 2, in_channels=2, image_size=1, depth=1, width=width)
    before = tangent_kernel(model, images)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    after = tangent_kernel(model, images)
    assert kernel_change(before, after) > 0
    return kernel_correlation(before, after)


def test_the_tangent_kernel_moves_less_in_wider_networks():
    narrow, middle, wide = (trained_correlation(width) for width in (16, 128, 1024))
    assert narrow < middle < wide
    assert narrow < 0.98
    assert wide > 0.999


def test_correlation_is_blind_to_scale_and_relative_change_is_not():
    kernel = torch.randn(5, 5)
    assert kernel_correlation(kernel, 3 * kernel) == pytest.approx(1)
    assert kernel_change(kernel, 3 * kernel) == pytest.approx(2)


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

    def due(made):
        model = nn.Linear(1, 1)
        (projection,) = build_methods(Training(made, model, Data(), model))
        found = []
        for epoch in range(10):
            before = len(calls)
            changed = projection.after_epoch(epoch)
            found += [epoch] if len(calls) > before else []
            assert changed == (len(calls) > before)
        return found

    assert due(made) == [5, 7, 9]
    own = made.callback
    healing = dataclasses.replace(made, callback=dataclasses.replace(own, every_epochs=1, healing_epochs=2, lr=1e-3))
    assert due(healing) == [5, 6, 7]  # two epochs are trained after the last projection
    rates = [learning_rate_at(healing, epoch, 0, 10) for epoch in range(5, 10)]
    assert rates == pytest.approx([1e-3, 1e-4, 1e-5, 1e-5, 1e-5])  # after a fifth and a third of five
    assert learning_rate_at(healing, 4, 0, 10) == learning_rate_at(made, 4, 0, 10)
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
