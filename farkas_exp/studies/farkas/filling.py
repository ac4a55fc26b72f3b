"""Which runs belong to which cell of the paper's tables.

A cell asks for a network, a normalization, a learning rate, an initialization and, for a FarkasNet, an aggregation:
a run that differs in one of these is another arm. Everything else (dataset, epochs, batch size, augmentation, ...) is
the setting of the table: runs of another setting than the paper's can fill the table, but the report says so, and
one table never mixes two settings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farkas_exp.registry import NETWORKS
from farkas_exp.report.arms import plain, pretty
from farkas_exp.runs import DONE, RunRecord, query
from farkas_exp.studies.farkas.paper import TABLES, PaperCell, PaperRow, PaperTable


def required_settings(row: PaperRow, model: str) -> dict[str, tuple[Any, ...]]:
    """What a run must have to belong to `row` with the network `model`: accepted values by dotted key.

    null stands for the default of the network's builder, which is the paper's.
    """
    needs: dict[str, tuple[Any, ...]] = {
        **{key: (value,) for key, value in query.default_settings().items() if key.startswith(_DEFAULT_GROUPS)},
        "model.name": (model,),
        "model.variant": (None, "paper") if row.variant is None else (row.variant,),
        "model.head_bn": (None, False),
        "normalization.name": (row.normalization,),
        "activation.cutoff": (None, 0.0),
        "init.name": (row.init,),
    }
    if row.normalization != "none":
        network = NETWORKS[model]
        needs["normalization.position"] = (None, network.positions[0])
        needs["normalization.affine"] = (None, network.affine)
    if row.lr is not None:
        needs["lr.value"] = (row.lr,)
    if not query.is_plain(model):
        needs |= {key: (value,) for key, value in query.default_settings().items() if key.startswith("aggregation.")}
        needs["aggregation.name"] = (row.aggregation,)
    return needs


_DEFAULT_GROUPS = ("model.", "residual.", "weight.", "activation.", "init.", "optimizer.scalars")
"""Groups whose settings are the defaults in every arm of the paper, but for those that its rows name."""


def deviations(config: Mapping[str, Any], table: PaperTable) -> dict[str, Any]:
    """Where the setting of a run is not the paper's, by dotted key. What makes the arm is not looked at."""
    paper = {**query.default_settings(), **table.setting}
    found = {key: value for key, value in query.common_setting(config).items() if value != paper.get(key)}
    if "phases.name" in found:
        found.pop("phases.schedule", None)  # another name says that it is another schedule
    return found


@dataclass(frozen=True)
class Filled:
    """A table filled with the runs of one setting.

    Attributes:
        runs: the runs of each cell that has any, by seed.
        others: runs of the same setting and of networks of the table that belong to none of its cells.
        deviations: where the setting is not the paper's.
        left_out: the other settings that have runs for cells of this table, each with its number of runs.
        held_out: runs for cells of this table whose error is on held-out images, not on the test set.
        apart: how many runs of networks of the table are in none of these, such as those of another width.
        again: how many runs are of a seed that their cell has from another run, which counts.
    """

    table: PaperTable
    runs: Mapping[PaperCell, tuple[RunRecord, ...]]
    others: tuple[RunRecord, ...]
    deviations: Mapping[str, Any]
    left_out: tuple[tuple[Mapping[str, Any], int], ...]
    held_out: tuple[RunRecord, ...] = ()
    apart: int = 0
    again: int = 0


@dataclass(frozen=True)
class _Setting:
    """The runs for cells of a table that share their setting and their data."""

    deviations: Mapping[str, Any]
    data: str
    matches: Sequence[tuple[PaperCell, RunRecord]]

    @property
    def rank(self) -> tuple[Any, ...]:
        done = {cell for cell, record in self.matches if record.state in DONE}
        longest = max(record.epochs for _, record in self.matches)
        key = (_key(self.deviations), self.data)
        return (not self.deviations and bool(done), len(done), longest, len(self.matches), key)


def fill(table: PaperTable, records: Sequence[RunRecord]) -> Filled:
    """Fill a table with the runs of one setting, on the same data, that are evaluated on the test set.

    Runs on the dataset of another table of the paper, or with inputs normalized where the paper's are not, never fill
    it. Of several settings, the paper's own comes first if it has a result, then the one that fills most cells, then
    the longest training.
    """
    held_out = tuple(run for run in records if run.evaluated_on != "test" and _cells_of(run, table))
    tested = [run for run in records if run.evaluated_on == "test"]
    settings = sorted(_settings(table, tested), key=lambda each: each.rank, reverse=True)
    placed = {run.path for each in settings for _, run in each.matches} | {run.path for run in held_out}
    if not settings:
        return Filled(table, {}, (), {}, (), held_out, _apart(table, records, placed))
    best, *rest = settings
    runs: dict[PaperCell, dict[int, RunRecord]] = {}
    for cell, record in best.matches:
        seeds = runs.setdefault(cell, {})
        if record.seed not in seeds or seeds[record.seed].state not in DONE:
            seeds[record.seed] = record
    filled = {cell: tuple(seeds[seed] for seed in sorted(seeds)) for cell, seeds in runs.items()}
    left_out = []
    for each in rest:  # named with their data where these alone tell them from those that are shown
        data = {"data": each.data or "unknown"} if each.deviations == best.deviations else {}
        left_out.append(({**each.deviations, **data}, len(each.matches)))
    others = tuple(_others(table, tested, best))
    apart = _apart(table, records, placed | {run.path for run in others})
    again = len(best.matches) - sum(map(len, filled.values()))
    return Filled(table, filled, others, best.deviations, tuple(left_out), held_out, apart, again)


def _apart(table: PaperTable, records: Sequence[RunRecord], placed: set[Path]) -> int:
    """How many runs of networks of the table are not `placed`; those on the data of another table belong there."""
    models, foreign = {cell.model for cell in table.cells}, _foreign_data(table)
    left = [run.config for run in records if run.path not in placed]
    names = [(query.setting(config, "model.name"), query.setting(config, "dataset.name")) for config in left]
    return sum(model in models and dataset not in foreign for model, dataset in names)


def _foreign_data(table: PaperTable) -> set[str]:
    """The datasets of the paper's other tables."""
    return {str(other.setting["dataset.name"]) for other in TABLES.values()} - {str(table.setting["dataset.name"])}


def _settings(table: PaperTable, records: Sequence[RunRecord]) -> list[_Setting]:
    cells: dict[str, list[PaperCell]] = {}
    settings: dict[str, tuple[Mapping[str, Any], list[RunRecord]]] = {}
    for record in records:
        if record.identity not in cells:
            cells[record.identity] = _cells_of(record, table)
        if cells[record.identity]:
            found = deviations(record.config, table)
            settings.setdefault(_key(found), (found, []))[1].append(record)
    return [
        _Setting(found, data, [(cell, run) for run in runs for cell in cells[run.identity]])
        for found, each in settings.values()
        for data, runs in query.by_data(each).items()
    ]


def _others(table: PaperTable, records: Sequence[RunRecord], best: _Setting) -> list[RunRecord]:
    taken = {record.path for _, record in best.matches}
    models = {cell.model for cell in table.cells}
    return [
        record
        for record in records
        if record.path not in taken
        and query.setting(record.config, "model.name") in models
        and deviations(record.config, table) == best.deviations
        and (not best.data or query.fingerprint(record) in ("", best.data))
    ]


def _key(found: Mapping[str, Any]) -> str:
    return repr(sorted((key, repr(value)) for key, value in found.items()))


def _cells_of(record: RunRecord, table: PaperTable) -> list[PaperCell]:
    """The cells of a table that a run belongs to."""
    flat = {**query.default_settings(), **query.deciding_settings(record.config)}
    normalized = table.setting.get("dataset.normalize", False)
    if flat["dataset.name"] in _foreign_data(table) or flat["dataset.normalize"] != normalized:
        return []
    return [
        cell
        for cell in table.cells
        if flat["model.name"] == cell.model
        and all(
            flat.get(key) in values
            for key, values in {**required_settings(cell.row, cell.model), **cell.needs, **table.needs}.items()
        )
    ]


def change_text(config: Mapping[str, Any], wanted: PaperCell, table: PaperTable) -> str:
    """In what an arm differs from a cell of its network and normalization; empty for the cell's own."""
    flat = {**query.default_settings(), **query.deciding_settings(config)}
    own = {key: (value,) for key, value in query.default_settings().items()} | {"lr.value": (flat["lr.value"],)}
    own |= {**required_settings(wanted.row, wanted.model), **wanted.needs, **table.needs}
    idle = query.is_plain(wanted.model)
    return ", ".join(
        pretty(key, value)
        for key, value in flat.items()
        if query.is_arm_setting(key) and value not in own.get(key, ()) and not (idle and key.startswith("aggregation."))
    )


def describe_setting(found: Mapping[str, Any], table: PaperTable) -> str:
    """The deviations of a setting in one line: `epochs 20 (paper: 200), dataset digits (paper: cifar10)`."""
    paper = {**query.default_settings(), **table.setting}
    return ", ".join(f"{pretty_setting(key, value)} (paper: {plain(paper.get(key))})" for key, value in found.items())


def pretty_setting(key: str, value: Any) -> str:
    """`key value` for a setting of a table."""
    return f"{key.removesuffix('.name')} {plain(value)}"


def arm_text(config: Mapping[str, Any]) -> str:
    """Everything that makes an arm, where it is not the default: for arms that the paper does not have."""
    defaults = query.default_settings()
    flat = query.deciding_settings(config)
    model = str(flat.get("model.name"))
    parts = [NETWORKS.label(model), pretty("normalization.name", flat.get("normalization.name"))]
    parts += [pretty("aggregation.name", flat.get("aggregation.name"))] if not query.is_plain(model) else []
    parts.append(pretty("lr.value", flat.get("lr.value")))
    said = ("model.name", "normalization.name", "aggregation.name", "lr.value")
    for key, value in flat.items():
        idle = key.startswith("aggregation.") and query.is_plain(model)
        if query.is_arm_setting(key) and key not in said and value != defaults.get(key) and not idle:
            parts.append(pretty(key, value))
    return ", ".join(parts)
