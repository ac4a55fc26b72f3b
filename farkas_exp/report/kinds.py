"""The rows of a paper's table as settings, and a table of the runs that have them beside the paper's numbers.

A run belongs to a row by its settings, not by who trained it, or under which name. Runs of two settings are two rows,
whose labels say what differs.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from farkas_exp import registry
from farkas_exp.machine.errors import UserError
from farkas_exp.report.arms import (
    Arm,
    arm_record,
    error_cells,
    evaluation_sets,
    failure_note,
    group_arms,
    mean_record,
    mean_sd,
)
from farkas_exp.report.landscape import settings_notes
from farkas_exp.report.render import Report
from farkas_exp.report.statistics import Summary, summarize
from farkas_exp.report.tables import Cell, Table, cell, tabulate
from farkas_exp.runs import RunRecord
from farkas_exp.runs.query import default_settings, setting, settings_in_full

ANY: Any = object()
"""In a kind's needs: any value of a key, or of all keys of a group such as `attack.`; runs must still agree on it."""
METHODS = (
    *(group.key.removesuffix("name") for group in registry.METHOD_GROUPS),
    *(f"{group}." for name in registry.METHODS if (group := registry.METHODS[name].group)),
)
"""Prefixes of the keys of methods, which make another row of any network."""


@dataclass(frozen=True)
class Kind:
    """A row: what its runs must have, by dotted key (a tuple for several values), and the paper's numbers by column."""

    label: str
    needs: Mapping[str, Any]
    paper: Mapping[str, str] = field(default_factory=dict)

    def fits(self, flat: Mapping[str, Any], pinned: Sequence[str]) -> bool:
        """Whether these settings in full are of this kind: as needed, and at the default elsewhere in `pinned`."""
        defaults, free = default_settings(), tuple(key for key in self.needs if key.endswith("."))
        keys = {key for key in flat if key.startswith(tuple(pinned)) and not key.startswith(free)} | set(self.needs)
        return all(_is_one_of(flat.get(key), self.needs.get(key, defaults.get(key))) for key in keys)


def _is_one_of(value: Any, wanted: Any) -> bool:
    return wanted is ANY or any(
        value == each or (not value and not each) for each in (wanted if isinstance(wanted, tuple) else (wanted,))
    )


@dataclass(frozen=True)
class Kinds:
    """The rows of a table; `pinned` are prefixes of keys that have their default unless a row sets them."""

    rows: Sequence[Kind]
    pinned: Sequence[str] = ()

    def of(self, run: RunRecord) -> Kind | None:
        """The row of a run: among those that fit, the first of those with the most needs."""
        flat = settings_in_full(run.config)
        return max(
            (kind for kind in self.rows if kind.fits(flat, self.pinned)), key=lambda kind: len(kind.needs), default=None
        )

    def without_paper(self) -> "Kinds":
        """The rows without the paper's numbers, for another setting than the paper's."""
        return replace(self, rows=[replace(kind, paper={}) for kind in self.rows])

    def settings(self, run: RunRecord, axes: Sequence[str]) -> tuple[str, str]:
        """The settings of a run that all kinds share, and those of its kind, without `axes`."""
        own = {key for kind in self.rows for key in kind.needs}
        shared, kinds = {}, {}
        for key, value in settings_in_full(run.config).items():
            is_own = key in own or key.startswith((*self.pinned, "aggregation.", "normalization."))
            if key not in axes:
                (kinds if is_own else shared)[key] = value
        return repr(sorted(shared.items())), repr(sorted(kinds.items()))


@dataclass(frozen=True)
class Column:
    """A column: the mean of a figure of the runs, and its format."""

    title: str
    value: Callable[[RunRecord], float]
    form: str = ".2f"


def kinds_table(
    name: str, title: str, records: Sequence[RunRecord], kinds: Kinds, columns: Sequence[Column],
    notes: Sequence[str] = (), papers: Mapping[str, Any] | None = None,
) -> Table:  # fmt: skip
    """One row per arm of the kinds, in their order: its error, the columns over the finished runs, the paper's below.

    Runs of no kind are ignored; a kind without runs is shown if it has numbers of the paper. `papers` is the setting of
    the paper, by dotted key (a tuple for several values): a note says which rows have runs in another.
    """
    by_kind: dict[str, list[RunRecord]] = {kind.label: [] for kind in kinds.rows}
    for run in records:
        if kind := kinds.of(run):
            by_kind[kind.label].append(run)
    if not any(by_kind.values()):
        raise UserError(f"runs_dir: no run there is of a row of {title or name!r}; see the experiments' list in docs/")
    sets = evaluation_sets(run for runs in by_kind.values() for run in runs)
    heads = ("arm", *(f"{on} error (%)" for on in sets), *(column.title for column in columns), "n", "failed")
    rows, flat, below = [], [], []
    for kind in kinds.rows:
        arms = _labelled(kind, by_kind[kind.label])
        for arm in arms:
            errors = error_cells(arm, sets, *_paper_line(kind, f"{arm.evaluated_on} error (%)"))
            shown = [_figure(arm, column, kind) for column in columns]
            rows.append((arm.label, *errors, *shown, str(len(arm.finished)), str(len(arm.failed))))
            flat.append(_record(arm, columns, kind))
            below += [failure_note(arm)] if arm.failed else []
        if not arms and kind.paper:
            papers_own = [cell("missing", *_paper_line(kind, head)) for head in heads[1:-2]]
            rows.append((kind.label, *papers_own, "0", "0"))
            flat.append({"kind": kind.label, **_paper_record(kind), "arm": kind.label, "n": 0})
    numbers = "; below it the paper's number" if any(kind.paper for kind in kinds.rows) else ""
    said = [f"Mean ± standard deviation over n finished runs{numbers}.", *below]
    if below:
        said.append("Where every run of a row failed, its measurements (*) are those of the failed runs.")
    said += [*_foreign(by_kind, papers or {}), *settings_notes(run for runs in by_kind.values() for run in runs)]
    return tabulate(title, heads, rows, (*said, *notes), flat, name)


def kinds_report(
    name: str, title: str, records: Sequence[RunRecord], kinds: Kinds, columns: Sequence[Column],
    notes: Sequence[str] = (), papers: Mapping[str, Any] | None = None, **figures: Callable[[], Any],
) -> Report:  # fmt: skip
    """The report of one such table, with `figures`."""
    return Report(name, (kinds_table(name, title, records, kinds, columns, notes, papers),), figures)


def _labelled(kind: Kind, runs: Sequence[RunRecord]) -> list[Arm]:
    """The arms of a kind; if there are several, their labels say what differs."""
    arms = group_arms(runs)
    if len(arms) < 2:
        return [replace(arm, label=kind.label) for arm in arms]
    if len({arm.runs[0].identity for arm in arms}) > 1:
        return [replace(arm, label=f"{kind.label}: {arm.label}") for arm in arms]
    return [replace(arm, label=f"{kind.label}, data {arm.identity.partition(' ')[2] or 'unknown'}") for arm in arms]


def _over(arm: Arm, column: Column) -> Summary | None:
    """A figure over the finished runs, or, where all have failed, over the failed ones."""
    runs = arm.finished or arm.failed
    return summarize([value for run in runs if math.isfinite(value := column.value(run))])


def _figure(arm: Arm, column: Column, kind: Kind) -> Cell:
    found = _over(arm, column)
    text = "–" if found is None else mean_sd(found, column.form)
    marker = "*" if found is not None and not arm.finished else ""
    few = [f"n = {found.n}"] if found and found.n < len(arm.finished or arm.failed) else []
    return cell(text, *few, *_paper_line(kind, column.title), marker=marker)


def _paper_line(kind: Kind, head: str) -> tuple[str, ...]:
    return (f"paper {kind.paper[head]}",) if head in kind.paper else ()


def _record(arm: Arm, columns: Sequence[Column], kind: Kind) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for column in columns:
        figures |= mean_record(f"{column.title} ", _over(arm, column), len(arm.finished or arm.failed))
    return {"kind": kind.label, **figures, **_paper_record(kind), **arm_record(arm)}


def _paper_record(kind: Kind) -> dict[str, Any]:
    return {f"paper {head}": value for head, value in kind.paper.items()}


def _foreign(by_kind: Mapping[str, Sequence[RunRecord]], papers: Mapping[str, Any]) -> list[str]:
    """Where runs are not in the paper's setting, and those of which rows, if not of all."""
    found = []
    for key, accepted in papers.items():
        wanted = [str(each) for each in (accepted if isinstance(accepted, tuple) else (accepted,))]
        values = {
            label: dict.fromkeys(str(setting(run.config, key)) for run in runs) for label, runs in by_kind.items()
        }
        others = {label: own for label, each in values.items() if (own := [v for v in each if v not in wanted])}
        if others:
            rows = f" in {', '.join(others)}" if any(set(each) & set(wanted) for each in values.values()) else ""
            told = ", ".join(dict.fromkeys(itertools.chain(*others.values())))
            found.append(f"{key.removesuffix('.name')} {told}{rows} (paper: {' or '.join(wanted)})")
    return [f"Not the paper's setting: {'; '.join(found)}."] if found else []
