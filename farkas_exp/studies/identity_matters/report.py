"""What "Identity matters in deep learning" (Hardt and Ma 2017) proves, computed; and its Table 2 with our runs.

The computed tables need no runs: they are functions of the seeds below, in float64.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from farkas_exp.machine.errors import UserError
from farkas_exp.machine.output import plural
from farkas_exp.models.linear_residual import LinearResidual
from farkas_exp.registry import DATASETS
from farkas_exp.report import style
from farkas_exp.report.arms import arm_record, error_cell, failure_note, group_arms
from farkas_exp.report.curves import curves_figure
from farkas_exp.report.render import Report
from farkas_exp.report.tables import Cell, Table, table_of, tabulate
from farkas_exp.runs import RunRecord
from farkas_exp.runs.query import setting
from farkas_exp.studies.identity_matters.theory import exact_fit as construction
from farkas_exp.studies.identity_matters.theory.descent import Path, descend, random_regression
from farkas_exp.studies.identity_matters.theory.regression import largest_norm
from farkas_exp.studies.identity_matters.theory.small_norm import condition, norm_bound, small_norm_weights

SIZE, GAMMA = 6, 1.0
"""Of the regression targets: 6 x 6 with singular values from 1/e to e."""
NORM_DEPTHS = (3, 5, 10, 30, 100, 300)
DESCENT_DEPTHS, TARGETS, STEPS, RATE = (3, 10, 30), (0, 1), 300, 0.1
EXACT_FITS = ((500, 300, 10, 100), (500, 300, 10, 200), (2000, 300, 10, 300), (1000, 100, 10, 100))
"""Points, inputs, classes, width."""

TABLE2: Mapping[str, tuple[float | None, ...]] = {
    "All-CNN": (7.25, 32.39, 41.2),
    "all-convolutional residual": (6.38, 24.64, 35.29),
    "ResNet": (6.43, 25.16, 19.38),
    "DenseNet": (3.74, 19.25, None),
}
"""Table 2 of the paper: top-1 error in percent on CIFAR-10, CIFAR-100 and ImageNet."""
DATA_OF_TABLE2 = ("cifar10", "cifar100", "imagenet")
NETWORKS_OF_TABLE2 = ("allconv_residual", "farkas_allconv_residual")


def allconv(records: Sequence[RunRecord]) -> Report:
    """Table 2 with our runs, and their curves."""
    runs = _allconv_runs(records)
    if not runs:
        raise UserError(
            "runs_dir: no run of an all-convolutional residual network there; see experiment=allconv_cifar10"
        )
    return Report("allconv", (table2(runs),), {"allconv": lambda: curves_figure(group_arms(runs))})


def identity(records: Sequence[RunRecord]) -> Report:
    """Table 2 where there are runs, and the theorems."""
    runs, theory = _allconv_runs(records), linear_residual_landscape(records)
    tables = (*([table2(runs)] if runs else []), *theory.tables, *exact_fit(records).tables)
    return Report("identity", tables, theory.figures)


def linear_residual_landscape(records: Sequence[RunRecord]) -> Report:
    """Theorems 2.1 and 2.2, computed."""
    norms, paths = small_norm_records(), descents()
    figures = {"linear_residual_landscape": lambda: landscape_figure(norms, paths)}
    return Report("linear_residual_landscape", (small_norm_table(norms), descent_table(paths)), figures)


def exact_fit(records: Sequence[RunRecord]) -> Report:
    """Theorem 3.2, computed."""
    return Report("exact_fit", (exact_fit_table(exact_fit_records()),))


def _allconv_runs(records: Sequence[RunRecord]) -> list[RunRecord]:
    return [run for run in records if setting(run.config, "model.name") in NETWORKS_OF_TABLE2]


def table2(runs: Sequence[RunRecord]) -> Table:
    """The paper's Table 2 and our all-convolutional networks; other data than CIFAR have a column of their own."""
    on_test = [run for run in runs if run.evaluated_on == "test"]
    data = dict.fromkeys((*DATA_OF_TABLE2, *(str(setting(run.config, "dataset.name")) for run in on_test)))
    columns = ("network", *map(DATASETS.label, data), "n")
    flat: list[Mapping[str, Any]] = [
        {"arm": f"{name} (paper)", **dict(zip(DATA_OF_TABLE2, errors, strict=True))} for name, errors in TABLE2.items()
    ]
    rows: list[Sequence[Cell | str]] = [
        (paper["arm"], *(f"{paper[name]:.2f}" if paper.get(name) else "–" for name in data), "–") for paper in flat
    ]
    epochs = " or ".join(map(str, sorted({run.epochs for run in on_test})))
    after = f" after {epochs} epochs" if epochs else ""
    notes = [f"Top-1 test error in percent; the paper gives one run each, ours are means over n seeds{after}."]
    for arm in group_arms(on_test):
        dataset = str(setting(arm.config, "dataset.name"))
        failed = f", {len(arm.failed)} failed" if arm.failed else ""
        errors = [error_cell(arm) if name == dataset else "–" for name in data]
        rows.append((arm.label, *errors, f"{len(arm.finished)}{failed}"))
        flat.append({**arm_record(arm), dataset: arm_record(arm)["test_error_mean"]})
        notes += [failure_note(arm)] if arm.failed else []
    if len(on_test) < len(runs):
        held_out = plural(len(runs) - len(on_test), "run")
        notes.append(f"Left out: {held_out} whose error is on held-out images, not on the test set.")
    return tabulate("Table 2", columns, rows, notes, flat, "table2")


def small_norm_records() -> list[dict[str, float]]:
    """For every depth the norm of the constructed optimum, its bound and its excess risk (Theorem 2.1)."""
    found = []
    for seed in TARGETS:
        problem = random_regression(SIZE, GAMMA, seed)
        for depth in NORM_DEPTHS:
            weights = small_norm_weights(problem.target, depth)
            model = LinearResidual(depth, SIZE).double()
            with torch.no_grad():
                for parameter, weight in zip(model.weights(), weights, strict=True):
                    parameter.copy_(weight)
                risk = float(problem.excess_risk(model.product()))
            norm, bound = float(largest_norm(weights)), norm_bound(condition(problem.target), depth)
            found.append({"target": seed, "depth": depth, "norm": norm, "bound": bound, "excess risk": risk})
    return found


def small_norm_table(records: Sequence[Mapping[str, float]]) -> Table:
    """Theorem 2.1: the constructed optima."""
    columns = {
        "target": "{target:g}", "layers": "{depth:g}", "norm": "{norm:.4f}", "bound": "{bound:.4f}",
        "excess risk": "{excess risk:.1e}",
    }  # fmt: skip
    notes = (
        f"Targets R of size {SIZE} with singular values from exp(−{GAMMA:g}) to exp({GAMMA:g}) and det R > 0, by seed;"
        " norm: the largest spectral norm of a layer of the constructed network; bound: (4π + 3γ)/l.",
    )
    return table_of("Optima of small norm (Theorem 2.1)", columns, records, notes, "small_norm")


def descents() -> dict[tuple[int, int], Path]:
    """A path of gradient descent for every target (by its seed) and depth."""
    return {
        (seed, depth): descend(random_regression(SIZE, GAMMA, seed), depth, STEPS, RATE)
        for seed in TARGETS
        for depth in DESCENT_DEPTHS
    }


def descent_table(paths: Mapping[tuple[int, int], Path]) -> Table:
    """Theorem 2.2 along gradient descent."""
    records = [
        {
            "target": seed, "layers": depth, "excess risk first": path.excess_risk[0],
            "excess risk last": path.excess_risk[-1], "largest norm": max(path.norm), "inside": path.inside,
            "points": len(path.norm), "smallest ratio": path.smallest_ratio,
        }
        for (seed, depth), path in paths.items()
    ]  # fmt: skip
    columns = {
        "target": "{target}", "layers": "{layers}", "excess risk": "{excess risk first:.3g} → {excess risk last:.2g}",
        "largest norm": "{largest norm:.3f}", "inside": "{inside} of {points}",
        "smallest ratio": "{smallest ratio:.2f}",
    }  # fmt: skip
    notes = (
        f"{STEPS} steps of gradient descent on the population risk from zero weights, learning rate {RATE:g}/l; inside:"
        " points with |||A||| < 1, where the theorem holds; ratio: squared gradient to its bound"
        " 4l(1 − |||A|||)^(2l − 2) σ_min(Σ)(f − C), at least 1 by the theorem.",
    )
    return table_of("Gradients on the way (Theorem 2.2)", columns, records, notes, "descent")


def landscape_figure(norms: Sequence[Mapping[str, float]], paths: Mapping[tuple[int, int], Path]) -> Any:
    """Left: norm and bound over the depth. Right: squared gradient and bound along gradient descent, first target."""
    with style.new_figure(9.2, 3.6) as figure:
        left, right = figure.subplots(1, 2)
        first = [record for record in norms if record["target"] == TARGETS[0]]
        depths = [record["depth"] for record in first]
        left.loglog(depths, [record["norm"] for record in first], marker="o", color=style.COLORS["blue"], label="norm")
        left.loglog(
            depths, [record["bound"] for record in first], ":", color=style.COLORS["black"], label="(4π + 3γ)/l"
        )
        left.set(xlabel="layers l", ylabel="|||A|||", title="Constructed optima, first target")
        left.legend()
        for color, depth in zip(style.SPARE_COLORS, DESCENT_DEPTHS, strict=False):
            path = paths[TARGETS[0], depth]
            right.semilogy(path.squared_gradient, color=color, label=f"l = {depth}")
            right.semilogy([bound or float("nan") for bound in path.bound], ":", color=color)
        right.set(xlabel="step", ylabel="‖∇f‖² (solid), bound (dotted)", title="Gradient descent, first target")
        right.legend()
    return figure


def exact_fit_records() -> list[dict[str, Any]]:
    """For each of `EXACT_FITS` the blocks, parameters and largest error of the exact-fit network, or why there is none.

    The points are uniform on the unit sphere, the labels uniform.
    """
    found: list[dict[str, Any]] = []
    for count, inputs, classes, width in EXACT_FITS:
        generator = torch.Generator().manual_seed(0)
        points = torch.randn(count, inputs, generator=generator, dtype=torch.float64)
        points /= points.norm(dim=1, keepdim=True)
        labels = torch.randint(classes, (count,), generator=generator)
        record: dict[str, Any] = {"points": count, "inputs": inputs, "classes": classes, "width": width}
        try:
            net = construction.exact_fit(points, labels, classes, width, generator)
        except UserError as refused:
            found.append({**record, "refused": str(refused)})
            continue
        with torch.no_grad():
            error = (net(points) - torch.eye(classes, dtype=points.dtype)[labels]).abs().max()
        parameters = sum(parameter.numel() for parameter in net.parameters())
        found.append({**record, "blocks": len(net.blocks), "parameters": parameters, "error": float(error)})
    return found


def exact_fit_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """Theorem 3.2: the networks that fit random labels."""
    columns: dict[str, Any] = {
        **{key: f"{{{key}}}" for key in ("points", "inputs", "classes", "width")},
        "blocks": lambda record: str(record.get("blocks", "–")),
        "parameters": lambda record: f"{record['parameters']:,}" if "parameters" in record else "–",
        "error": lambda record: "refused" if "refused" in record else f"{record['error']:.1e}",
    }
    notes = [
        "Random points on the unit sphere with random labels, in float64; error: the largest difference of an output"
        " from the unit vector of its label.",
        *[f"Refused: {record['refused']}" for record in records if "refused" in record],
    ]
    return table_of("Exact fit of a finite sample (Theorem 3.2)", columns, records, notes, "exact_fit")
