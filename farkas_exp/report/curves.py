"""Curves against the epoch, one line per arm: the mean over its seeds, with the spread shaded."""

import colorsys
import itertools
import math
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from farkas_exp.registry import NETWORKS, Network
from farkas_exp.report import style
from farkas_exp.report.arms import Arm, arms_table, evaluation_sets, group_arms
from farkas_exp.report.render import Report
from farkas_exp.report.statistics import over_seeds
from farkas_exp.report.training_figures import training_key
from farkas_exp.runs import RunRecord
from farkas_exp.runs.query import number, setting

TEST_ERROR = ("test_error", "test error (%)")
TRAIN_LOSS = {
    "train_loss": "training loss, running mean (nats)",
    "train_eval_loss": "training loss after the epoch (nats)",
}
"""What the training losses of `training_key` are called on an axis."""
MOST_ARMS = 120
"""The most arms in a figure; nobody can distinguish more lines."""


@dataclass(frozen=True)
class Curve:
    """The mean and the standard deviation over `n` runs at each epoch (1-based); sd is zero for one run."""

    epochs: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    n: int


def arm_curve(arm: Arm, key: str) -> Curve | None:
    """The curve of one figure of the metrics over an arm's finished runs, or over its unfinished ones if none is.

    Runs of different length are averaged over the epochs that all of them have. A value that is not finite makes a
    gap. None if there is nothing to draw; failed runs are not drawn.
    """
    series = []
    for run in arm.finished or arm.unfinished:
        values = [number(row.get(key)) for row in run.metrics()]
        if values:
            series.append(values)
    if not series:
        return None
    length = min(map(len, series))
    values = np.array([each[:length] for each in series])
    sd = values.std(axis=0, ddof=1) if len(series) > 1 else np.zeros(length)
    return Curve(np.arange(1, length + 1), values.mean(axis=0), sd, len(series))


def training_loss(arms: Sequence[Arm]) -> tuple[str, str]:
    """The training loss that all drawn runs of these arms have, and its label: that after the epoch if they can."""
    drawn = [run for arm in arms for run in arm.finished or arm.unfinished]
    key = training_key([run.result or next(iter(run.metrics()), {}) for run in drawn], "loss")
    return key, TRAIN_LOSS[key]


@dataclass(frozen=True)
class Look:
    """How the line of an arm is drawn."""

    color: str
    line: Any
    marker: str | None = None


def looks(arms: Sequence[Arm]) -> dict[str, Look]:
    """A look for each identity: colour by kind of network, line by normalization; no two arms look the same."""
    taken: set[tuple[str, str]] = set()
    result = {}
    for arm in arms:
        own = _kind_color(NETWORKS.get(str(setting(arm.config, "model.name"))))
        line = style.LINES.get(str(setting(arm.config, "normalization.name")), "--")
        colors = [c for c in (own, *style.SPARE_COLORS) if c]
        reserved = set(style.KIND_COLORS.values()) - {own}
        choices = ((c, m) for m in (None, *style.MARKERS) for c in colors if c not in reserved)
        every = itertools.chain(choices, _more_colors())
        color, marker = next((c, m) for c, m in every if (c, f"{line} {m}") not in taken)
        taken.add((color, f"{line} {marker}"))
        result[arm.identity] = Look(color, line, marker)
    return result


def _kind_color(network: Network | None) -> str | None:
    if network is None:  # of a package that is not installed
        return None
    return style.KIND_COLORS["farkas" if network.farkas else "fixup" if network.scalars else "plain"]


def _more_colors() -> Iterator[tuple[str, str]]:
    """Endless further colours, each with a marker: hues a golden section apart."""
    for index, marker in enumerate(itertools.cycle(style.MARKERS)):
        red, green, blue = colorsys.hls_to_rgb(index * 0.6180339887 % 1, 0.35 + 0.25 * (index % 3) / 2, 0.8)
        yield f"#{round(255 * red):02X}{round(255 * green):02X}{round(255 * blue):02X}", marker


def draw_curves(
    axes: Any, arms: Sequence[Arm], key: str, looks_by_identity: Mapping[str, Look],
    shown: Callable[[int], slice] = slice,
) -> None:  # fmt: skip
    """Draw one line and one band (± one standard deviation) per arm that has something to draw.

    `shown` selects the epochs to draw, of those that a run is to have: an unfinished one has no end yet.
    """
    from matplotlib.ticker import MaxNLocator

    for arm in arms:
        curve, look = arm_curve(arm, key), looks_by_identity[arm.identity]
        if curve is None:
            continue
        part = shown(max(run.epochs for run in arm.runs))
        curve = Curve(curve.epochs[part], curve.mean[part], curve.sd[part], curve.n)
        if not len(curve.epochs):
            continue
        marker = look.marker or ("o" if len(curve.epochs) == 1 else None)
        every = max(1, math.ceil(len(curve.epochs) / 8))
        axes.plot(
            curve.epochs, curve.mean, color=look.color, linestyle=look.line, marker=marker, markersize=5,
            markevery=every, label=legend_label(arm, curve.n),
        )  # fmt: skip
        if curve.n > 1:
            # errors and losses are not negative, and errors at most 100 %, but mean ± sd may be beyond
            most = 100.0 if "error" in key else math.inf
            low, high = (curve.mean - curve.sd).clip(min=0), (curve.mean + curve.sd).clip(max=most)
            axes.fill_between(curve.epochs, low, high, color=look.color, alpha=style.BAND_ALPHA, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True))
    axes.set_xlabel("epoch")


def line_text(counts: Collection[int]) -> str:
    """What lines and bands are, over so many runs each."""
    if max(counts) == 1:
        return "Line: one run."
    return f"Line: {over_seeds(counts)}; band: ± 1 standard deviation{' (none for n = 1)' if min(counts) == 1 else ''}."


def legend_label(arm: Arm, n: int) -> str:
    """The arm's label with the number of runs drawn, and of failed ones left out."""
    facts = [f"n = {n}" if arm.finished else f"n = {n}, not finished"]
    facts += [f"{len(arm.failed)} failed"] if arm.failed else []
    return style.text(f"{arm.label} ({', '.join(facts)})")


def curves_figure(arms: Sequence[Arm]) -> Any:
    """Error and training loss of all arms, side by side, with one legend below; a panel for each evaluation set.

    Arms without a curve (all runs failed, or no epoch finished) are named in a line under the figure.
    """
    drawn, more = list(arms[:MOST_ARMS]), len(arms) - MOST_ARMS
    look = looks(drawn)
    sets = evaluation_sets(drawn)
    with style.new_figure(3.2 + 3.2 * (len(sets) + 1), 3.9 + 0.21 * math.ceil(len(drawn) / 2)) as figure:
        *panels, loss = figure.subplots(1, len(sets) + 1)
        for axes, name in zip(panels, sets, strict=True):
            draw_curves(axes, [arm for arm in drawn if arm.evaluated_on == name], f"{name}_error", look)
            axes.set_ylabel(f"{name} error (%)")
        key, label = training_loss(drawn)
        draw_curves(loss, drawn, key, look)
        loss.set_ylabel(label)
        handles, labels = loss.get_legend_handles_labels()
        curves = [arm_curve(arm, f"{arm.evaluated_on}_error") for arm in drawn]
        counts = [curve.n for curve in curves if curve]
        lines = [line_text(counts)] if counts else []
        empty = [arm for arm, curve in zip(drawn, curves, strict=True) if curve is None]
        lines += [f"{more} more arms are not drawn; choose some with KEY=VALUE."] if more > 0 else []
        whys = [f"failed runs: {len(arm.failed)}" if arm.failed else "no epoch finished" for arm in empty]
        told = [f"{arm.label} ({why})" for arm, why in zip(empty, whys, strict=True)]
        lines += [f"Not drawn: {'; '.join(told)}"] if told else []
        caption = "\n".join(style.text(part) for line in lines for part in textwrap.wrap(line, 140))
        if handles:
            style.legend_below(figure, handles, labels, 2, title=caption, title_fontsize=9)
        else:
            figure.supxlabel(caption, fontsize=9)
    return figure


def arms_report(records: Sequence[RunRecord]) -> Report:
    """All arms of the runs: one table, and the curves of all of them."""
    arms = group_arms(records)
    return Report("arms", (arms_table(arms),), {"arms": lambda: curves_figure(arms)})
