"""The separation paper's Figures 6 to 12: what networks make of the points of the plane, by layer and by epoch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from farkas_exp.machine.errors import UserError
from farkas_exp.report import style
from farkas_exp.report.render import Report
from farkas_exp.report.training_figures import RUNNING
from farkas_exp.runs import RunRecord
from farkas_exp.runs.query import number
from farkas_exp.studies.separation.table1 import KINDS, separation_table

Plane = Mapping[str, Any]
"""What `measures.plane` has recorded of a network."""
_COLORS = (style.COLORS["vermilion"], style.COLORS["blue"])


def report(records: Sequence[RunRecord]) -> Report:
    """Figures 6 to 11, Figure 12, and the accuracies; of each arm the run of the smallest seed."""
    shown: dict[str, RunRecord] = {}
    for kind in KINDS.rows:
        runs = [run for run in records if KINDS.of(run) is kind and planes(run)]
        if runs:
            shown[kind.label] = min(runs, key=lambda run: (run.seed, -run.epochs))
    if not shown:
        raise UserError("runs_dir: no run there has diagnostics.measures=[plane]; see experiment=sep_representations")
    figures = {"sep_representations": lambda: layers_figure(shown), "sep_training": lambda: training_figure(shown)}
    return Report("sep_representations", (separation_table(list(shown.values())),), figures)


def planes(run: RunRecord) -> dict[int, Plane]:
    """What was recorded of the plane, by epoch."""
    return {row["epoch"]: row["plane"] for row in run.diagnostics() if isinstance(row.get("plane"), Mapping)}


def layers_figure(shown: Mapping[str, RunRecord]) -> Any:
    """A row for each network: its points after some layers, two units at a time, and the classes that it ends in."""
    last = {label: planes(run)[max(planes(run))] for label, run in shown.items()}
    layers = sorted({int(layer) for plane in last.values() for layer in plane["activations"]})
    columns = 2 * len(layers) + 2
    with style.new_figure(1.65 * columns + 0.6, 1.6 * len(last) + 0.9) as figure:
        panels = figure.subplots(len(last), columns, squeeze=False)
        for row, (label, plane) in zip(panels, last.items(), strict=True):
            labels = plane["labels"]
            _scatter(row[0], plane["points"], labels)
            measured = max(planes(shown[label]))
            under_way = f"\nepoch {measured}" * (measured < shown[label].epochs)
            row[0].set_ylabel(style.text(label) + under_way, fontsize=9)
            for index, layer in enumerate(layers):
                values = _array(plane["activations"].get(str(layer)))
                for axes, first in zip(row[1 + 2 * index : 3 + 2 * index], (0, 2), strict=True):
                    if values is not None and values.shape[1] > first + 1:
                        _scatter(axes, values[:, first : first + 2], labels)
                    else:
                        axes.set_visible(False)
            _classes(row[-1], plane)
        heads = ["input", *(f"layer {n}, units {pair}" for n in layers for pair in ("1, 2", "3, 4")), "classes"]
        for axes, head in zip(panels[0], heads, strict=True):
            axes.set_title(head, fontsize=8.5)
        figure.suptitle("Two moons layer by layer, after training")
        figure.supxlabel(
            "One run each, of the smallest seed. Colour: the class. All points at one place: the network tells nothing"
            " apart. Right: the probability of the blue class.",
            fontsize=8.5,
        )
    return figure


def training_figure(shown: Mapping[str, RunRecord]) -> Any:
    """A row for each network: losses and accuracy over the epochs, and the classes of the plane at some of them."""
    measured = {label: planes(run) for label, run in shown.items()}
    columns = max(map(len, measured.values()))
    with style.new_figure(5.4 + 1.5 * columns, 1.75 * len(shown) + 1.0) as figure:
        grid = figure.add_gridspec(len(shown), columns + 2, width_ratios=[2.6, 2.0, *[1.0] * columns])
        for row, (label, run) in enumerate(shown.items()):
            losses, accuracy = figure.add_subplot(grid[row, 0]), figure.add_subplot(grid[row, 1])
            _curves(losses, accuracy, run)
            losses.set_ylabel(style.text(label), fontsize=9)
            for column, (epoch, plane) in enumerate(sorted(measured[label].items())):
                axes = figure.add_subplot(grid[row, 2 + column])
                _classes(axes, plane)
                axes.set_title(f"epoch {epoch}", fontsize=8.5)
            if row == 0:
                losses.set_title("losses", fontsize=9)
                accuracy.set_title("training accuracy", fontsize=9)
        figure.suptitle("Two moons: cross-entropy, constraint loss, and the classes of the plane on the way")
        figure.supxlabel(
            "epoch. One run each, of the smallest seed. Black: cross-entropy; orange: the constraint loss as it is"
            " added, with its strength.\n"
            f"Training accuracy and losses: {RUNNING}.",
            fontsize=8.5,
        )
    return figure


def _curves(losses: Any, accuracy: Any, run: RunRecord) -> None:
    rows = run.metrics()
    epochs = [row.get("epoch") for row in rows]
    for key, color in (("train_loss", "black"), ("train_penalty", "orange")):
        values = [number(row.get(key)) for row in rows]
        values = [value if value > 0 else math.nan for value in values]
        if any(map(math.isfinite, values)):
            losses.plot(epochs, values, color=style.COLORS[color], linewidth=1.0)
    losses.set_yscale("log")
    losses.set_ylim(3e-4, 30)
    accuracy.plot(epochs, [1 - number(row.get("train_error")) / 100 for row in rows], color="black", linewidth=1.0)
    accuracy.set_ylim(0, 1.03)
    for axes in (losses, accuracy):
        axes.set_xlim(0, run.epochs)
        axes.tick_params(labelsize=7)


def _scatter(axes: Any, points: Any, labels: Sequence[int]) -> None:
    values = _array(points)
    axes.scatter(values[:, 0], values[:, 1], s=6, c=[_COLORS[label % 2] for label in labels], alpha=0.8, linewidths=0)
    axes.tick_params(labelsize=6)
    axes.locator_params(nbins=4)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_fontsize(6)


def _classes(axes: Any, plane: Plane) -> None:
    """The probability of class 1 over the plane, with the points."""
    axes.imshow(
        _array(plane["class_1"]).T, origin="lower", extent=plane["extent"], vmin=0, vmax=1, cmap="RdBu", aspect="auto"
    )
    points = _array(plane["points"])
    colors = [_COLORS[label % 2] for label in plane["labels"]]
    axes.scatter(points[:, 0], points[:, 1], s=9, c=colors, edgecolors="white", linewidths=0.4)
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])


def _array(values: Any) -> Any:
    return None if values is None else np.array(values, dtype=float)
