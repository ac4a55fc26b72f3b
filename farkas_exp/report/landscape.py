"""The figures of `diagnostics.measures` by arm, at the first and the last measurement."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from farkas_exp.report.arms import Arm, error_cells, evaluation_sets, group_arms
from farkas_exp.report.render import Report
from farkas_exp.report.tables import Cell, Table, cell, tabulate
from farkas_exp.runs import RunRecord
from farkas_exp.runs.query import has_failed, number

FIGURES: Mapping[str, str] = {
    "loss": "loss",
    "grad_norm": "gradient",
    "hessian_min": "min. eigenvalue",
    "hessian_max": "max. eigenvalue",
    "param_norm": "parameter norm",
    "ntk_correlation": "NTK correlation",
    "ntk_relative": "NTK change",
    "ntk_norm": "NTK norm",
    "param_change": "parameter change",
    "effective_rank": "effective rank",
    "robust_error 8/255": "error at 8/255 (%)",
    "robust_error 1/255": "error at 1/255 (%)",
    "dead_samples": "dead points",
}
"""Columns by key; those that no run has are left out."""


def flat_figures(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one row of diagnostics; effective ranks as their mean over the layers."""
    figures = {key: number(value) for key, value in row.items() if key in FIGURES and not isinstance(value, Mapping)}
    robust, ranks = row.get("robust_error"), row.get("effective_rank")
    if isinstance(robust, Mapping):
        figures |= {f"robust_error {radius}": number(value) for radius, value in robust.items()}
    ranks = [number(value) for value in ranks.values()] if isinstance(ranks, Mapping) else []
    if ranks:
        figures["effective_rank"] = sum(ranks) / len(ranks)
    return figures


SETTINGS: Mapping[str, str | None] = {"images": None, "lanczos_steps": "hessian", "ntk_images": "ntk"}
"""The settings of a measurement, each with the measure that it belongs to; None: to all."""


def settings_notes(runs: Iterable[RunRecord]) -> list[str]:
    """A note where measurements were taken with different settings, so that they cannot be compared."""
    values: dict[str, set[str]] = {}
    for row in (row for run in runs for row in run.diagnostics()):
        settings, taken = row.get("settings"), row.get("measures")
        if isinstance(settings, Mapping) and isinstance(taken, list):
            for key, measure in SETTINGS.items():
                if key in settings and measure in (None, *taken):
                    values.setdefault(key, set()).add(str(settings[key]))
    differ = [
        f"diagnostics.{key}={' and '.join(sorted(each, key=lambda text: (len(text), text)))}"
        for key, each in values.items()
        if len(each) > 1
    ]
    return [f"Not all measurements are comparable: they were taken with {', '.join(differ)}."] if differ else []


def report(records: Sequence[RunRecord]) -> Report:
    """The measurements before and after training."""
    return Report("landscape", (landscape_table(records),))


def at_end(key: str, last: bool) -> Callable[[RunRecord], float]:
    """One of `FIGURES` at a run's measurement before its training, or after it."""
    return lambda run: flat_figures(measurement(run, last)).get(key, math.nan)


def measurement(run: RunRecord, last: bool) -> Mapping[str, Any]:
    """The measurement of a run before its training, or after its last epoch; empty if there is none.

    A run that failed to train has no network of its end; of it the last measurement under way counts.
    """
    rows = _by_epoch(run)
    if not last:
        return rows.get(0, {})
    end = max(rows, default=0) if has_failed(run) else run.epochs
    return rows.get(end, {}) if end else {}


def _by_epoch(run: RunRecord) -> dict[int, Mapping[str, Any]]:
    return {row["epoch"]: row for row in run.diagnostics() if type(row.get("epoch")) is int}


def landscape_table(records: Sequence[RunRecord]) -> Table:
    """One row per arm: its error, and each figure before and after training, means over the seeds.

    A mean over fewer runs than the row has says below it over how many.
    """
    arms = group_arms(records)
    measured = {arm.identity: _ends(arm) for arm in arms}
    shown = [key for key in FIGURES if any(key in end for ends in measured.values() for end in ends.values())]
    sets = evaluation_sets(arms)
    rows, flat = [], []
    for arm in arms:
        ends, n = measured[arm.identity], len(arm.finished)
        changes = [_change([end.get(key, []) for end in ends.values()], n) for key in shown]
        rows.append((arm.label, *error_cells(arm, sets), str(n), *changes))
        means = {f"{key} {when}": _mean(end.get(key, [])) for key in shown for when, end in ends.items()}
        counts = {f"{key} {when} n": len(values) for when, end in ends.items() for key, values in end.items()}
        fewer = {key: count for key, count in counts.items() if count < n}
        flat.append({"arm": arm.label, "identity": arm.identity, **means, **fewer})
    notes = (
        "Means over n finished runs: at the first → at the last epoch at which all measured runs were measured"
        " (diagnostics.epochs).",
        *settings_notes(records),
    )
    columns = ("arm", *(f"{name} error (%)" for name in sets), "n", *[FIGURES[key] for key in shown])
    return tabulate("Before and after training", columns, rows, notes, flat, "landscape")


def _ends(arm: Arm) -> dict[str, dict[str, list[float]]]:
    """The figures of the first and of the last epoch at which all measured runs of an arm were measured."""
    found = [rows for run in arm.finished if (rows := _by_epoch(run))]
    common = sorted(set(found[0]).intersection(*found[1:])) if found else []
    trained = [epoch for epoch in common if epoch > 0][-1:]
    return {
        when: _values([flat_figures(rows[epoch]) for epoch in epochs for rows in found])
        for when, epochs in (("first", [epoch for epoch in common if epoch not in trained][:1]), ("last", trained))
    }


def _values(figures: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    keys = dict.fromkeys(key for each in figures for key in each)
    values = {key: [each[key] for each in figures if math.isfinite(each.get(key, math.nan))] for key in keys}
    return {key: each for key, each in values.items() if each}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _change(ends: Sequence[Sequence[float]], runs: int) -> Cell:
    texts = ["–" if (mean := _mean(values)) is None else f"{mean:.4g}" for values in ends]
    if texts == ["–", "–"]:
        return cell("–")
    counts = dict.fromkeys(len(values) for values in ends if values)
    return cell(" → ".join(texts), *([] if set(counts) == {runs} else [f"n = {' → '.join(map(str, counts))}"]))
