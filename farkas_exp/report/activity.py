"""How active the units of each kind are, over the epochs at which it was measured (`diagnostics.epochs`)."""

from collections.abc import Sequence
from typing import Any

from farkas_exp.report.arms import Arm, group_arms
from farkas_exp.report.landscape import settings_notes
from farkas_exp.report.maps import layers_of
from farkas_exp.report.tables import Table, tabulate
from farkas_exp.runs import RunRecord
from farkas_exp.runs.query import number

_series = " → ".join
KINDS = {"free": "free units", "aggregated": "aggregated (Algorithm 1)", "appended": "appended (Algorithm 2)"}


def units_table(records: Sequence[RunRecord]) -> Table | None:
    """One row per arm that was measured: the share of points at which a unit of each kind is active, in percent.

    For the kinds of which a layer has one unit, also in how many layers it is active at no point.
    """
    rows, flat = [], []
    for arm in group_arms(records):
        found = arm_activity(arm)
        if not found:
            continue
        shares = (_series(f"{100 * row[kind]:.1f}" for row in found if kind in row) for kind in (*KINDS, "dead"))
        silent = [f"{round(row['silent'], 1):g}" for row in found if "silent" in row]
        rows.append(
            [arm.label, _runs(found), _series(str(row["epoch"]) for row in found),
             *(share or "–" for share in shares),
             f"{_series(silent)} of {found[0]['appending']:g}" if silent else "–"]
        )  # fmt: skip
        flat += [{"arm": arm.label, "identity": arm.identity, **row} for row in found]
    if not rows:
        return None
    columns = ("arm", "runs", "epoch", *(f"{title} (%)" for title in KINDS.values()), "dead points (%)",
               "appended, nowhere active")  # fmt: skip
    notes = (
        "Percent of the points (images, or images times positions) at which a unit is active, averaged over the layers"
        " that have one of its kind and over the runs measured at that epoch; epoch 0 is the initial network. Measured"
        " in evaluation mode, where a batch norm that is not trained yet changes nothing. Dead points: those at which"
        " no unit of a layer is active, in the layer where most are.",
        *settings_notes(records),
    )
    return tabulate("Activity by kind of unit", columns, rows, notes, flat, "units")


def arm_activity(arm: Arm) -> list[dict[str, Any]]:
    """A row for each epoch at which runs of an arm were measured, `n` of them: the mean share of each kind.

    `dead` is the share of dead points in the layer where most are, `silent` the mean number of layers, out of
    `appending`, whose appended unit is active at no point.
    """
    series = [{row.get("epoch"): shares for row in run.diagnostics() if (shares := by_kind(row))} for run in arm.runs]
    rows = []
    epochs: set[Any] = set().union(*series)
    for epoch in sorted(epochs):
        measured = [each[epoch] for each in series if epoch in each]
        common = [key for key in measured[0] if all(key in shares for shares in measured)]
        means = {key: sum(shares[key] for shares in measured) / len(measured) for key in common}
        rows.append({"epoch": epoch, "n": len(measured), **means})
    return rows


def _runs(found: Sequence[dict[str, Any]]) -> str:
    """How many runs the rows are of: one number, or a series where some runs were not measured at each epoch."""
    counts = [str(row["n"]) for row in found]
    return counts[0] if len(set(counts)) == 1 else _series(counts)


def by_kind(row: Any) -> dict[str, float]:
    """The shares of one measurement; empty for one of a version that did not tell the kinds apart."""
    shares: dict[str, list[float]] = {}
    for layer in layers_of(row):
        active = layer.get("active")
        for kind, share in active.items() if isinstance(active, dict) else ():
            shares.setdefault(kind, []).append(number(share))
    found = {kind: sum(each) / len(each) for kind, each in shares.items()}
    if found:
        found["dead"] = max(number(layer.get("dead_points")) for layer in layers_of(row))
    if "appended" in shares:
        found |= {"silent": shares["appended"].count(0.0), "appending": len(shares["appended"])}
    return found
