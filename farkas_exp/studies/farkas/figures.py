"""The paper's Figures 2 to 7 from run directories; Figure 1 is computed in `figure1.py`.

One panel per depth, the settings as lines: colour is the kind of network, a dotted line omits batch norm, a solid one
has it. The band is ± one standard deviation over the seeds. The last fifth of the epochs, at the smallest learning
rate, is drawn again on a scale of its own. A figure is drawn as far as there are runs.
"""

import itertools
import math
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from farkas_exp.registry import NETWORKS
from farkas_exp.report import style
from farkas_exp.report.arms import Arm, group_arms, pretty
from farkas_exp.report.curves import TEST_ERROR, Look, arm_curve, draw_curves, line_text, looks, training_loss
from farkas_exp.runs import RunRecord
from farkas_exp.runs.query import is_plain, number, setting
from farkas_exp.studies.farkas.figure1 import figure1
from farkas_exp.studies.farkas.filling import Filled, change_text, fill
from farkas_exp.studies.farkas.paper import FIGURE5, TABLES, PaperTable
from farkas_exp.studies.farkas.paper_table import cell_arm, narrowing_notes

FIRST_EPOCHS = 5
"""How many epochs Figure 2 shows."""


@dataclass(frozen=True)
class Panel:
    """The arms of one column of a table, labelled by their rows."""

    title: str
    arms: tuple[Arm, ...]


def table_panels(filled: Filled) -> list[Panel]:
    """A panel for each column of the table that has runs."""
    table, panels = filled.table, []
    for column in table.columns:
        cells = [each for row in table.rows if (each := table.cell(row, column)) and each in filled.runs]
        if cells:
            panels.append(Panel(column, tuple(replace(cell_arm(each, filled), label=each.row.label) for each in cells)))
    return panels


@dataclass(frozen=True)
class View:
    """A figure of the metrics over the epochs: a row of panels, or one panel where there is one column.

    Attributes:
        key: of the metrics.
        label: of the axis.
        shown: the epochs to draw, of so many.
        has: whether to draw an arm.
        zoomed: whether it repeats a part of another view on a scale of its own.
    """

    key: str
    label: str
    shown: Callable[[int], slice] = slice
    has: Callable[[Arm], bool] = lambda arm: True
    zoomed: bool = False

    def end(self, label: str = "", has: Callable[[Arm], bool] | None = None) -> "View":
        """The last fifth of the epochs."""
        return View(self.key, f"{self.label}, end{label}", _last_fifth, has or self.has, zoomed=True)


def with_ends(panels: Sequence[Panel], key: str = TEST_ERROR[0], label: str = TEST_ERROR[1]) -> list[View]:
    """A metric over all epochs, and its last fifth again where there is a line.

    Lines with and without batch norm end far apart, so each have a view of their own if they are two or more.
    """
    if not _has_lines(panels):
        return [View(key, label)]
    whole = View(key, label)
    counts = Counter({arm.label: _norm(arm) for panel in panels for arm in panel.arms}.values())
    if len(counts) < 2 or min(counts.values()) < 2:
        return [whole, whole.end()]
    ends = [
        whole.end(f"\n{pretty('normalization.name', norm)}", lambda arm, norm=norm: _norm(arm) == norm)
        for norm in counts
    ]
    return [whole, *ends]


def _norm(arm: Arm) -> Any:
    return setting(arm.config, "normalization.name")


def _has_lines(panels: Sequence[Panel]) -> bool:
    return any(arm_curve(arm, TEST_ERROR[0]) for panel in panels for arm in panel.arms)


def _draws(panels: Sequence[Panel], view: View) -> bool:
    """Whether some arm has a line in this view."""
    arms = [arm for panel in panels for arm in panel.arms if view.has(arm)]
    curves = [(arm, curve) for arm in arms if (curve := arm_curve(arm, view.key))]
    return any(len(curve.epochs[view.shown(max(run.epochs for run in arm.runs))]) for arm, curve in curves)


def _last_fifth(epochs: int) -> slice:
    return slice(epochs - math.ceil(epochs / 5), epochs)


def panels_figure(
    panels: Sequence[Panel],
    title: str,
    views: Sequence[View],
    *,
    notes: Sequence[str] = (),
    show_failed: bool = False,
    line: Callable[[Arm], Any] | None = None,
    look: Mapping[str, Look] | None = None,
) -> Any:
    """A row of panels for each view, with one legend for all of them and a caption below.

    Args:
        panels: a column of the figure each; arms of the same label look the same in all of them.
        title: the title of the whole figure.
        views: a row of the figure each; side by side where there is only one panel.
        notes: lines of the caption.
        show_failed: draw each failed run as a thin line that ends in a cross, as is done anyway where nothing else is.
        line: the style of an arm's line, where it is not to say the normalization.
        look: of each label, where it is not to say the kind of network and the normalization.
    """
    by_label = {arm.label: arm for panel in panels for arm in panel.arms}
    look = look or _label_looks(list(by_label.values()), line)
    show_failed = show_failed or not _has_lines(panels)
    single = len(panels) == 1
    rows, columns = (1, len(views)) if single else (len(views), len(panels))
    heights = [2.7] if single else [1.7 if view.zoomed else 2.7 for view in views]
    ends = ["End: the last fifth of the epochs."] * any(view.zoomed for view in views)
    captions = [part for said in (*_captions(panels, show_failed), *ends, *notes) for part in textwrap.wrap(said, 100)]
    below = 0.7 * single + 0.6 + 0.2 * len(captions) + 0.23 * math.ceil(len(by_label) / 2)
    with style.new_figure(max(3.1 * columns, 9.2 if single else 6.4), sum(heights) + below) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
        first: dict[str, Any] = {}
        for index, view in enumerate(views):
            row = [grid[0][index]] if single else grid[index]
            for axes, panel in zip(row, panels, strict=True):
                _draw_panel(axes, panel, view, look, show_failed)
                axes.set_xlabel("epoch" if single or index == len(views) - 1 else "")
                if index == 0 and not single:
                    axes.set_title(panel.title)
                if not view.zoomed and axes is not (like := first.setdefault(view.key, axes)):
                    axes.sharey(like)  # with numbers of its own: on a phone panels stand alone
            row[0].set_ylabel(view.label)
        figure.suptitle(title)
        _legend(figure, look, captions)
    return figure


def _draw_panel(axes: Any, panel: Panel, view: View, look: Mapping[str, Look], show_failed: bool) -> None:
    arms = [arm for arm in panel.arms if view.has(arm)]
    draw_curves(axes, arms, view.key, {arm.identity: look[arm.label] for arm in arms}, view.shown)
    if view.zoomed:
        axes.set_visible(bool(axes.get_lines()))
        axes.locator_params(axis="x", nbins=4, steps=[1, 2, 5, 10])
    elif show_failed:
        _draw_failed(axes, arms, view.key, look)
    if not axes.get_lines() and axes.get_visible():
        axes.text(0.5, 0.5, "no run to draw", transform=axes.transAxes, ha="center", color=style.COLORS["grey"])
        axes.set_xticks([])


def _label_looks(arms: Sequence[Arm], line: Callable[[Arm], Any] | None) -> dict[str, Look]:
    """A look for each label: that of one of its arms, told apart from all others."""
    found = looks([replace(arm, identity=arm.label) for arm in arms])
    return {arm.label: replace(found[arm.label], line=line(arm)) for arm in arms} if line else found


def _legend(figure: Any, look: Mapping[str, Look], captions: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=own.color, linestyle=own.line, marker=own.marker) for own in look.values()]
    labels, caption = list(map(style.text, look)), "\n".join(map(style.text, captions))
    style.legend_below(figure, handles, labels, 2, title=caption, title_fontsize=8.5, handlelength=3)


def _draw_failed(axes: Any, arms: Sequence[Arm], key: str, look: Mapping[str, Look]) -> None:
    for arm in arms:
        for run in arm.failed:
            values = np.array([number(row.get(key)) for row in run.metrics()])
            epochs = np.arange(1, len(values) + 1)
            shown = np.isfinite(values)
            if shown.any():
                last = int(np.flatnonzero(shown)[-1])
                color, line = look[arm.label].color, look[arm.label].line
                axes.plot(epochs, values, color=color, linestyle=line, linewidth=0.9)
                axes.plot(epochs[last], values[last], marker="x", color=color, markersize=6, linestyle="none")


def _captions(panels: Sequence[Panel], show_failed: bool) -> list[str]:
    curves = [arm_curve(arm, TEST_ERROR[0]) for panel in panels for arm in panel.arms]
    counts = [curve.n for curve in curves if curve]
    lines = [line_text(counts)] if counts else []
    failed = [
        f"{_name(arm, panel)}{f', {panel.title}' if len(panels) > 1 else ''}: {len(arm.failed)}"
        for panel in panels
        for arm in panel.arms
        if arm.failed
    ]
    if failed:
        how = "thin lines that end in a cross" if show_failed else "left out"
        lines.append(f"Failed runs ({how}): {'; '.join(failed)}.")
    return lines


def _name(arm: Arm, panel: Panel) -> str:
    """The label of an arm, with its network where another of the panel has the same."""
    several = sum(each.label == arm.label for each in panel.arms) > 1
    return f"{NETWORKS.label(_model(arm))}, {arm.label}" if several else arm.label


def table_figure(
    table: PaperTable,
    records: Sequence[RunRecord],
    title: str,
    views: Callable[[Sequence[Panel]], Sequence[View]] | None = None,
    **options: Any,
) -> Any | None:
    """The curves of a table's cells: by default test error, its end, and training loss. None without a run."""
    filled = fill(table, records)
    panels = table_panels(filled)
    if not panels:
        return None
    arms = [arm for panel in panels for arm in panel.arms]
    wanted = views(panels) if views else [*with_ends(panels), View(*training_loss(arms))]
    if not table.has_numbers:  # a sentence on who trains: failed runs are its answer
        norms = {setting(arm.config, "normalization.name") for arm in arms}
        options = {"show_failed": True, "line": (lambda arm: "-") if len(norms) == 1 else None} | options
    notes = [*options.pop("notes", ()), *_setting_notes(filled)]
    return panels_figure(panels, title, wanted, notes=notes, **options)


def controls_figures(filled: Filled) -> dict[str, Callable[[], Any]]:
    """The curves of the control arms beside a table's own, for each of its normalizations that has any.

    Only where the table has one row of a kind of network, which its controls stand beside.
    """
    kinds = Counter((row.normalization, row.family) for row in filled.table.rows)
    norms = [norm for norm, _ in kinds if max(n for (other, _), n in kinds.items() if other == norm) == 1]
    found = {norm: controls_panels(filled, norm) for norm in dict.fromkeys(norms)}
    name = f"{filled.table.name}_controls"
    return {
        name if norm == "none" else f"{name}_{norm}": partial(_controls_figure, filled, norm, panels)
        for norm, panels in found.items()
        if panels
    }


def controls_panels(filled: Filled, norm: str) -> list[Panel]:
    """A panel for each column with control arms, labelled by what they change, behind the table's own arms."""
    table, panels = filled.table, []
    arms = [arm for arm in group_arms(filled.others) if _norm(arm) == norm]
    for column in table.columns:
        cells = [each for each in table.cells if (each.column, each.row.normalization) == (column, norm)]
        own = [replace(cell_arm(each, filled), label=each.row.label) for each in cells if each in filled.runs]
        controls = [
            replace(arm, label=change_text(arm.config, wanted, table))
            for arm in arms
            if (wanted := next((c for c in cells if c.model == setting(arm.config, "model.name")), None))
        ]
        if controls:
            panels.append(Panel(column, (*own, *controls)))
    return panels


_CONTROL_COLORS = ("orange", "sky", "purple", "black", "grey", "green")


def _controls_figure(filled: Filled, norm: str, panels: Sequence[Panel]) -> Any:
    """A row for each kind of network, with the table's own arms in all of them, and the ends of both."""
    family = {cell.model: cell.row.family for cell in filled.table.cells}
    plain, farkas = (Look(style.KIND_COLORS[kind], "-") for kind in ("plain", "farkas"))
    own = {each.row.label: plain if is_plain(each.model) else farkas for each in filled.table.cells}
    arms = {arm.label: arm for panel in panels for arm in panel.arms}
    styles = itertools.product((None, *style.MARKERS), _CONTROL_COLORS)
    changed = zip((label for label in arms if label not in own), styles, strict=False)
    look = {label: look for label, look in own.items() if label in arms}
    look |= {label: Look(style.COLORS[color], "-", marker) for label, (marker, color) in changed}
    views = [
        View(TEST_ERROR[0], f"{_KINDS[kind]}\n{TEST_ERROR[1]}",
             has=lambda arm, kind=kind: arm.label in own or family[_model(arm)] == kind)
        for kind in _KINDS
        if any(arm.label not in own and family[_model(arm)] == kind for panel in panels for arm in panel.arms)
    ]  # fmt: skip
    title = f"{filled.table.short}: control arms, {pretty('normalization.name', norm)}"
    notes = ["The table's own arms are in every panel.", *_setting_notes(filled)]
    views += [end for view in views if _draws(panels, end := view.end())]
    return panels_figure(panels, title, views, notes=notes, show_failed=True, look=look)


def _model(arm: Arm) -> str:
    return str(setting(arm.config, "model.name"))


def _setting_notes(filled: Filled) -> list[str]:
    return [note for note in narrowing_notes(filled) if note.startswith("Not the paper's")]


def _imagenet(
    records: Sequence[RunRecord], title: str, views: Callable[[Sequence[Panel]], Sequence[View]]
) -> Any | None:
    """Curves of Table 3, in which all networks have batch norm: as in the paper, dotted is the FarkasNet."""
    return table_figure(
        TABLES["table3"], records, title, views, notes=("Dotted lines: FarkasNet.",),
        line=lambda arm: "-" if is_plain(str(setting(arm.config, "model.name"))) else ":",
    )  # fmt: skip


_KINDS = {"resnet": "ResNet", "farkasnet": "FarkasNet", "fixup": "FixUp"}
"""What the families of the paper's tables are called."""
_TOP1 = ("test_error", "top-1 error (%)")

FIGURES: dict[str, Callable[[Sequence[RunRecord]], Any | None]] = {
    "figure1": lambda records: figure1(),
    "figure2": lambda records: _imagenet(
        records, "Figure 2: first epochs on ImageNet", lambda panels: [View(*_TOP1, lambda epochs: slice(FIRST_EPOCHS))]
    ),
    "figure3": lambda records: table_figure(TABLES["table4"], records, "Figure 3: best practice on CIFAR-10"),
    "figure4": lambda records: table_figure(TABLES["table1"], records, "Figure 4: training curves, CIFAR-10"),
    "figure5": lambda records: table_figure(FIGURE5, records, FIGURE5.title),
    "figure6": lambda records: table_figure(TABLES["table2"], records, "Figure 6: training curves, CIFAR-100"),
    "figure7": lambda records: _imagenet(
        records, "Figure 7: training curves, ImageNet", lambda panels: with_ends(panels, *_TOP1)
    ),
}
"""Each figure of the paper from runs; None where there are no runs for it. Figure 1 needs none."""
