"""The theorems of "Identity matters in deep learning" (Hardt and Ma 2017), at constructed and trained networks."""

import io
import math
from functools import reduce

import pytest
import torch

from farkas_exp.machine.errors import UserError
from farkas_exp.models.linear_residual import LinearResidual
from farkas_exp.report import command
from farkas_exp.report.render import show
from farkas_exp.runs import collect
from farkas_exp.studies.identity_matters import report as identity
from farkas_exp.studies.identity_matters.theory.descent import descend, random_regression
from farkas_exp.studies.identity_matters.theory.exact_fit import ReluMap, exact_fit, separating_threshold
from farkas_exp.studies.identity_matters.theory.regression import Regression, largest_norm
from farkas_exp.studies.identity_matters.theory.small_norm import (
    condition,
    norm_bound,
    rotation_root,
    small_norm_weights,
    split_depth,
)
from tests.made_runs import make_run, settings


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def network(weights):
    model = LinearResidual(len(weights), len(weights[0])).double()
    with torch.no_grad():
        for parameter, weight in zip(model.weights(), weights, strict=True):
            parameter.copy_(weight)
    return model


def rotation(size, seed=0):
    orthogonal = torch.linalg.qr(random(size, size, seed=seed))[0]
    if torch.linalg.det(orthogonal) < 0:
        orthogonal[0].neg_()
    return orthogonal


def test_a_linear_residual_network_is_the_product_of_its_layers():
    weights = [random(4, 4, seed=seed) for seed in range(3)]
    eye = torch.eye(4, dtype=torch.float64)
    product = (eye + weights[2]) @ (eye + weights[1]) @ (eye + weights[0])
    model = network(weights)
    points = random(5, 4, seed=9)
    torch.testing.assert_close(model.product(), product)
    torch.testing.assert_close(model(points), points @ product.T)


def gradients(problem, weights):
    """Of f by A_i: 2 (I + A_(i+1))^T ... (I + A_l)^T E Sigma (I + A_1)^T ... (I + A_(i-1))^T (Equation 2.5)."""
    eye = torch.eye(len(problem.target), dtype=torch.float64)
    layers = [eye + weight for weight in weights]
    error = reduce(torch.matmul, reversed(layers)) - problem.target

    def product(matrices):
        return reduce(torch.matmul, (matrix.T for matrix in matrices), eye)

    return [2 * product(layers[i + 1 :]) @ error @ problem.covariance @ product(layers[:i]) for i in range(len(layers))]


def test_the_excess_risk_is_the_expected_squared_error_of_the_inputs():
    points, target = random(50, 4), random(4, 4, seed=1)
    model = network([0.3 * random(4, 4, seed=seed) for seed in (2, 3)])
    problem = Regression(target, points.T @ points / 50)
    expected = (model(points) - points @ target.T).square().sum(1).mean()
    torch.testing.assert_close(problem.excess_risk(model.product()), expected)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_gradient_formula_is_autograds(depth):
    """Lemma 2.4."""
    problem = random_regression(5, 0.8, seed=1)
    model = network([0.4 * random(5, 5, seed=seed) for seed in range(depth)])
    problem.excess_risk(model.product()).backward()
    written = gradients(problem, [weight.detach() for weight in model.weights()])
    for formula, weight in zip(written, model.weights(), strict=True):
        torch.testing.assert_close(formula, weight.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("size", "gamma"), [(2, 0.3), (5, 1.0), (8, 2.0)])
def test_the_constructed_optimum_is_exact_and_within_the_bound(size, gamma, seed):
    """Theorem 2.1: zero excess risk and |||A||| <= (4 pi + 3 gamma) / l."""
    problem = random_regression(size, gamma, seed)
    assert torch.linalg.det(problem.target) > 0
    assert condition(problem.target) == pytest.approx(gamma)
    for depth in (max(3, math.ceil(3 * gamma)), 10, 41, 200):
        weights = small_norm_weights(problem.target, depth)
        assert len(weights) == depth
        assert float(largest_norm(weights)) <= norm_bound(gamma, depth)
        assert float(problem.excess_risk(network(weights).product().detach())) < 1e-22


def test_the_depth_is_split_so_that_the_bound_holds_for_every_target_of_the_theorem():
    for depth in range(3, 200):
        for gamma in torch.linspace(0, depth / 3, 20).tolist():
            q, p = split_depth(depth, gamma)
            assert 2 * q + p == depth
            assert min(q, p) >= 1
            assert max(2 * math.sin(math.pi / (2 * q)), math.expm1(gamma / p)) <= norm_bound(gamma, depth)


@pytest.mark.parametrize("order", [1, 2, 7])
@pytest.mark.parametrize(
    "matrix",
    [rotation(7), rotation(6, seed=3), torch.eye(4).double(), -torch.eye(4).double(),
     torch.diag(torch.tensor([-1.0, 1, 1, -1, 1]).double()), torch.tensor([[0.0, -1], [1, 0]]).double()],
    ids=["7", "6", "identity", "minus identity", "two reflections", "quarter turn"],
)  # fmt: skip
def test_the_root_of_a_rotation_is_a_rotation_near_the_identity(matrix, order):
    """Claim A.1: eigenvalues -1 come in pairs, and each pair is a turn by pi."""
    root = rotation_root(matrix, order)
    eye = torch.eye(len(matrix), dtype=torch.float64)
    torch.testing.assert_close(torch.linalg.matrix_power(root, order), matrix, rtol=0, atol=1e-12)
    torch.testing.assert_close(root @ root.T, eye, rtol=0, atol=1e-12)
    assert float(torch.linalg.det(root)) == pytest.approx(1)
    assert float(torch.linalg.matrix_norm(root - eye, 2)) <= math.pi / order
    turns = torch.linalg.eigvals(root).angle().abs()  # the shorter way round
    assert float(turns.max()) <= math.pi / order + 1e-9


def test_a_target_outside_of_the_theorem_is_refused():
    target = torch.diag(torch.tensor([math.exp(2), -1.0], dtype=torch.float64))
    with pytest.raises(UserError, match=r"target: its determinant must be positive"):
        small_norm_weights(target, 10)
    with pytest.raises(UserError, match=r"depth: 5 is too small for this target \(gamma = 2\); it must be >= 6"):
        small_norm_weights(target.abs(), 5)
    with pytest.raises(UserError, match=r"depth: 2 is too small .* it must be >= 3"):
        small_norm_weights(torch.eye(2).double(), 2)


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("depth", [1, 2, 6])
def test_the_gradient_is_never_below_its_bound(tau, depth):
    """Theorem 2.2, Equation 2.3, at random networks with |||A||| = tau."""
    for seed in range(20):
        problem = random_regression(4, 1.0, seed)
        weights = [random(4, 4, seed=100 * seed + layer) for layer in range(depth)]
        weights = [tau * weight / torch.linalg.matrix_norm(weight, 2) for weight in weights]
        risk = problem.excess_risk(network(weights).product().detach())
        squared = sum(float(gradient.square().sum()) for gradient in gradients(problem, weights))
        assert squared >= float(problem.gradient_bound(weights, risk)) > 0


def test_the_bound_is_tight_for_a_network_of_one_unit():
    """With d = 1 and equal layers -tau, ||grad f||^2 is exactly 4 l (1 - tau)^(2l - 2) Sigma (f - C)."""
    problem = Regression(torch.full((1, 1), 2.0).double(), torch.full((1, 1), 3.0).double())
    weights = [torch.full((1, 1), -0.3).double()] * 4
    risk = problem.excess_risk(network(weights).product().detach())
    squared = sum(float(gradient.square().sum()) for gradient in gradients(problem, weights))
    assert squared == pytest.approx(float(problem.gradient_bound(weights, risk)))
    assert float(problem.gradient_bound([torch.full((1, 1), 1.5).double()] * 4, risk)) == 0


@pytest.mark.parametrize("depth", [3, 10])
def test_gradient_descent_reaches_the_target_and_keeps_to_the_bound(depth):
    path = descend(random_regression(5, 0.5, seed=0), depth, steps=150, rate=0.1)
    assert path.excess_risk[0] > 1
    assert path.excess_risk[-1] < 1e-4
    assert path.inside == 151
    assert all(gradient >= bound > 0 for gradient, bound in zip(path.squared_gradient, path.bound, strict=True))
    assert path.smallest_ratio >= 1


def sample(count, inputs, classes, seed=0):
    draw = generator(seed)
    points = torch.randn(count, inputs, generator=draw, dtype=torch.float64)
    return points / points.norm(dim=1, keepdim=True), torch.randint(classes, (count,), generator=draw), draw


def check_fit(count, inputs, classes, width, seed):
    points, labels, draw = sample(count, inputs, classes, seed)
    net = exact_fit(points, labels, classes, width, draw)
    assert len(net.blocks) == math.ceil(count / width)
    with torch.no_grad():
        errors = (net(points) - torch.eye(classes, dtype=torch.float64)[labels]).abs()
    assert float(errors.max()) < 2e-13
    return points, net


@pytest.mark.parametrize("sizes", [(500, 300, 10, 100), (500, 300, 10, 200), (2000, 300, 10, 300)])
def test_the_exact_fit_network_maps_every_point_to_its_label(sizes):
    """Theorem 3.2."""
    check_fit(*sizes, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("sizes", [(500, 300, 10, 100), (500, 300, 10, 200), (2000, 300, 10, 300)])
def test_the_exact_fit_does_not_depend_on_the_seed(sizes, seed):
    check_fit(*sizes, seed=seed)


@pytest.mark.parametrize("seed", range(3))
def test_points_that_no_threshold_separates_are_refused(seed):
    points, labels, draw = sample(1000, 100, 10, seed)
    with pytest.raises(UserError, match=r"^width: 100 is too narrow for these 1000 points: their inner products reach"):
        exact_fit(points, labels, 10, 100, draw)


def test_each_block_moves_its_own_points_and_leaves_all_others():
    """Lemma B.1: one unit is active at each point of a block, none elsewhere."""
    points, net = check_fit(250, 200, 5, 100, seed=0)
    hidden = points @ net.projection.detach().T
    with torch.no_grad():
        for number, block in enumerate(net.blocks):
            assert isinstance(block, ReluMap)
            active = (hidden @ block.u.T + block.s > 0).sum(1)
            own = torch.arange(250) // 100 == number
            assert (active == own.long()).all()
            moved = block(hidden)
            assert not moved[~own].any()
            hidden = hidden + moved
    torch.testing.assert_close(hidden.norm(dim=1), torch.ones(250).double())


def test_the_threshold_is_between_lengths_and_inner_products():
    points = torch.tensor([[1.0, 0.0], [0.5, 1.0]]).double()
    assert separating_threshold(points, torch.tensor([[0.7, 0.0]]).double(), "") == pytest.approx((0.7 + 1) / 2)
    with pytest.raises(UserError, match=r"^here: their inner products reach 1.5, .* go down to 1, "):
        separating_threshold(points, torch.tensor([[1.5, 0.0]]).double(), "here")


def test_the_report_is_computed_without_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main(["exact_fit", "out=out", "format=md"]) == 0
    text = (tmp_path / "out" / "exact_fit.md").read_text()
    assert "| 500 | 300 | 10 | 100 | 5 | 131,610 |" in text
    assert "| 1000 | 100 | 10 | 100 | – | – | refused |" in text
    assert not (tmp_path / "runs").exists()
    assert command.main(["exact_fit", "runs_dir=typo"]) == 2
    assert "runs_dir: no folder typo" in capsys.readouterr().err


def test_the_landscape_report_has_norms_below_their_bounds_and_ratios_above_one(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "STEPS", 20)
    files = show(identity.linear_residual_landscape([]), tmp_path, ("md", "png"), io.StringIO())
    assert [path.name for path in files] == ["linear_residual_landscape.md", "linear_residual_landscape.png"]
    norms = identity.small_norm_records()
    assert len(norms) == 12
    assert all(record["norm"] <= record["bound"] and record["excess risk"] < 1e-20 for record in norms)
    assert f"{norms[0]['norm']:.4f}" in files[0].read_text()
    records = identity.descent_table(identity.descents()).records
    assert all(record["smallest ratio"] >= 1 and record["points"] == 21 for record in records)


def test_table_2_has_our_networks_beside_the_papers(tmp_path):
    for seed, error in enumerate((7.0, 8.0)):
        made = settings("allconv_residual", dataset__name="cifar10", normalization__name="none")
        make_run(tmp_path, made, seed=seed, test_error=error)
    make_run(tmp_path, settings("resnet18", dataset__name="cifar10"), test_error=5.0)
    (table,) = identity.allconv(collect(tmp_path)).tables
    texts = [[each.lines[0] for each in row] for row in table.rows]
    assert ["all-convolutional residual (paper)", "6.38", "24.64", "35.29", "–"] in texts
    assert texts[-1][1:] == ["7.50 ± 0.71", "–", "–", "2"]
    assert len(texts) == 5
    assert "ours are means over n seeds after 200 epochs" in table.notes[0]
    with pytest.raises(UserError, match="no run of an all-convolutional"):
        identity.allconv([run for run in collect(tmp_path) if run.config["model"]["name"] == "resnet18"])
