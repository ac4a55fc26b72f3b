"""Deep and narrow networks: heat maps of the accuracy and of dead points over depth and width, one column a kind.

A run belongs to a kind by its network, normalization and aggregation, as the regimes `narrow_*` set them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from farkas_exp.report import style
from farkas_exp.report.arms import number, outcome, setting
from farkas_exp.report.tables import Table, cell
from farkas_exp.runs import FAILED, FINISHED, RunRecord

KINDS = {
    "plain": ("mlp", "none", None),
    "batch norm": ("mlp", "batch", None),
    "Farkas, sum": ("farkas_mlp", "none", "sum"),
    "Farkas, mean": ("farkas_mlp", "none", "mean"),
}
"""Network, normalization and aggregation of each kind, by its label."""

Place = tuple[int, int]
"""Depth and width."""


@dataclass(frozen=True)
class Grid:
    """One kind of network: the runs with a result at every depth and width."""

    label: str
    runs: Mapping[Place, tuple[RunRecord, ...]]

    def values(self, key: str, depths: Sequence[int], widths: Sequence[int]) -> np.ndarray:
        """(depths, widths) means over the runs of one of `MEASURES`; NaN where there is none."""
        measure = MEASURES[key]
        found = np.full((len(depths), len(widths)), np.nan)
        for i, depth in enumerate(depths):
            for j, width in enumerate(widths):
                each = [value for run in self.runs.get((depth, width), ()) if np.isfinite(value := measure(run))]
                found[i, j] = np.mean(each) if each else np.nan
        return found


def accuracy(run: RunRecord) -> float:
    """The test accuracy of the last epoch, in percent."""
    return 100.0 - outcome(run, "test_error")


def dead_points(run: RunRecord, last: bool) -> float:
    """The percentage of the measured points that are dead in the layer where most are, at initialization or at the end.

    NaN where it was not measured.
    """
    rows = run.diagnostics()
    rows = [row for row in rows if (row.get("epoch") == 0) != last]
    if not rows:
        return float("nan")
    return 100.0 * max((number(layer.get("dead_points")) for layer in rows[-1]["layers"]), default=float("nan"))


MEASURES = {
    "accuracy": accuracy,
    "dead_at_start": lambda run: dead_points(run, last=False),
    "dead_at_end": lambda run: dead_points(run, last=True),
}
ROWS = (
    ("accuracy", "test accuracy (%)", (50.0, 100.0)),
    ("dead_at_start", "dead points at\ninitialization (%)", (0.0, 100.0)),
    ("dead_at_end", "dead points after\ntraining (%)", (0.0, 100.0)),
)
CAPTION = (
    "Two moons: mean over n = {n} seeds. Chance is 50 %. Dead points: the share of the training points at which",
    "no unit is active, in the layer where it is largest. A cross: no run.",
)


def grids(records: Sequence[RunRecord]) -> list[Grid]:
    """The kinds that have runs on two moons with a result, in their order."""
    found = []
    for label, (model, norm, aggregation) in KINDS.items():
        runs: dict[Place, list[RunRecord]] = {}
        for record in records:
            if record.state in (FINISHED, FAILED) and _is_kind(record, model, norm, aggregation):
                place = (int(setting(record.config, "model.depth")), int(setting(record.config, "model.width")))
                runs.setdefault(place, []).append(record)
        if runs:
            found.append(Grid(label, {place: tuple(each) for place, each in sorted(runs.items())}))
    return found


def _is_kind(record: RunRecord, model: str, norm: str, aggregation: str | None) -> bool:
    config = record.config
    sizes = (setting(config, "model.depth"), setting(config, "model.width"))
    return (
        setting(config, "dataset.name") == "moons"
        and None not in sizes
        and setting(config, "model.name") == model
        and setting(config, "normalization.name") == norm
        and setting(config, "regularizer.name") in (None, "none")
        and aggregation in (None, setting(config, "aggregation.name"))
    )


def places(found: Sequence[Grid]) -> tuple[list[int], list[int]]:
    """All depths and all widths that occur."""
    every = [place for grid in found for place in grid.runs]
    return sorted({depth for depth, _ in every}), sorted({width for _, width in every})


def deep_narrow_table(found: Sequence[Grid]) -> Table:
    """One row per depth and width: the accuracy of each kind, and its share of dead points at initialization."""
    depths, widths = places(found)
    values = {(grid.label, key): grid.values(key, depths, widths) for grid in found for key in MEASURES}
    rows, records = [], []
    for i, depth in enumerate(depths):
        for j, width in enumerate(widths):
            cells = [cell(f"depth {depth}, width {width}")]
            for grid in found:
                here = {key: float(values[grid.label, key][i, j]) for key in MEASURES}
                runs = len(grid.runs.get((depth, width), ()))
                cells.append(cell(_text(here["accuracy"]), f"dead {_text(here['dead_at_start'])}"))
                records.append({"kind": grid.label, "depth": depth, "width": width, "n": runs, **here})
            rows.append(tuple(cells))
    notes = (
        f"Test accuracy in percent, mean over {_counts(found)} seeds; below it the share of the training points (in "
        "percent) that are dead at initialization, in the layer where most are. Chance is 50 %.",
    )
    columns = ("", *[grid.label for grid in found])
    return Table("Deep and narrow networks on two moons", columns, tuple(rows), notes, tuple(records))


def deep_narrow_figure(found: Sequence[Grid]) -> Any:
    """Heat maps: a column for each kind; accuracy, dead points at initialization and dead points after training."""
    depths, widths = places(found)
    with style.styled():
        figure = style.new_figure(2.5 * len(found) + 1.4, 2.0 * len(ROWS) + 1.0)
        panels = figure.subplots(len(ROWS), len(found), squeeze=False, sharex=True, sharey=True)
        for row, (key, label, limits) in zip(panels, ROWS, strict=True):
            image = None
            for axes, grid in zip(row, found, strict=True):
                image = _heat_map(
                    axes, grid.values(key, depths, widths), limits, "viridis" if key == "accuracy" else "magma_r"
                )
            figure.colorbar(image, ax=list(row), label=label, fraction=0.05, pad=0.02)
        for axes, grid in zip(panels[0], found, strict=True):
            axes.set_title(grid.label)
        for row in panels:
            row[0].set_yticks(range(len(depths)), map(str, depths))
            row[0].set_ylabel("depth")
        for axes in panels[-1]:
            axes.set_xticks(range(len(widths)), map(str, widths))
            axes.set_xlabel("width")
        figure.suptitle("Deep and narrow networks on two moons")
        figure.supxlabel("\n".join(CAPTION).format(n=_counts(found)), fontsize=8.5)
    return figure


def _heat_map(axes: Any, values: np.ndarray, limits: tuple[float, float], colors: str) -> Any:
    """Draw (depths, widths) values as squares with their numbers; a cross where there is none."""
    image = axes.imshow(values, vmin=limits[0], vmax=limits[1], cmap=colors, origin="lower", aspect="auto")
    axes.grid(visible=False)
    middle = sum(limits) / 2
    for (i, j), value in np.ndenumerate(values):
        # Both colour maps are dark on one side: viridis below, reversed magma above.
        dark = value < middle if colors == "viridis" else value > middle
        text = "×" if np.isnan(value) else f"{value:.0f}"
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    return image


def _text(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.0f}"


def _counts(found: Sequence[Grid]) -> str:
    counts = {len(runs) for grid in found for runs in grid.runs.values()}
    return "–".join(str(count) for count in dict.fromkeys((min(counts), max(counts))))
