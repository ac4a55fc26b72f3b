"""Starts of the loss landscape's studies: inherited minima, zeros, shifted biases."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from farkas_exp.initialization.apply import initialize
from farkas_exp.initialization.landscape import inherited_minimum, linear_classifier
from farkas_exp.machine.errors import UserError
from farkas_exp.measures.hessian import loss_and_gradient_norm
from farkas_exp.models.create import create_model
from tests.points import moons


def lemma_network():
    """200 points, 8 -> [6, 5, 7] -> 3, in float64: the points, their labels, the classifier, the network's layers."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(200, 8, dtype=torch.float64, generator=generator)
    labels = torch.randint(3, (200,), generator=generator)
    weight, bias = linear_classifier(points, labels, 3)
    return points, labels, weight, bias, inherited_minimum(weight, bias, [6, 5, 7], points)


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
    values = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, start))
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
        state = torch.get_rng_state()
        initialize(model, name, **options)
        assert torch.equal(torch.get_rng_state(), state), "the generator is a private one"
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
        ("bias_shift", {}, "init.name: bias_shift needs a number, such as init.bias=20"),
        ("bias_uniform", {"bias": -1.0}, "init.bias: -1.0 is out of range; it must be positive"),
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


@pytest.mark.parametrize(("classes", "inputs", "least"), [(2, 9, 2), (5, 2, 2), (3, 3, 3)])
def test_lemma_1_needs_as_many_units_as_the_classifier_has_singular_values(classes, inputs, least):
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(40, inputs, 1, 1, generator=generator), torch.arange(40) % classes

    def network(width):
        return create_model("mlp", classes, in_channels=inputs, image_size=1, depth=2, width=width)

    with pytest.raises(UserError, match=f"must be >= {least}$"):
        initialize(network(least - 1), "local_minimum", images=images, labels=labels)
    model = network(least)
    initialize(model, "local_minimum", images=images, labels=labels)
    weight, bias = linear_classifier(images.flatten(1), labels, classes)
    linear = F.linear(images.flatten(1).double(), weight, bias).float()
    torch.testing.assert_close(model(images), linear, rtol=0, atol=1e-4)


def test_every_unit_is_active_at_points_whose_largest_feature_is_negative():
    weight = torch.eye(2, dtype=torch.float64)
    points = -torch.rand(20, 2, generator=torch.Generator().manual_seed(0)).double() * 9
    (first, shift), *_ = inherited_minimum(weight, torch.zeros(2).double(), [3, 2], points)
    assert F.linear(points, first, shift).min() >= 1 - 1e-12
    assert float(shift.max()) == pytest.approx(1 + float(points.abs().max()))
