"""The paper's Figure 1, computed: two clouds, a layer that is born dead on one of them, and two remedies.

A layer of two ReLUs in the plane is dead where both pre-activations are negative: the network is constant there and
no gradient comes from points in that region. Batch normalization moves and scales the data (1b); the Farkas layer
adds one hyperplane, the negative sum of the others, so that no point of the plane is dead (1c). The networks are then
trained, layer and output: the titles give the accuracies, the last panel the decision regions of the Farkas network.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from farkas_exp.report import style


@dataclass(frozen=True)
class Layer:
    """A layer of m ReLUs in the plane: pre-activations x Wᵀ + b, W of shape (m, 2) and b of shape (m,)."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Activations of points of shape (n, 2), of shape (n, m)."""
        return np.maximum(self.preactivations(points), 0.0)

    def preactivations(self, points: np.ndarray) -> np.ndarray:
        """Pre-activations of points of shape (n, 2), of shape (n, m)."""
        return points @ self.weight.T + self.bias

    def dead(self, points: np.ndarray) -> np.ndarray:
        """Whether no unit is active, for each of the points."""
        return np.asarray((self.preactivations(points) <= 0).all(axis=1))


def clouds(points: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Two Gaussian clouds of `points` points each: the points of shape (2·points, 2) and their labels 0 or 1."""
    generator = np.random.default_rng(0)
    first = generator.normal((-2.6, -1.0), 0.42, (points, 2))
    second = generator.normal((-0.7, -2.7), 0.42, (points, 2))
    return np.concatenate([first, second]), np.repeat([0, 1], points)


def plain_layer() -> Layer:
    """Two units whose active sides face away from both clouds: a layer that is born dead on this data."""
    return Layer(np.array([[1.0, 0.35], [0.2, 1.0]]), np.array([-0.4, -0.3]))


def farkas_layer(layer: Layer, margin: float = 0.25) -> Layer:
    """The layer with one unit more: the negative sum of the weights, and a bias that keeps Σb ≥ `margin` > 0.

    Theorem 3.2 with λ = 1: Σ_i z_i = Σ_i b_i ≥ margin at every point, so some z_i is positive.
    """
    weight = np.concatenate([layer.weight, -layer.weight.sum(axis=0, keepdims=True)])
    return Layer(weight, np.append(layer.bias, margin - layer.bias.sum()))


def batch_normalize(points: np.ndarray) -> np.ndarray:
    """The points with mean 0 and variance 1 in each coordinate."""
    return (points - points.mean(axis=0)) / points.std(axis=0)


@dataclass(frozen=True)
class Network:
    """A trained network of one hidden layer: its layer, and the logistic output w·h + c on the activations h."""

    layer: Layer
    weight: np.ndarray
    offset: float

    def score(self, points: np.ndarray) -> np.ndarray:
        """The logit of class 1 at points of shape (n, 2)."""
        return self.layer(points) @ self.weight + self.offset

    def accuracy(self, points: np.ndarray, labels: np.ndarray) -> float:
        """The share of the points on the right side."""
        return float(((self.score(points) > 0) == labels).mean())


def train(
    layer: Layer, points: np.ndarray, labels: np.ndarray, *, farkas: bool, steps: int = 4000, lr: float = 0.3
) -> Network:
    """Train layer and output by gradient descent on the cross-entropy, from output weights ±0.1.

    With `farkas` the last unit of the layer stays the negative sum of the others in every step, and so does its bias
    but for what the margin adds: its gradients go to the others.
    """
    weight, bias = layer.weight.copy(), layer.bias.copy()
    out, offset = 0.1 * (-1.0) ** np.arange(len(bias)), 0.0
    for _ in range(steps):
        hidden = np.maximum(points @ weight.T + bias, 0.0)
        error = (1 / (1 + np.exp(-(hidden @ out + offset))) - labels) / len(labels)
        back = error[:, None] * out * (hidden > 0)
        d_weight, d_bias = back.T @ points, back.sum(axis=0)
        if farkas:
            d_weight = d_weight[:-1] - d_weight[-1]
            d_weight = np.concatenate([d_weight, -d_weight.sum(axis=0, keepdims=True)])
            d_bias = d_bias[:-1] - d_bias[-1]
            d_bias = np.append(d_bias, -d_bias.sum())
        weight, bias = weight - lr * d_weight, bias - lr * d_bias
        out, offset = out - lr * hidden.T @ error, offset - lr * float(error.sum())
    return Network(Layer(weight, bias), out, offset)


_COLORS = (style.COLORS["vermilion"], style.COLORS["blue"])
_LIMITS = (-4.2, 3.2)


def figure1() -> Any:
    """Four panels: born dead, what batch norm does, the added hyperplane, the trained decision regions of the last."""
    points, labels = clouds()
    plain = plain_layer()
    farkas = farkas_layer(plain)
    normalized = batch_normalize(points)
    with style.new_figure(13.2, 4.5) as figure:
        panels = figure.subplots(1, 4, sharex=True, sharey=True)
        cases = (
            (plain, points, "(a) born dead", False),
            (plain, normalized, "(b) batch norm moves the data", False),
            (farkas, points, "(c) Farkas adds a hyperplane", True),
        )
        for axes, (layer, data, title, is_farkas) in zip(panels, cases, strict=False):
            _draw_layer(axes, layer, data, labels, plain.weight.shape[0])
            share = train(layer, data, labels, farkas=is_farkas).accuracy(data, labels)
            axes.set_title(f"{title}\ndead points {layer.dead(data).mean():.0%}; trained: {share:.0%} right")
        _draw_regions(panels[3], train(farkas, points, labels, farkas=True), points, labels)
        panels[3].set_title("(d) decision regions of (c)\nafter training")
        for axes in panels:
            axes.set(xlim=_LIMITS, ylim=_LIMITS, xlabel="$x_1$", aspect="equal")
        panels[0].set_ylabel("$x_2$")
        figure.legend(handles=_handles(), loc="outside lower center", ncols=5)
    return figure


def _draw_points(axes: Any, points: np.ndarray, labels: np.ndarray) -> None:
    for label, (color, marker) in enumerate(zip(_COLORS, "os", strict=True)):
        chosen = points[labels == label]
        axes.scatter(*chosen.T, s=13, color=color, marker=marker, edgecolors="white", linewidths=0.3, zorder=3)


def _draw_layer(axes: Any, layer: Layer, points: np.ndarray, labels: np.ndarray, given: int) -> None:
    """The clouds, each unit's hyperplane with an arrow to its active side, and the dead region in grey."""
    grid = np.linspace(*_LIMITS, 241)
    x, y = np.meshgrid(grid, grid)
    dead = layer.dead(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(x.shape)
    if dead.any():
        axes.contourf(x, y, dead.astype(float), levels=[0.5, 1.5], colors=["#D0D0D0"], zorder=0)
    for index, (normal, offset) in enumerate(zip(layer.weight, layer.bias, strict=True)):
        color = style.COLORS["black"] if index < given else style.COLORS["green"]
        norm = np.linalg.norm(normal)
        foot, unit = -offset * normal / norm**2, normal / norm
        along = np.array([-unit[1], unit[0]])
        ends = np.stack([foot - 12 * along, foot + 12 * along])
        axes.plot(*ends.T, color=color, linewidth=2.4 if index >= given else 1.5, zorder=2)
        start = max((foot + shift * along for shift in (-1.8, -1.0, 1.0, 1.8)), key=lambda p: _room(p + unit, points))
        axes.annotate(
            "", start + 0.95 * unit, start, arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.6}, zorder=4
        )
    _draw_points(axes, points, labels)
    axes.grid(False)


def _room(place: np.ndarray, points: np.ndarray) -> float:
    """The distance from `place` to the next point; none at all outside the picture."""
    inside = bool(((place > _LIMITS[0]) & (place < _LIMITS[1])).all())
    return float(np.linalg.norm(points - place, axis=1).min()) if inside else 0.0


def _draw_regions(axes: Any, network: Network, points: np.ndarray, labels: np.ndarray) -> None:
    grid = np.linspace(*_LIMITS, 241)
    x, y = np.meshgrid(grid, grid)
    score = network.score(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(x.shape)
    axes.contourf(x, y, score, levels=[-np.inf, 0, np.inf], colors=_COLORS, alpha=0.22, zorder=0)
    axes.contour(x, y, score, levels=[0], colors=[style.COLORS["black"]], linewidths=1.2, linestyles="--")
    _draw_points(axes, points, labels)
    axes.grid(False)


def _handles() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = {"linestyle": "none", "markersize": 6}
    return [
        Line2D([], [], color=_COLORS[0], marker="o", label="class 0", **marks),
        Line2D([], [], color=_COLORS[1], marker="s", label="class 1", **marks),
        Line2D([], [], color=style.COLORS["black"], label="unit (arrow: active side)"),
        Line2D([], [], color=style.COLORS["green"], linewidth=2.4, label="added Farkas unit"),
        Patch(color="#D0D0D0", label="no unit active"),
    ]
