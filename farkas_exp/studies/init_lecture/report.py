"""The lecture on the initialization of residual networks, computed: linear residual networks, residual scaling, toys.

The tables and pictures need no runs: they are functions of the seeds below.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from farkas_exp.config.store import choice_of
from farkas_exp.initialization.apply import initialize
from farkas_exp.layers.residual import Scaling
from farkas_exp.models.create import create_model
from farkas_exp.registry import NETWORKS as MODELS
from farkas_exp.report import style
from farkas_exp.report.render import Report
from farkas_exp.report.tables import Table, table_of
from farkas_exp.studies.init_lecture.theory import propagation, toys

WIDTH, DRAWS = 100, 100
RATIOS = (
    ("xavier", 10), ("xavier", 100), ("residual_xavier", 10), ("residual_xavier", 100), ("minus_identity", 10),
    ("zero", 10),
)  # fmt: skip
"""Initialization and number of layers."""
START = -1.5
"""Where gradient descent begins on the losses of one unit."""
BRANCHES = 10
SCALINGS = (
    ("α = β = 1", Scaling(), False),
    ("α = 1/√2", Scaling(alpha=math.sqrt(0.5)), False),
    ("β = 1/√L", Scaling(beta=BRANCHES**-0.5), False),
    ("BN, β = 1", Scaling(), True),
    ("BN, β = 1/√L", Scaling(beta=BRANCHES**-0.5), True),
    ("BN, β = 0.2", Scaling(beta=0.2), True),
)
"""Name, scaling, and whether batch norm stands before each branch."""
NETWORKS = (("resnet34", "sum"), ("farkasnet34", "sum"), ("farkasnet34", "mean"))
CHOICES = ("unscaled", "half", "depth", "small")
"""Of `residual=...`."""


def lecture(records: Sequence[Any]) -> Report:
    """The three reports below in one."""
    parts = [each(records) for each in (linear_residual_ratio, residual_scaling, landscape_toys)]
    figures = {name: draw for part in parts for name, draw in part.figures.items()}
    return Report("lecture", tuple(table for part in parts for table in part.tables), figures)


def linear_residual_ratio(records: Sequence[Any]) -> Report:
    """How far linear residual networks stretch their input."""
    return Report("linear_residual_ratio", (ratio_table(),))


def residual_scaling(records: Sequence[Any]) -> Report:
    """The variance of scaled residual networks, in theory and in ours."""
    variances = variance_records()
    figures = {"residual_scaling": lambda: scaling_figure(variances)}
    return Report("residual_scaling", (variance_table(variances), network_table()), figures)


def landscape_toys(records: Sequence[Any]) -> Report:
    """Small loss functions and their stationary points."""
    return Report("landscape_toys", (toys_table(),), {"landscape_toys": toys_figure})


def ratio_table() -> Table:
    """||y|| / ||x|| of linear residual networks, for each initialization and depth, beside the expectation."""
    records = []
    for init, depth in RATIOS:
        ratios = propagation.norm_ratios(init, depth, WIDTH, DRAWS)
        low, middle, high = (float(torch.quantile(ratios, q)) for q in (0.0, 0.5, 1.0))
        records.append(
            {"init": init, "depth": depth, "draws": DRAWS, "rms": propagation.root_mean_square(ratios),
             "expected": propagation.expected_ratio(init, depth), "median": middle, "min": low, "max": high}
        )  # fmt: skip
    columns = {
        "init": "{init}", "layers": "{depth}", "root mean square": "{rms:.4g}", "expected": "{expected:.4g}",
        "median": "{median:.4g}", "smallest": "{min:.4g}", "largest": "{max:.4g}",
    }  # fmt: skip
    notes = (
        f"Ratio of the norms of output and input of z^l = (I + W^l) z^(l-1) of width {WIDTH}, for an input of all ones,"
        f" over {DRAWS} draws; expected: the root of E ratio² = (1 + d v)^L.",
        "The lecture's 10^14 is Xavier's at 100 layers: its loop repeats the 10 layers ten times without taking the"
        " input back. Ten layers give 32.",
    )
    return table_of("Linear residual networks: ratio of output to input", columns, records, notes, "ratio")


def variance_records() -> list[dict[str, Any]]:
    """The mean square of every z^l for each of `SCALINGS`, and its expectation at the last one."""
    return [
        {
            "scaling": name, "alpha": scaling.alpha, "beta": scaling.beta, "batch_norm": normalize,
            "variances": propagation.scaled_variances(scaling, BRANCHES, 400, 400, normalize).tolist(),
            "expected": propagation.expected_variance(scaling, BRANCHES, normalize),
        }
        for name, scaling, normalize in SCALINGS
    ]  # fmt: skip


def variance_table(records: Sequence[dict[str, Any]]) -> Table:
    """The variance at the last layer beside its expectation."""
    columns = {"scaling": "{scaling}", "variance": "{variance:.4g}", "expected": "{expected:.4g}"}
    flat = [{**{k: v for k, v in r.items() if k != "variances"}, "variance": r["variances"][-1]} for r in records]
    notes = (
        f"z^(l+1) = α (z^l + β W^l relu(z^l)), W^l ~ N(0, 2/d), L = {BRANCHES} branches, z^0 ~ N(0, 1); the mean square"
        " of z^L. BN: of each unit before the ReLU; the branch then has variance 1, so the sum has β² l + 1 after l"
        " branches, and 2 at the last one for β = 1/√L.",
    )
    return table_of("Residual scaling: variance after ten branches", columns, flat, notes, "variance")


def network_table() -> Table:
    """How much the networks' own blocks amplify the features, for each choice of `residual`, He-initialized."""
    records = [
        {
            "network": f"{name}, {aggregation}" if MODELS[name].farkas else name,
            **{choice: features_growth(name, aggregation, choice) for choice in CHOICES},
        }
        for name, aggregation in NETWORKS
    ]
    columns = {"network": "{network}", **{f"residual={choice}": f"{{{choice}:.3g}}" for choice in CHOICES}}
    notes = (
        "Mean square of the features behind the first stage's five blocks, over that before them; He initialization,"
        " one draw, noise for images.",
    )
    return table_of("Residual scaling of the networks", columns, records, notes, "networks")


@torch.no_grad()
def features_growth(name: str, aggregation: str, residual: str) -> float:
    """The mean square of the features behind the first stage's blocks, over that in front of them."""
    scaling = choice_of("residual", residual)
    model = create_model(name, aggregation=aggregation, image_size=16, residual_scaling=scaling)
    initialize(model, "kaiming", seed=0)
    noise = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    before = model.get_submodule("stem")(noise)
    after = model.get_submodule("stages.0")(before)
    return float(after.square().mean() / before.square().mean())


def toys_table() -> Table:
    """Value, gradient and eigenvalues of the Hessian at the stationary points of every toy."""
    records: list[dict[str, Any]] = []
    for name, points in toys.STATIONARY.items():
        for found in [toys.analyse(toys.TOYS[name], point) for point in points]:
            point = ", ".join(f"{value:.4g}" for value in found.point)
            records.append(
                {"toy": name, "point": point if len(found.point) == 1 else f"({point})", "value": found.value,
                 "gradient": found.gradient,
                 "eigenvalues": ", ".join(f"{value:.4g}" for value in found.eigenvalues), "kind": found.kind}
            )  # fmt: skip
        if not points:
            records.append({"toy": name, "point": "none"})
    columns: dict[str, Any] = {
        "loss": "{toy}", "point": "{point}",
        "value": lambda record: f"{record['value']:.4g}" if "value" in record else "–",
        "eigenvalues of the Hessian": lambda record: record.get("eigenvalues", "–"),
        "kind": lambda record: record.get("kind", "–"),
    }  # fmt: skip
    notes = (
        "Second-order stationary: no gradient, and no negative eigenvalue of the Hessian. Of (1 − uv)² every point with"
        " uv = 1 is a minimum. With a ReLU every w < 0 is one of value 1, far from the minimum 0.",
    )
    return table_of("Landscape toys: stationary points", columns, records, notes, "toys")


def scaling_figure(records: Sequence[dict[str, Any]]) -> Any:
    """The variance after every branch, for each scaling."""
    with style.new_figure(6.4, 3.8) as figure:
        axes = figure.subplots()
        for record, color, marker in zip(records, _COLORS, style.MARKERS, strict=False):
            line = "-" if record["batch_norm"] else ":"
            axes.plot(
                range(BRANCHES + 1), record["variances"], line, color=color, marker=marker, markersize=4,
                label=record["scaling"],
            )  # fmt: skip
        axes.set_yscale("log")
        axes.set_xlabel("branches")
        axes.set_ylabel("variance")
        axes.set_title("Residual scaling: solid with batch norm, dotted without")
        axes.legend(loc="upper left")
    return figure


_COLORS = tuple(style.COLORS[name] for name in ("vermilion", "blue", "green", "orange", "purple", "black"))


def toys_figure() -> Any:
    """The landscapes with their stationary points and paths of gradient descent."""
    with style.new_figure(10.5, 3.6) as figure:
        first, second, third = figure.subplots(1, 3)
        _contours(first, "(1 - u v)^2", ((-0.5, 2.1), (1.8, -1.5), (-1.7, -0.2), (1.6, -1.6)))
        first.set_title("(1 − uv)²")
        _contours(second, "||M - u u^T||^2", ((0.1, 1.8), (-0.15, -1.6), (-1.8, 1.5), (0.05, 0.6)))
        second.set_title("‖M − uuᵀ‖², eigenvalues 2 and 1")
        _curves(third)
        figure.supxlabel(
            "Dot and dashes: second-order stationary points. Cross: strict saddle. Coloured: gradient descent from"
            " the square.\n(1 − relu(w))² has gradient 0 for all w < 0.", fontsize=8.5,
        )  # fmt: skip
    return figure


def _contours(axes: Any, name: str, starts: Sequence[tuple[float, float]]) -> None:
    toy = toys.TOYS[name]
    ticks = torch.linspace(-2.2, 2.2, 121, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1)
    axes.contourf(ticks, ticks, np.log1p(toy(points).numpy()), levels=18, cmap="Greys", alpha=0.7)
    for start, color in zip(starts, _COLORS, strict=False):
        path = toys.descend(toy, start)
        axes.plot(path[:, 0], path[:, 1], color=color)
        axes.plot(*start, "s", color=color, markersize=4)
    found = [toys.analyse(toy, point) for point in toys.STATIONARY[name]]
    if name.startswith("(1"):
        for side in (ticks[ticks >= 0.45], ticks[ticks <= -0.45]):
            axes.plot(side, 1 / side, color="black", linestyle="--", linewidth=1)
        found = [each for each in found if each.point in ((0, 0), (1, 1), (-1, -1))]
    for each in found:
        axes.plot(*each.point, "o" if each.second_order else "X", color="black", markersize=7, markeredgecolor="white")
    axes.grid(visible=False)
    axes.set_xlim(-2.2, 2.2)
    axes.set_ylim(-2.2, 2.2)
    axes.set_aspect("equal")
    axes.set_xlabel("u" if name.startswith("(1") else "u₁")
    axes.set_ylabel("v" if name.startswith("(1") else "u₂")


def _curves(axes: Any) -> None:
    ticks = torch.linspace(-4.5, 3, 301, dtype=torch.float64)
    for (name, _), color in zip(toys.ACTIVATED.items(), _COLORS, strict=False):
        toy = toys.activated(name)
        axes.plot(ticks, toy(ticks[:, None]), color=color, label=name)
        for point in toys.STATIONARY[f"(1 - {name}(w))^2"]:
            found = toys.analyse(toy, point)
            axes.plot(point[0], found.value, "o" if found.second_order else "X", color=color, markersize=7,
                      markeredgecolor="white", zorder=3)  # fmt: skip
        path = toys.descend(toy, (START,))
        axes.plot(path, toy(path), color=color, linewidth=6, alpha=0.35)
        axes.plot(START, float(toy(path[0])), "s", color=color, markersize=4)
    axes.set_ylim(-0.15, 4)
    axes.set_xlabel("w")
    axes.set_title("(1 − φ(w))²")
    axes.legend(loc="upper left")
