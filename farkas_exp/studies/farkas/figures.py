"""The paper's Figures 2 to 7 from run directories; Figure 1 is computed in `figure1.py`.

One panel per depth, the settings as lines: colour is the kind of network, a dotted line omits batch norm, a solid one
has it. The band is ± one standard deviation over the seeds. A figure is drawn as far as there are runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from farkas_exp.report import style
from farkas_exp.report.arms import Arm
from farkas_exp.report.curves import TEST_ERROR, TRAIN_LOSS, Look, arm_curve, draw_curves, looks
from farkas_exp.runs import RunRecord
from farkas_exp.runs.query import number
from farkas_exp.studies.farkas.figure1 import figure1
from farkas_exp.studies.farkas.filling import Filled, fill
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
    panels = []
    for column in filled.table.columns:
        arms = []
        for row in filled.table.rows:
            wanted = filled.table.cell(row, column)
            if wanted is not None and filled.runs.get(wanted):
                arms.append(replace(cell_arm(wanted, filled), label=row.label))
        if arms:
            panels.append(Panel(column, tuple(arms)))
    return panels


def panels_figure(
    panels: Sequence[Panel],
    title: str,
    *,
    keys: Sequence[tuple[str, str]] = (TEST_ERROR, TRAIN_LOSS),
    notes: Sequence[str] = (),
    first_epochs: int | None = None,
    show_failed: bool = False,
) -> Any:
    """A row of panels for each figure of the metrics, with one legend for all of them and a caption below.

    Args:
        panels: a column of the figure each; arms of the same label look the same in all of them.
        title: the title of the whole figure.
        keys: what is drawn in each row: the key of the metrics and the label of its axis.
        notes: lines of the caption.
        first_epochs: how many epochs are shown; all without.
        show_failed: draw each failed run as a thin line that ends in a cross.
    """
    with style.styled():
        by_label = {arm.label: arm for panel in panels for arm in panel.arms}
        look = _label_looks(list(by_label.values()))
        single = len(panels) == 1
        rows, columns = (1, len(keys)) if single else (len(keys), len(panels))
        height = 2.7 * rows + 0.7 * single + 0.5 + 0.23 * (len(by_label) + len(notes))
        figure = style.new_figure(max(3.1 * columns, 9.2 if single else 6.4), height)
        grid = figure.subplots(rows, columns, squeeze=False, sharex="col", sharey=False if single else "row")
        for index, (key, label) in enumerate(keys):
            axes_of_key = [grid[0][index]] if single else grid[index]
            for axes, panel in zip(axes_of_key, panels, strict=True):
                own = {arm.identity: look[arm.label] for arm in panel.arms}
                draw_curves(axes, panel.arms, key, own, first_epochs)
                if show_failed:
                    _draw_failed(axes, panel.arms, key, look)
                axes.set_xlabel("epoch" if single or index == len(keys) - 1 else "")
                if index == 0 and not single:
                    axes.set_title(panel.title)
            axes_of_key[0].set_ylabel(label)
        figure.suptitle(title)
        _legend(figure, list(by_label), look, [*_captions(panels, show_failed), *notes])
    return figure


def _label_looks(arms: Sequence[Arm]) -> dict[str, Look]:
    """A look for each label: that of one of its arms, told apart from all others."""
    named = [replace(arm, identity=arm.label) for arm in arms]
    return looks(named)


def _legend(figure: Any, labels: Sequence[str], look: Mapping[str, Look], captions: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=look[label].color,
            linestyle=look[label].line,
            marker=look[label].marker,
            label=style.text(label),
        )
        for label in labels
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=2 if len(labels) > 1 else 1,
        title="\n".join(map(style.text, captions)),
        title_fontsize=8.5, handlelength=3,
    )  # fmt: skip


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
    counts = sorted({curve.n for panel in panels for arm in panel.arms if (curve := arm_curve(arm, "test_error"))})
    n = "–".join(str(count) for count in dict.fromkeys((counts[0], counts[-1]))) if counts else "0"
    lines = [f"Line: mean over n = {n} seeds; band: ± 1 standard deviation."]
    failed = [
        f"{arm.label}{f', {panel.title}' if len(panels) > 1 else ''}: {len(arm.failed)}"
        for panel in panels
        for arm in panel.arms
        if arm.failed
    ]
    if failed:
        how = "thin lines that end in a cross" if show_failed else "left out"
        lines.append(f"Failed runs ({how}): {'; '.join(failed)}.")
    return lines


def table_figure(table: PaperTable, records: Sequence[RunRecord], title: str, **options: Any) -> Any | None:
    """The curves of a table's cells; None without a run."""
    filled = fill(table, records)
    panels = table_panels(filled)
    notes = [note for note in narrowing_notes(filled) if note.startswith("Not the paper's")]
    return panels_figure(panels, title, notes=_wrapped(notes), **options) if panels else None


def _wrapped(notes: Sequence[str], width: int = 100) -> list[str]:
    import textwrap

    return [line for note in notes for line in textwrap.wrap(note, width)]


_TOP1 = (("test_error", "top-1 error (%)"),)

FIGURES: dict[str, Callable[[Sequence[RunRecord]], Any | None]] = {
    "figure1": lambda records: figure1(),
    "figure2": lambda records: table_figure(
        TABLES["table3"], records, "Figure 2: first epochs on ImageNet", keys=_TOP1, first_epochs=FIRST_EPOCHS
    ),
    "figure3": lambda records: table_figure(TABLES["table4"], records, "Figure 3: best practice on CIFAR-10"),
    "figure4": lambda records: table_figure(TABLES["table1"], records, "Figure 4: training curves, CIFAR-10"),
    "figure5": lambda records: table_figure(
        FIGURE5, records, "Figure 5: 101 layers, large learning rate, no BN", show_failed=True
    ),
    "figure6": lambda records: table_figure(TABLES["table2"], records, "Figure 6: training curves, CIFAR-100"),
    "figure7": lambda records: table_figure(
        TABLES["table3"], records, "Figure 7: training curves, ImageNet", keys=_TOP1
    ),
}
"""Each figure of the paper from runs; None where there are no runs for it. Figure 1 needs none."""
