"""Runs grouped into arms (one identity each, its seeds the repetitions), and the table of all arms.

Failed runs are left out of a mean, counted, and marked with an asterisk, as in the paper; nothing is ranked here.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farkas_exp.config.extensions import registries
from farkas_exp.registry import NETWORKS
from farkas_exp.report.statistics import Summary, summarize
from farkas_exp.report.tables import Cell, Table, cell, tabulate
from farkas_exp.report.training_figures import training_key, training_note
from farkas_exp.runs import CRASHED, DONE, EMPTY, FINISHED, RunRecord, query


@dataclass(frozen=True)
class Arm:
    """The runs of one identity, by seed; `label` says how it differs from the other arms."""

    label: str
    identity: str
    config: Mapping[str, Any]
    runs: tuple[RunRecord, ...]

    @property
    def finished(self) -> list[RunRecord]:
        """Runs that trained to the end, with a finite error on the evaluation set."""
        return [run for run in self.runs if run.state == FINISHED and not query.has_failed(run)]

    @property
    def failed(self) -> list[RunRecord]:
        """Runs that failed to train, or finished without a finite error."""
        return [run for run in self.runs if query.has_failed(run)]

    @property
    def unfinished(self) -> list[RunRecord]:
        """Runs that have no result yet."""
        return [run for run in self.runs if run.state not in DONE]

    @property
    def evaluated_on(self) -> str:
        """The set of its errors, "test" or "validation", the same for all its runs."""
        return self.runs[0].evaluated_on

    def summary(self, key: str) -> Summary | None:
        """Mean, standard deviation and n of one figure of the results, over the finished runs."""
        values = [query.outcome(run, key) for run in self.finished]
        return summarize([value for value in values if math.isfinite(value)])


def group_arms(records: Iterable[RunRecord], labels: Mapping[str, str] | None = None) -> list[Arm]:
    """One arm per identity and data, labelled by what differs: plain before Farkas, with before without norm.

    A label depends on the settings alone, not on who trained a run, or under which name, unless `labels` has one for
    the identity.
    """
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(record.identity, []).append(record)
    made = arm_labels({identity: runs[0].config for identity, runs in groups.items()}) | dict(labels or {})
    arms = []
    for identity, runs in groups.items():
        parts = query.by_data(runs)
        for data, part in sorted(parts.items()):
            label = made[identity] + (f", data {data or 'unknown'}" if len(parts) > 1 else "")
            own = f"{identity} {data}" if len(parts) > 1 else identity
            arms.append(Arm(label, own, part[0].config, tuple(sorted(part, key=lambda run: run.seed))))
    return sorted(arms, key=_order)


def arm_labels(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """A label for each configuration: network and normalization, and every other setting in which they differ."""
    flats = {name: query.effective_settings(config) for name, config in configs.items()}
    telling = [key for key in query.different_keys(flats.values()) if key not in _ALWAYS]

    def label(flat: Mapping[str, Any], exact: bool = False) -> str:
        parts = [pretty(key, flat[key]) for key in _ALWAYS if flat.get(key) is not None]
        parts += [pretty(key, flat[key], exact) for key in telling if key in flat]
        return ", ".join(part for part in parts if part)

    labels = {name: label(flat) for name, flat in flats.items()}
    several = Counter(labels.values())  # rounded to the same digits
    return {name: text if several[text] == 1 else label(flats[name], exact=True) for name, text in labels.items()}


_ALWAYS = ("model.name", "normalization.name")


def pretty(key: str, value: Any, exact: bool = False) -> str:
    """A setting in a label or note: by its registered label, or by its key and `plain` value."""
    registry = registries().get(key.removesuffix(".name")) if key.endswith(".name") else None
    label = registry.label(str(value)) if registry else str(value)
    if label != str(value) or key in (*_ALWAYS, "aggregation.name", "dataset.name"):
        return label
    if key == "aggregation.append":
        return "" if value else "without append"
    return f"{key.removesuffix('.name').removesuffix('.value')} {plain(value, exact)}"


def plain(value: Any, exact: bool = False) -> str:
    """A value in a label or note, numbers to six digits unless `exact`."""
    if isinstance(value, float):
        short = f"{value:g}"
        return repr(value) if exact and float(short) != value else short
    if isinstance(value, (list, tuple)):
        texts = (_phase_text(item) if isinstance(item, Mapping) else str(item) for item in value)
        return f"[{','.join(texts)}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "default" if value is None else str(value)


def _phase_text(phase: Mapping[str, Any]) -> str:
    """A phase of a schedule, such as `to 8: 128 px x 1024, lr 0.5-1`."""
    rates = f"lr {_number_text(phase.get('lr_from'))}-{_number_text(phase.get('lr_to'))}"
    return f"to {phase.get('until')}: {phase.get('image_size')} px x {phase.get('batch_size')}, {rates}"


def _number_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _order(arm: Arm) -> tuple[Any, ...]:
    model = str(query.setting(arm.config, "model.name"))
    norm = query.setting(arm.config, "normalization.name")
    network, networks = NETWORKS.get(model), [*NETWORKS, model]  # a plain one stands before its Farkas twin
    data = str(query.setting(arm.config, "dataset.name"))
    return (data, network.depth if network else 0, norm == "none", networks.index(model), str(norm), arm.label)


def arms_table(arms: Sequence[Arm], title: str = "Error of the last epoch") -> Table:
    """One row per arm: error (each evaluation set has a column), runs, failed ones, training error, time, and gaps."""
    seeds = sorted({run.seed for arm in arms for run in arm.runs})
    gaps = [unfinished_text(arm, seeds) for arm in arms]
    sets = evaluation_sets(arms)
    columns = ["arm", *(f"{name} error (%)" for name in sets), "n", "failed", "train error (%)", "seconds a run"]
    columns += ["not finished"] if any(gaps) else []
    finished = [run for arm in arms for run in arm.finished]
    train_error = training_key([run.result or {} for run in finished], "error")
    rows, notes = [], []
    for arm, gap in zip(arms, gaps, strict=True):
        train, seconds = arm.summary(train_error), arm.summary("seconds")
        figures = (f"{train.mean:.2f}" if train else "–", f"{seconds.mean:,.0f}" if seconds else "–")
        counts = (str(len(arm.finished)), str(len(arm.failed)))
        rows.append([arm.label, *error_cells(arm, sets), *counts, *figures, *([gap] if any(gaps) else [])])
        notes += [failure_note(arm)] if arm.failed else []
    first = ("Mean ± standard deviation over n seeds, last epoch; lower is better.", training_note(finished, "error"))
    notes = [*filter(None, first), *notes]
    return tabulate(title, columns, rows, notes, map(arm_record, arms), "arms")


def evaluation_sets(arms: Iterable[Arm | RunRecord]) -> list[str]:
    """The evaluation sets of these arms or runs, each of which has a column of its own."""
    found = {each.evaluated_on for each in arms}
    return [name for name in ("test", "validation") if name in found]


def error_cells(arm: Arm, sets: Sequence[str], *below: str) -> list[Cell]:
    """The error of an arm, with lines below it, in the column of its evaluation set."""
    return [error_cell(arm, *below) if arm.evaluated_on == name else cell("–") for name in sets]


def error_cell(arm: Arm, *below: str) -> Cell:
    """The error of an arm as mean ± sd, and lines below it; an asterisk marks failed runs that are left out."""
    summary = arm.summary(f"{arm.evaluated_on}_error")
    if summary is None and not arm.failed:
        return cell(progress_text(arm.unfinished[0]) if arm.unfinished else "missing", *below)
    return cell(failed_text(arm) if summary is None else mean_sd(summary), *below, marker="*" if arm.failed else "")


def failed_text(arm: Arm) -> str:
    """What stands in place of a mean where all runs failed."""
    return "failed" if len(arm.failed) == 1 else f"all {len(arm.failed)} failed"


def mean_sd(summary: Summary, form: str = ".2f") -> str:
    """6.87 ± 0.12, or 6.87 for one value."""
    return f"{summary.mean:{form}}" + (f" ± {summary.sd:{form}}" if summary.sd is not None else "")


def failure_note(arm: Arm) -> str:
    """Which runs of an arm failed, and why."""
    seeds: dict[str, list[int]] = {}
    for run in arm.failed:
        seeds.setdefault(failure_reason(run), []).append(run.seed)
    reasons = [f"{seeds_text(each)}: {reason}" for reason, each in seeds.items()]
    count, total = len(arm.failed), len(arm.finished) + len(arm.failed)
    outcome = "failed to train; there is no mean" if count == total else "failed to train, left out of the mean"
    return f"* {arm.label}: {count} of {total} {outcome} ({'; '.join(reasons)})."


def failure_reason(run: RunRecord) -> str:
    """Why a run counts as failed."""
    if run.state == FINISHED:
        return f"its {run.evaluated_on} error is not a finite number"
    return str((run.result or {}).get("reason") or "no reason given")


def unfinished_text(arm: Arm, seeds: Iterable[int]) -> str:
    """What an arm lacks: results of its runs, and seeds that other arms have."""
    lacks: dict[str, list[int]] = {}
    for run in arm.unfinished:
        lacks.setdefault(progress_text(run), []).append(run.seed)
    if missing := sorted({*seeds} - {run.seed for run in arm.runs}):
        lacks["missing"] = missing
    return ", ".join(f"{seeds_text(each)} {what}" for what, each in lacks.items())


def seeds_text(seeds: Sequence[int]) -> str:
    """Seeds in increasing order, as words: seed 3; seeds 0, 1, 7 to 99."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    words = [f"{part[0]} to {part[-1]}" if len(part) > 3 else ", ".join(map(str, part)) for part in parts]
    return f"seed{'s'[: len(seeds) - 1]} {', '.join(words)}"


def progress_text(run: RunRecord) -> str:
    """Running 120/200, interrupted 3/200, crashed 0/200, not started."""
    if run.state == EMPTY:
        return "not started"
    state = run.state if run.state != CRASHED else "crashed at"
    return f"{state} {run.epoch}/{run.epochs}"


def mean_record(prefix: str, summary: Summary | None, runs: int) -> dict[str, Any]:
    """A mean and its standard deviation in a flat record, and over how many of `runs` runs, if not over all."""
    found: dict[str, Any] = {f"{prefix}mean": summary and summary.mean, f"{prefix}sd": summary and summary.sd}
    return found | ({f"{prefix}n": summary.n} if summary and summary.n < runs else {})


def arm_record(arm: Arm) -> dict[str, Any]:
    """The unrounded figures of an arm and its settings, flat."""
    record: dict[str, Any] = {"arm": arm.label, "identity": arm.identity}
    figures = [f"{name}_{figure}" for figure in ("error", "loss") for name in ("test", "validation", "train")]
    metrics = [
        key for run in arm.finished for key in run.result or {} if key.startswith(("test_", "validation_", "train_"))
    ]
    for key in dict.fromkeys([*figures, *metrics, "seconds"]):
        record |= mean_record(f"{key}_", arm.summary(key), len(arm.finished))
    record |= {"n": len(arm.finished), "failed": len(arm.failed), "unfinished": len(arm.unfinished)}
    record["seeds"] = " ".join(str(run.seed) for run in arm.finished)
    return record | query.deciding_settings(arm.config)
