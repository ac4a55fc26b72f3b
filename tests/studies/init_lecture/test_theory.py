"""The lecture on the initialization of residual networks: its inits, ratios, variances and toys, at their figures."""

import io
import math

import pytest
import torch

from farkas_exp.initialization.apply import initialize
from farkas_exp.initialization.shortcuts import branch_layers
from farkas_exp.layers.farkas import FarkasConv2d
from farkas_exp.layers.residual import ResidualBlock, Scaling
from farkas_exp.models.create import create_model
from farkas_exp.models.linear_residual import LinearResidual
from farkas_exp.report.command import main
from farkas_exp.report.render import show
from farkas_exp.studies.init_lecture import report as lecture
from farkas_exp.studies.init_lecture.theory.propagation import (
    expected_ratio,
    expected_variance,
    norm_ratios,
    root_mean_square,
    scaled_variances,
)
from farkas_exp.studies.init_lecture.theory.toys import EIGENVALUES, STATIONARY, TOYS, activated, analyse, descend

WIDTH = 100


@pytest.mark.parametrize(
    ("init", "depth", "theory", "seen"),
    [
        ("xavier", 10, 32.0, 31.9),
        ("residual_xavier", 10, 1.6105, 1.612),
        ("residual_xavier", 100, 1.6446, 1.669),
        ("minus_identity", 10, 1.0, 1.015),
        ("zero", 10, 1.0, 1.0),
    ],
)
def test_a_linear_residual_network_stretches_as_the_lecture_says(
    init: str, depth: int, theory: float, seen: float
) -> None:
    assert expected_ratio(init, depth) == pytest.approx(theory, abs=1e-3)
    found = root_mean_square(norm_ratios(init, depth, WIDTH, 40 if depth == 10 else 15))
    assert found == pytest.approx(theory, rel=0.12)
    assert found == pytest.approx(seen, rel=0.12)


@pytest.mark.slow
def test_xavier_at_ten_layers_over_200_draws() -> None:
    ratios = norm_ratios("xavier", 10, WIDTH, 200, seed=1)
    assert root_mean_square(ratios) == pytest.approx(31.9, rel=0.03)
    assert 15 < float(ratios.min()) < 22
    assert 45 < float(ratios.max()) < 62
    assert root_mean_square(norm_ratios("residual_xavier", 100, WIDTH, 100)) == pytest.approx(1.6446, rel=0.04)


def test_ten_to_the_fourteen_belongs_to_a_hundred_layers() -> None:
    ratios = norm_ratios("xavier", 100, WIDTH, 9)
    assert expected_ratio("xavier", 100) == pytest.approx(2.0**50)
    assert 2e14 < float(ratios.median()) < 1.5e15
    assert float(norm_ratios("xavier", 10, WIDTH, 9).max()) < 100


def test_minus_identity_gives_the_plain_network_back() -> None:
    model = LinearResidual(3, 7).double()
    initialize(model, "minus_identity", seed=3)
    x = torch.randn(5, 7, dtype=torch.float64)
    plain = x
    for weight in model.weights():
        plain = plain @ (weight + torch.eye(7, dtype=torch.float64)).T
    torch.testing.assert_close(model(x), plain)
    entries = torch.cat([(weight + torch.eye(WIDTH)).flatten() for weight in drawn("minus_identity").weights()])
    assert float(entries.detach().var()) == pytest.approx(1 / WIDTH, rel=0.05)
    spatial = create_model("rect_conv", depth=3, width=6, residual=True, image_size=8)
    initialize(spatial, "minus_identity", seed=0)
    block = next(module for module in spatial.modules() if isinstance(module, ResidualBlock))
    (layer,) = branch_layers(block)
    images = torch.randn(2, 6, 8, 8)
    without = torch.nn.functional.conv2d(images, layer.weight, padding=1) + images
    torch.testing.assert_close(block(images.clone()), without.relu())
    assert float(without.detach().square().mean() / images.square().mean()) == pytest.approx(2.0, rel=0.5)


def drawn(init: str) -> LinearResidual:
    model = LinearResidual(2, WIDTH)
    initialize(model, init, seed=0)
    return model


@pytest.mark.parametrize(("name", "layers"), [("resnet34", 2), ("farkasnet34", 2), ("resnet50_imagenet", 3)])
def test_residual_xavier_shares_the_depth_among_the_layers_of_a_branch(name: str, layers: int) -> None:
    model = create_model(name, blocks=[3, 3], widths=[32, 64], image_size=16)
    initialize(model, "residual_xavier", seed=0)
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    for block in blocks:
        branch = branch_layers(block)
        assert len(branch) == layers
        for layer in branch:
            weight = layer.get_parameter("weight")
            he = math.sqrt(2 / weight[0].numel())
            assert float(weight.detach().std()) == pytest.approx(he * 6 ** (-0.5 / layers), rel=0.15)
    stem = model.get_submodule("stem.layer" if "imagenet" not in name else "conv1").get_parameter("weight")
    assert float(stem.detach().std()) == pytest.approx(math.sqrt(2 / stem[0].numel()), rel=0.15)
    if "imagenet" in name:  # the projection of the shortcut is no part of the branch
        projection = model.get_submodule("layer2.0.downsample.0").get_parameter("weight")
        assert float(projection.detach().std()) == pytest.approx(math.sqrt(2 / projection[0].numel()), rel=0.15)


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 8), (8, 12)])
def test_a_delta_orthogonal_convolution_keeps_the_norm(inputs: int, outputs: int) -> None:
    layer = torch.nn.Conv2d(inputs, outputs, 3, padding=1)
    initialize(layer, "delta_orthogonal", gain=1.0, seed=0)
    images = torch.randn(4, inputs, 7, 7)
    torch.testing.assert_close(layer(images).square().sum(1), images.square().sum(1))
    initialize(layer, "delta_orthogonal", seed=0)
    torch.testing.assert_close(layer(images).square().sum(1), 2 * images.square().sum(1))


def test_delta_orthogonal_is_for_the_free_rows_of_a_farkas_layer() -> None:
    layer = FarkasConv2d(8, 7, 3, padding=1)
    initialize(layer, "delta_orthogonal", gain=1.0, seed=0)
    middle = layer.weight[:, :, 1, 1]
    torch.testing.assert_close(middle @ middle.T, torch.eye(6))
    assert float(layer.weight.detach().abs().sum()) == pytest.approx(float(middle.detach().abs().sum()))


@pytest.mark.parametrize(
    ("scaling", "normalize", "theory", "seen"),
    [
        (Scaling(), False, 1024.0, 1031.8),
        (Scaling(alpha=0.5**0.5), False, 1.0, 1.008),
        (Scaling(beta=0.1**0.5), True, 2.0, 2.035),
        (Scaling(beta=0.1**0.5), False, 1.1**10, 2.64),
    ],
)
def test_residual_scaling_has_the_lectures_variances(
    scaling: Scaling, normalize: bool, theory: float, seen: float
) -> None:
    variances = scaled_variances(scaling, 10, 300, 300, normalize)
    assert expected_variance(scaling, 10, normalize) == pytest.approx(theory)
    assert float(variances[-1]) == pytest.approx(theory, rel=0.1)
    assert float(variances[-1]) == pytest.approx(seen, rel=0.1)
    if normalize:  # 1 + l / L after l branches: constant only in the limit
        assert float(variances[5]) == pytest.approx(1.5, rel=0.1)


def test_the_closed_forms_of_the_toys() -> None:
    assert analyse(TOYS["(1 - u v)^2"], (0, 0)).eigenvalues == pytest.approx((-2, 2))
    first, second = EIGENVALUES
    top = analyse(TOYS["||M - u u^T||^2"], (math.sqrt(first), 0))
    assert sorted(top.eigenvalues) == pytest.approx(sorted((8 * first, 4 * (first - second))))
    u = torch.tensor([0.3, -1.1], dtype=torch.float64)
    matrix = torch.diag(torch.tensor(EIGENVALUES, dtype=torch.float64))
    hessian = 4 * (2 * torch.outer(u, u) + u.dot(u) * torch.eye(2) - matrix)
    found = analyse(TOYS["||M - u u^T||^2"], tuple(u.tolist()))
    assert found.gradient == pytest.approx(float((4 * (torch.outer(u, u) - matrix) @ u).norm()))
    assert found.eigenvalues == pytest.approx(torch.linalg.eigvalsh(hessian).tolist())
    (softplus,) = STATIONARY["(1 - softplus(w))^2"][0]
    assert softplus == pytest.approx(0.5413, abs=1e-4)
    curvatures = {"relu": {1: 2, -1: 0}, "square": {0: -4, 1: 8}, "softplus": {softplus: 2 * (1 - 1 / math.e) ** 2}}
    for name, points in curvatures.items():
        for point, curvature in points.items():
            assert analyse(activated(name), (point,)).eigenvalues == pytest.approx((curvature,))


def test_every_listed_point_is_stationary_and_no_minimum_is_above_the_least_value_but_the_relus() -> None:
    least = {"||M - u u^T||^2": EIGENVALUES[1] ** 2}
    above = set()
    for name, points in STATIONARY.items():
        for found in [analyse(TOYS[name], point) for point in points]:
            assert found.stationary
            if found.second_order and found.value > least.get(name, 0) + 1e-9:
                above.add(name)
    assert above == {"(1 - relu(w))^2"}


def test_gradient_descent_leaves_saddles_unless_it_starts_on_their_stable_side() -> None:
    rank_one = TOYS["||M - u u^T||^2"]
    assert descend(rank_one, (0.05, 0.6))[-1].tolist() == pytest.approx([math.sqrt(EIGENVALUES[0]), 0], abs=1e-3)
    assert descend(rank_one, (0.0, 0.6))[-1].tolist() == pytest.approx([0, 1], abs=1e-3)
    assert descend(TOYS["(1 - u v)^2"], (1.6, -1.6))[-1].abs().max() < 1e-3
    assert descend(activated("relu"), (-1.5,))[-1].item() == -1.5
    assert descend(activated("leaky relu"), (-1.5,), steps=800)[-1].item() == pytest.approx(1, abs=1e-3)


def test_the_command_needs_no_runs_and_writes_tables_and_pictures(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["landscape_toys", "out=out", "format=md,png"]) == 0
    assert "strict saddle" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"landscape_toys.md", "landscape_toys.png"}
    files = show(lecture.residual_scaling([]), tmp_path / "scaling", ("md", "png"), io.StringIO())
    assert [path.name for path in files] == ["residual_scaling.md", "residual_scaling.png"]
    text = files[0].read_text()
    assert "residual=half" in text


@pytest.mark.slow
def test_the_whole_lecture(tmp_path) -> None:
    stream = io.StringIO()
    show(lecture.lecture([]), tmp_path, ("md", "csv", "tex", "html", "png"), stream)
    assert {path.name for path in tmp_path.iterdir()} == {
        "lecture.md", "lecture.tex", "lecture.html", "lecture_ratio.csv", "lecture_variance.csv",
        "lecture_networks.csv", "lecture_toys.csv", "residual_scaling.png", "landscape_toys.png",
    }  # fmt: skip
    assert "residual_xavier" in stream.getvalue()


@pytest.mark.parametrize("init", ["residual_xavier", "minus_identity", "delta_orthogonal"])
def test_the_inits_are_functions_of_their_seed(init: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        model = create_model("mlp", depth=3, width=5, residual=True, image_size=8)
        initialize(model, init, seed=seed)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
