"""What `diagnostics.measures` has found, arm by arm: each figure at the first and at the last measurement."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from farkas_exp.report.arms import Arm, group_arms, number
from farkas_exp.report.tables import Cell, Table, cell
from farkas_exp.runs import RunRecord

FIGURES: Mapping[str, str] = {
    "loss": "loss",
    "grad_norm": "gradient",
    "hessian_min": "min. eigenvalue",
    "hessian_max": "max. eigenvalue",
    "param_norm": "parameter norm",
    "ntk_correlation": "NTK correlation",
    "ntk_relative": "NTK change",
    "effective_rank": "effective rank",
    "robust_error 8/255": "error at 8/255 (%)",
    "robust_error 1/255": "error at 1/255 (%)",
    "dead_samples": "dead points",
}
"""Columns by key; those that no run has are left out."""


def flat_figures(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one row of diagnostics; effective ranks as their mean over the layers."""
    figures = {key: number(value) for key, value in row.items() if key in FIGURES and not isinstance(value, Mapping)}
    for radius, value in (row.get("robust_error") or {}).items():
        figures[f"robust_error {radius}"] = number(value)
    ranks = [number(value) for value in (row.get("effective_rank") or {}).values()]
    if ranks:
        figures["effective_rank"] = sum(ranks) / len(ranks)
    return figures


def landscape_table(records: Sequence[RunRecord]) -> Table:
    """One row per arm: test error, and each figure before and after training, means over the seeds."""
    arms = group_arms(records)
    measured = {arm.identity: _ends(arm) for arm in arms}
    shown = [key for key in FIGURES if any(key in end for ends in measured.values() for end in ends)]
    rows = []
    for arm in arms:
        first, last = measured[arm.identity]
        error = arm.summary("test_error")
        cells = [cell(arm.label), cell(f"{error.mean:.2f}" if error else "–"), cell(str(len(arm.finished)))]
        rows.append((*cells, *[_change(first.get(key), last.get(key)) for key in shown]))
    records_ = [
        {"arm": arm.label, "identity": arm.identity}
        | {f"{key} {when}": end.get(key) for key in shown for when, end in _named(measured[arm.identity])}
        for arm in arms
    ]
    notes = ("Means over n finished runs: at the first measurement → at the last one (diagnostics.epochs).",)
    columns = ("arm", "test error (%)", "n", *[FIGURES[key] for key in shown])
    return Table("Before and after training", columns, tuple(rows), notes, tuple(records_))


def _named(ends: tuple[dict[str, float], dict[str, float]]) -> list[tuple[str, dict[str, float]]]:
    return list(zip(("first", "last"), ends, strict=True))


def _ends(arm: Arm) -> tuple[dict[str, float], dict[str, float]]:
    """The mean figures of the first and of the last measurement."""
    rows = [run.diagnostics() for run in arm.finished]
    rows = [each for each in rows if each]
    return _mean([flat_figures(each[0]) for each in rows]), _mean([flat_figures(each[-1]) for each in rows])


def _mean(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    keys = dict.fromkeys(key for each in figures for key in each)
    values = {key: [each[key] for each in figures if math.isfinite(each.get(key, math.nan))] for key in keys}
    return {key: sum(each) / len(each) for key, each in values.items() if each}


def _change(first: float | None, last: float | None) -> Cell:
    texts = ["–" if value is None else f"{value:.4g}" for value in (first, last)]
    return cell(" → ".join(texts) if texts != ["–", "–"] else "–")
