"""Figure 1: its layers, their training, and what the picture shows of them."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from farkas_exp.report import style
from farkas_exp.studies.farkas.figure1 import batch_normalize, clouds, farkas_layer, figure1, plain_layer, train


@pytest.fixture(scope="module")
def drawn() -> Figure:
    return figure1()


def test_figures_are_the_same_bytes_each_time(drawn: Figure) -> None:
    assert style.drawn(drawn, "pdf") == style.drawn(figure1(), "pdf")


def test_figure1_layer_is_born_dead_and_has_no_gradient() -> None:
    points, labels = clouds()
    layer = plain_layer()
    assert layer.dead(points).all()
    trained = train(layer, points, labels, farkas=False)
    np.testing.assert_array_equal(trained.layer.weight, layer.weight)
    np.testing.assert_array_equal(trained.layer.bias, layer.bias)
    assert trained.accuracy(points, labels) == 0.5


def test_figure1_batch_norm_centres_and_scales_and_wakes_the_layer() -> None:
    points, labels = clouds()
    normalized = batch_normalize(points)
    np.testing.assert_allclose(normalized.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(normalized.std(0), 1)
    assert not plain_layer().dead(normalized).all()
    assert train(plain_layer(), normalized, labels, farkas=False).accuracy(normalized, labels) > 0.95


def test_figure1_farkas_layer_has_no_dead_point_anywhere_before_and_after_training() -> None:
    points, labels = clouds()
    farkas = farkas_layer(plain_layer(), margin=0.25)
    trained = train(farkas, points, labels, farkas=True)
    everywhere = np.random.default_rng(0).uniform(-1e3, 1e3, (20_000, 2))
    for layer in (farkas, trained.layer):
        np.testing.assert_allclose(layer.weight.sum(0), 0, atol=1e-9)
        assert layer.bias.sum() == pytest.approx(0.25)
        assert layer.preactivations(everywhere).max(1).min() > 0, "Theorem 3.2"
    assert trained.accuracy(points, labels) > 0.95


def test_figure1_training_is_gradient_descent_on_the_cross_entropy() -> None:
    points, labels = clouds(points=5)
    layer = farkas_layer(plain_layer())
    given, lr = 2, 1e-4

    def loss(flat: np.ndarray) -> float:
        weight, bias = flat[:4].reshape(2, 2), flat[4:6]
        hidden = np.maximum(points @ np.vstack([weight, -weight.sum(0)]).T + np.append(bias, 0.25 - bias.sum()), 0.0)
        logit = hidden @ np.array([0.1, -0.1, 0.1])
        return float(np.mean(np.logaddexp(0, logit) - labels * logit))

    start = np.concatenate([layer.weight[:given].ravel(), layer.bias[:given]])
    eye = 1e-6 * np.eye(6)
    gradient = np.array([(loss(start + e) - loss(start - e)) / 2e-6 for e in eye])
    after = train(layer, points, labels, farkas=True, steps=1, lr=lr).layer
    moved = np.concatenate([after.weight[:given].ravel(), after.bias[:given]]) - start
    np.testing.assert_allclose(moved, -lr * gradient, atol=1e-10)


def test_figure1_shows_clouds_hyperplanes_and_regions(drawn: Figure) -> None:
    dead, normed, farkas, regions = drawn.axes
    assert [axes.get_title().split(" ")[0] for axes in drawn.axes] == ["(a)", "(b)", "(c)", "(d)"]
    assert "dead points 100%" in dead.get_title()
    assert "dead points 0%" in farkas.get_title()
    assert [len(axes.get_lines()) for axes in (dead, normed, farkas)] == [2, 2, 3]
    green = [line for line in farkas.get_lines() if line.get_color() == style.COLORS["green"]]
    assert len(green) == 1
    x, y = green[0].get_data()
    layer = farkas_layer(plain_layer())
    np.testing.assert_allclose(layer.preactivations(np.stack([x, y], axis=1))[:, 2], 0, atol=1e-9)
    assert regions.collections
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert labels == ["class 0", "class 1", "unit (arrow: active side)", "added Farkas unit", "no unit active"]
