"""Deep and narrow networks: heat maps of the accuracy and of dead points over depth and width, one column a kind.

A run belongs to a kind by its settings. The runs of one figure share all other settings; of several the one with the
most places is shown. A failed run counts as chance.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from farkas_exp.registry import DATASETS
from farkas_exp.report import style
from farkas_exp.report.kinds import Kinds
from farkas_exp.report.landscape import measurement
from farkas_exp.report.statistics import over_seeds
from farkas_exp.report.tables import Cell, Table, cell, tabulate
from farkas_exp.report.training_figures import RUNNING
from farkas_exp.runs import DONE, RunRecord
from farkas_exp.runs.query import by_data, chance_error, has_failed, number, outcome, ranked_error, setting

Place = tuple[int, int]
"""Depth and width."""


@dataclass(frozen=True)
class Grid:
    """One kind of network: the runs with a result at every depth and width."""

    label: str
    runs: Mapping[Place, tuple[RunRecord, ...]]

    def values(self, key: str, depths: Sequence[int], widths: Sequence[int]) -> np.ndarray:
        """(depths, widths) means over the runs of one of `MEASURES`; NaN where there is none."""

        def mean(place: Place) -> float:
            each = [value for run in self.runs.get(place, ()) if np.isfinite(value := MEASURES[key][1](run))]
            return float(np.mean(each)) if each else np.nan

        return np.array([[mean((depth, width)) for width in widths] for depth in depths])


def dead_points(run: RunRecord, last: bool) -> float:
    """The percentage of dead points in the layer where it is largest, before training or after it (`measurement`).

    NaN if it was not measured.
    """
    layers = layers_of(measurement(run, last))
    return 100.0 * max((number(layer.get("dead_points")) for layer in layers), default=float("nan"))


def layers_of(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The layers of a measurement; none if it is damaged, or if the network had diverged.

    Then a margin is not finite, beside which version 0.1 recorded shares of zero.
    """
    layers = row.get("layers")
    found = [layer for layer in layers if isinstance(layer, Mapping)] if isinstance(layers, list) else []
    return found if all(np.isfinite(number(layer.get("margin", 0.0))) for layer in found) else []


MEASURES: Mapping[str, tuple[str, Callable[[RunRecord], float]]] = {
    "accuracy": ("test\naccuracy (%)", lambda run: 100.0 - ranked_error(run)),
    "train_accuracy": (
        "training\naccuracy (%)",
        lambda run: 100.0 - (chance_error(run) if has_failed(run) else outcome(run, "train_error")),
    ),
    "dead_at_start": ("dead points at\ninitialization (%)", lambda run: dead_points(run, last=False)),
    "dead_at_end": ("dead points after\ntraining (%)", lambda run: dead_points(run, last=True)),
}
"""What is measured of a run, with its label; the accuracies are those of the last epoch, of a failed run chance."""
AXES = ("model.depth", "model.width")


def grids(records: Sequence[RunRecord], *tables: Kinds) -> tuple[list[Grid], list[str]]:
    """The kinds with finished runs, in their order, all in one setting and on one data set; and what was left out.

    They are those of the table that has runs at most places.
    """
    made = [_grids(records, kinds) for kinds in tables]
    found = max((grids for grids, _ in made), key=lambda grids: sum(len(grid.runs) for grid in grids))
    shown = sum(len(runs) for grid in found for runs in grid.runs.values())
    left_out = sum(count for _, count in made) - shown
    return found, [f"Left out, runs in other settings: {left_out}; choose one with KEY=VALUE."] if left_out else []


def _grids(records: Sequence[RunRecord], kinds: Kinds) -> tuple[list[Grid], int]:
    """The kinds of one table, and the number of its runs in any setting."""
    settings: dict[str, list[RunRecord]] = {}
    for record in records:
        fits = record.state in DONE and record.evaluated_on == "test" and None not in _place(record)
        if fits and kinds.of(record):
            settings.setdefault(kinds.settings(record, AXES)[0], []).append(record)
    parts = [runs for found in settings.values() for runs in by_data(found).values()]
    best = max(parts, key=lambda runs: (len({_place(run) for run in runs}), len(runs)), default=[])
    found = []
    for kind in kinds.rows:
        own: dict[str, dict[Place, list[RunRecord]]] = {}
        for run in best:
            if kinds.of(run) is kind:
                own.setdefault(kinds.settings(run, AXES)[1], {}).setdefault(_place(run), []).append(run)
        if own:
            places = max(own.values(), key=lambda places: (len(places), sum(map(len, places.values()))))
            found.append(Grid(kind.label, {place: tuple(runs) for place, runs in sorted(places.items())}))
    return found, sum(map(len, parts))


def _place(run: RunRecord) -> Place:
    depth, width = (setting(run.config, key) for key in AXES)
    return (depth, width)


def places(found: Sequence[Grid]) -> tuple[list[int], list[int]]:
    """All depths and all widths that occur."""
    every = [place for grid in found for place in grid.runs]
    return sorted({depth for depth, _ in every}), sorted({width for _, width in every})


def data_of(found: Sequence[Grid]) -> tuple[str, float]:
    """What the data of the maps are called, and the accuracy of a random guess on them in percent."""
    run = next(run for grid in found for runs in grid.runs.values() for run in runs)
    return DATASETS.label(str(setting(run.config, "dataset.name"))), round(100.0 - chance_error(run), 2)


def title_of(found: Sequence[Grid]) -> str:
    """The title of the maps."""
    return f"Deep and narrow networks on {data_of(found)[0]}"


def deep_narrow_table(found: Sequence[Grid], name: str = "deep_narrow", notes: Sequence[str] = ()) -> Table:
    """One row per depth and width: the accuracies of each kind, and its share of dead points at initialization."""
    depths, widths = places(found)
    values = {(grid.label, key): grid.values(key, depths, widths) for grid in found for key in MEASURES}
    rows, records = [], []
    for i, depth in enumerate(depths):
        for j, width in enumerate(widths):
            cells: list[Cell | str] = [f"depth {depth}, width {width}"]
            for grid in found:
                here = {key: float(values[grid.label, key][i, j]) for key in MEASURES}
                runs = len(grid.runs.get((depth, width), ()))
                below = (f"training {_text(here['train_accuracy'])}", f"dead {_text(here['dead_at_start'])}")
                cells.append(cell(_text(here["accuracy"]), *below))
                records.append({"kind": grid.label, "depth": depth, "width": width, "n": runs, **here})
            rows.append(cells)
    said = (
        f"Test accuracy in percent, {_seeds(found)}; below it that on the training set, and the share of the training"
        " points (in percent) that are dead at initialization, in the layer where most are. A run that failed to train"
        f" counts as chance, {data_of(found)[1]:g} %. Training accuracy: {RUNNING}.",
    )
    columns = ("", *[grid.label for grid in found])
    return tabulate(title_of(found), columns, rows, (*said, *notes), records, name)


def deep_narrow_figure(found: Sequence[Grid]) -> Any:
    """Heat maps, a column for each kind: accuracies, and dead points before and after training where measured."""
    depths, widths = places(found)
    name, chance = data_of(found)
    values = {key: [grid.values(key, depths, widths) for grid in found] for key in MEASURES}
    shown = [key for key in MEASURES if key == "accuracy" or any(np.isfinite(each).any() for each in values[key])]
    with style.new_figure(2.5 * len(found) + 1.4, (0.25 * len(depths) + 0.8) * len(shown) + 1.0) as figure:
        panels = figure.subplots(len(shown), len(found), squeeze=False, sharex=True, sharey=True)
        for row, key in zip(panels, shown, strict=True):
            image, is_accuracy = None, key.endswith("accuracy")
            limits, colors = ((chance, 100.0), "viridis") if is_accuracy else ((0.0, 100.0), "magma_r")
            for axes, each in zip(row, values[key], strict=True):
                image = _heat_map(axes, each, limits, colors)
            figure.colorbar(image, ax=list(row), label=MEASURES[key][0], fraction=0.05, pad=0.02)
        for axes, grid in zip(panels[0], found, strict=True):
            axes.set_title(style.text(grid.label))
        for row in panels:
            row[0].set_yticks(range(len(depths)), map(str, depths))
            row[0].set_ylabel("depth")
        for axes in panels[-1]:
            axes.set_xticks(range(len(widths)), map(str, widths))
            axes.set_xlabel("width")
        figure.suptitle(title_of(found))
        caption = f"{name[0].upper()}{name[1:]}: {_seeds(found)}. Chance is {chance:g} %. A cross: no run."
        if "train_accuracy" in shown:
            caption += f"\nTraining accuracy: {RUNNING}."
        if len(shown) > 2:
            caption += (
                "\nDead points: the share of the training points at which no unit is active, in the layer where it is"
                " largest."
            )
        figure.supxlabel(caption, fontsize=8.5)
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


def _seeds(found: Sequence[Grid]) -> str:
    return over_seeds({len(runs) for grid in found for runs in grid.runs.values()})
