"""The numbers of the paper's Tables 1 to 4 as data, and which runs belong to which cell.

A cell asks for a network, a normalization, a learning rate, an initialization and, for a FarkasNet, an aggregation:
a run that differs in one of these is another arm. Everything else (dataset, epochs, batch size, augmentation, ...) is
the setting of the table: runs of another setting than the paper's can fill the table, but the report says so, and
runs of two settings never stand in one table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from farkas_exp.registry import NETWORKS
from farkas_exp.report.arms import model_name, pretty
from farkas_exp.runs import RunRecord
from farkas_exp.runs.query import (
    DONE,
    by_data,
    common_setting,
    deciding_settings,
    default_settings,
    fingerprint,
    is_arm_setting,
    is_plain,
    setting,
)

ONLY_COLUMN = "test error"


@dataclass(frozen=True)
class PaperRow:
    """A row of a table: the setting that its networks are trained in."""

    label: str
    family: str
    normalization: str
    lr: float | None
    aggregation: str = "sum"
    init: str = "pytorch"


@dataclass(frozen=True)
class PaperCell:
    """One number of the paper (top-1 error in percent; `top5` for ImageNet), and the network that it stands for.

    Without a number it is an arm that only a figure or a sentence of the paper is about.
    """

    row: PaperRow
    column: str
    model: str
    value: float | None = None
    top5: float | None = None
    failed: int = 0

    @property
    def label(self) -> str:
        """Row and column in one line; the only column of a table is left out."""
        return self.row.label if self.column == ONLY_COLUMN else f"{self.row.label}, {self.column}"


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper; `setting` holds where the paper's setting is not the default of the schema.

    `needs` are accepted values, by dotted key, that its runs must have in place of `required_settings`.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[PaperRow, ...]
    cells: tuple[PaperCell, ...]
    setting: Mapping[str, Any] = field(default_factory=dict)
    runs_per_cell: int = 3
    notes: tuple[str, ...] = ()
    needs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def cell(self, row: PaperRow, column: str) -> PaperCell | None:
        """The cell of a row and a column, if the paper has it."""
        return next((c for c in self.cells if c.row == row and c.column == column), None)


LARGE, MEDIUM, SMALL = 0.1, 0.05, 0.01

_RESNET_BN = PaperRow("ResNet (BN, large LR)", "resnet", "batch", LARGE)
_FARKAS_BN = PaperRow("FarkasNet (BN, large LR)", "farkasnet", "batch", LARGE)
_RESNET = PaperRow("ResNet (no BN, small LR)", "resnet", "none", SMALL)
_FARKAS = PaperRow("FarkasNet (no BN, small LR)", "farkasnet", "none", SMALL)
CIFAR_ROWS = (_RESNET_BN, _FARKAS_BN, _RESNET, _FARKAS)

_IMAGENET_ROWS = (
    PaperRow("ResNet (BN)", "resnet", "batch", None),
    PaperRow("FarkasNet (BN)", "farkasnet", "batch", None, "mean"),
)

_BEST_ROWS = (
    PaperRow("ResNet34, BN, large LR", "resnet", "batch", LARGE),
    PaperRow("ResNet34, no BN, small LR", "resnet", "none", SMALL),
    PaperRow("FixUp34, no BN, small LR", "fixup", "none", SMALL),
    PaperRow("FarkasNet34, no BN, medium LR, mean, zero last", "farkasnet", "none", MEDIUM, "mean", "zero_last"),
)


def _phase(
    until: int, size: int, batch: int, rates: tuple[float, float], min_scale: float | None = None, last: bool = False
) -> dict[str, Any]:
    """A phase as a run's configuration has it."""
    return {
        "until": until, "image_size": size, "batch_size": batch, "lr_from": rates[0], "lr_to": rates[1],
        "min_scale": min_scale, "rectangular": last,
    }  # fmt: skip


TABLE3_SETTING: dict[str, Any] = {
    "dataset.name": "imagenet",
    "dataset.num_classes": 1000,
    "dataset.normalize": True,
    "augmentation.crop_padding": 0,
    "augmentation.cutout": 0,
    "optimizer.weight_decay": 1e-4,
    "phases.name": "finlay29",
    "phases.schedule": [
        _phase(8, 128, 1024, (0.5, 1.0)),
        _phase(15, 128, 1024, (1.0, 0.125)),
        _phase(25, 224, 448, (0.22, 0.022), 0.087),
        _phase(28, 224, 448, (0.022, 0.0022), 0.087),
        _phase(29, 288, 256, (1.25e-3, 1.25e-4), 0.5, True),
    ],
    "epochs": 29,
    "precision": "bf16",
}
"""What the paper says of its ImageNet runs, and what experiment=table3 chooses where it is silent."""


def _grid(
    rows: Sequence[PaperRow], depths: Sequence[int], numbers: Sequence[Sequence[Any]], suffix: str = "",
    failed: Mapping[tuple[int, int], int] | None = None,
) -> tuple[PaperCell, ...]:  # fmt: skip
    cells = []
    for i, row in enumerate(rows):
        for j, depth in enumerate(depths):
            number = numbers[i][j]
            value, top5 = number if isinstance(number, tuple) else (number, None)
            model = f"{row.family}{depth}{suffix}"
            cells.append(PaperCell(row, f"{depth} layers", model, value, top5, (failed or {}).get((i, j), 0)))
    return tuple(cells)


TABLES = {
    "table1": PaperTable(
        "table1",
        "Table 1: percent misclassification on CIFAR-10",
        ("18 layers", "34 layers", "50 layers", "101 layers"),
        CIFAR_ROWS,
        _grid(
            CIFAR_ROWS,
            (18, 34, 50, 101),
            (
                (7.01, 6.79, 5.04, 4.95),
                (6.87, 6.50, 5.03, 4.98),
                (12.51, 9.90, 24.53, 25.25),
                (10.83, 9.45, 19.84, 15.38),
            ),
        ),
        {"dataset.name": "cifar10"},
        notes=("The 18-layer networks share one block list, [2,2,2,2]; the published pair is model.variant=authors.",),
    ),
    "table2": PaperTable(
        "table2",
        "Table 2: percent misclassification on CIFAR-100",
        ("34 layers", "50 layers", "101 layers"),
        CIFAR_ROWS,
        _grid(
            CIFAR_ROWS,
            (34, 50, 101),
            ((30.95, 23.43, 22.90), (30.34, 23.88, 23.22), (40.10, 55.05, 54.02), (34.70, 43.93, 42.94)),
            failed={(2, 1): 1},
        ),
        {"dataset.name": "cifar100"},
    ),
    "table3": PaperTable(
        "table3",
        "Table 3: percent misclassification on ImageNet-1k, top-1/top-5",
        ("50 layers", "101 layers", "152 layers"),
        _IMAGENET_ROWS,
        _grid(
            _IMAGENET_ROWS,
            (50, 101, 152),
            (((25.64, 7.68), (23.23, 6.49), (22.26, 5.95)), ((23.70, 6.65), (23.74, 6.67), (22.17, 5.86))),
            suffix="_imagenet",
        ),
        TABLE3_SETTING,
        runs_per_cell=1,
        notes=(
            "The paper states 30 epochs, batch norm, normalized inputs and DAWNBench's code; the phases (29 epochs),"
            " the weight decay, bf16 and where batch norm sits are choices of this reproduction (docs/imagenet.md).",
        ),
    ),
    "table4": PaperTable(
        "table4",
        "Table 4: best practice on CIFAR-10, percent misclassification",
        (ONLY_COLUMN,),
        _BEST_ROWS,
        tuple(
            PaperCell(row, ONLY_COLUMN, f"{row.family}34", value)
            for row, value in zip(_BEST_ROWS, (6.77, 9.18, 7.49, 7.12), strict=True)
        ),
        {"dataset.name": "cifar10"},
        notes=("For ResNet34, no BN, small LR the paper gives 9.90 in Table 1 and 9.18 in Table 4.",),
    ),
}


def _table1_mini() -> PaperTable:
    """Table 1's 18- and 34-layer networks as `experiment=table1_mini` runs them: the small rate throughout."""
    full, columns = TABLES["table1"], ("18 layers", "34 layers")
    rows = [replace(row, label=row.label.replace("large LR", "small LR"), lr=SMALL) for row in full.rows]
    cells = [replace(each, row=rows[full.rows.index(each.row)]) for each in full.cells if each.column in columns]
    note = "The learning rate is the small one with batch norm, too (paper: the large one, 0.1, at a batch of 128)."
    return PaperTable(
        "table1_mini", "Table 1 in small: percent misclassification", columns, tuple(rows), tuple(cells),
        full.setting, notes=(note, *full.notes),
    )  # fmt: skip


TABLE1_MINI = _table1_mini()
"""The CPU edition of Table 1."""


def _demo() -> PaperTable:
    """The 18-layer networks of Table 1 as `experiment=demo` runs them."""
    column = "18 layers"
    rows = tuple(row for row in TABLE1_MINI.rows)
    cells = tuple(each for each in TABLE1_MINI.cells if each.column == column)
    note = "Handwritten digits in 16 epochs: the paper's question, not its numbers."
    return PaperTable("demo", "The demo, beside Table 1", (column,), rows, cells, TABLE1_MINI.setting, notes=(note,))


DEMO = _demo()

TABLE3_MINI = PaperTable(
    "table3_mini",
    "Table 3 in small: percent misclassification, top-1/top-5",
    (ONLY_COLUMN,),
    _IMAGENET_ROWS,
    tuple(PaperCell(row, ONLY_COLUMN, f"{row.family}50_imagenet") for row in _IMAGENET_ROWS),
    TABLE3_SETTING,
    runs_per_cell=1,
    notes=("The networks have one narrow block in each of their four stages.",),
    needs={"model.blocks": ([1, 1, 1, 1],), "model.widths": ([32, 48, 64, 96],)},
)
"""The CPU edition of Table 3, without numbers of the paper."""

_DEEP_ROWS = (
    PaperRow("FarkasNet101, no BN, large LR, mean", "farkasnet", "none", LARGE, "mean"),
    PaperRow("ResNet101, no BN, large LR", "resnet", "none", LARGE),
)
_FIXUP_ROWS = tuple(
    PaperRow(f"FixUp34, no BN, {name} LR", "fixup", "none", lr)
    for name, lr in (("small", SMALL), ("medium", MEDIUM), ("large", LARGE))
)


def _sentence(name: str, title: str, rows: Sequence[PaperRow], depth: int, setting: Mapping[str, Any]) -> PaperTable:
    """The arms of a sentence or a figure of the paper, in the shape of a table without numbers."""
    cells = tuple(PaperCell(row, ONLY_COLUMN, f"{row.family}{depth}") for row in rows)
    return PaperTable(name, title, (ONLY_COLUMN,), tuple(rows), cells, setting)


FIGURE5 = _sentence("figure5", "101 layers with the large learning rate", _DEEP_ROWS, 101, {"dataset.name": "cifar10"})
FIXUP_RATES = _sentence("fixup_rates", "FixUp by learning rate", _FIXUP_ROWS, 34, {"dataset.name": "cifar10"})
FIXUP_RATES_NORMALIZED = _sentence(
    "fixup_rates_normalized", "FixUp by learning rate, normalized inputs", _FIXUP_ROWS, 34,
    {"dataset.name": "cifar10", "dataset.normalize": True},
)  # fmt: skip
"""Claim (d): the same networks without and with input normalization."""


def required_settings(row: PaperRow, model: str) -> dict[str, tuple[Any, ...]]:
    """What a run must have to belong to `row` with the network `model`: accepted values by dotted key.

    null stands for the default of the network's builder, which is the paper's.
    """
    needs: dict[str, tuple[Any, ...]] = {
        **{key: (value,) for key, value in default_settings().items() if key.startswith(_DEFAULT_GROUPS)},
        "model.name": (model,),
        "model.variant": (None, "paper"),
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
    if not is_plain(model):
        needs |= {
            "aggregation.name": (row.aggregation,),
            "aggregation.margin": (0.0,),
            "aggregation.learn_lambda": (False,),
        }
    return needs


_DEFAULT_GROUPS = ("model.", "residual.", "activation.", "init.")
"""Groups whose settings are the defaults in every arm of the paper, but for those that its rows name."""


def deviations(config: Mapping[str, Any], table: PaperTable) -> dict[str, Any]:
    """Where the setting of a run is not the paper's, by dotted key. What makes the arm is not looked at."""
    paper = {**default_settings(), **table.setting}
    found = {key: value for key, value in common_setting(config).items() if value != paper.get(key)}
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
    """

    table: PaperTable
    runs: Mapping[PaperCell, tuple[RunRecord, ...]]
    others: tuple[RunRecord, ...]
    deviations: Mapping[str, Any]
    left_out: tuple[tuple[Mapping[str, Any], int], ...]
    held_out: tuple[RunRecord, ...] = ()


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
    if not settings:
        return Filled(table, {}, (), {}, (), held_out)
    best, *rest = settings
    runs: dict[PaperCell, dict[int, RunRecord]] = {}
    for cell, record in best.matches:
        seeds = runs.setdefault(cell, {})
        if record.seed not in seeds or seeds[record.seed].state not in DONE:
            seeds[record.seed] = record
    filled = {cell: tuple(seeds[seed] for seed in sorted(seeds)) for cell, seeds in runs.items()}
    left_out = tuple((_with_data(each, best), len(each.matches)) for each in rest)
    return Filled(table, filled, tuple(_others(table, tested, best)), best.deviations, left_out, held_out)


def _settings(table: PaperTable, records: Sequence[RunRecord]) -> list[_Setting]:
    matches: dict[str, list[RunRecord]] = {}
    cells: dict[str, list[PaperCell]] = {}
    where: dict[str, Mapping[str, Any]] = {}
    for record in records:
        if record.identity not in cells:
            cells[record.identity] = _cells_of(record, table)
        if cells[record.identity]:
            found = deviations(record.config, table)
            matches.setdefault(_key(found), []).append(record)
            where[_key(found)] = found
    return [
        _Setting(where[key], data, [(cell, run) for run in runs for cell in cells[run.identity]])
        for key, each in matches.items()
        for data, runs in by_data(each).items()
    ]


def _others(table: PaperTable, records: Sequence[RunRecord], best: _Setting) -> list[RunRecord]:
    taken = {record.path for _, record in best.matches}
    models = {cell.model for cell in table.cells}
    others = [
        record
        for record in records
        if record.path not in taken
        and setting(record.config, "model.name") in models
        and deviations(record.config, table) == best.deviations
    ]
    return [record for record in others if not best.data or fingerprint(record) in ("", best.data)]


def _with_data(each: _Setting, best: _Setting) -> Mapping[str, Any]:
    """The setting of runs that are left out; with their data where these alone tell them from those that are shown."""
    same = each.deviations == best.deviations
    return {**each.deviations, "data": each.data or "unknown"} if same else each.deviations


def _key(found: Mapping[str, Any]) -> str:
    return repr(sorted((key, repr(value)) for key, value in found.items()))


def _cells_of(record: RunRecord, table: PaperTable) -> list[PaperCell]:
    """The cells of a table that a run belongs to."""
    own = {str(other.setting["dataset.name"]) for other in TABLES.values()} - {str(table.setting["dataset.name"])}
    flat = {**default_settings(), **deciding_settings(record.config)}
    if flat["dataset.name"] in own or flat["dataset.normalize"] != table.setting.get("dataset.normalize", False):
        return []
    return [
        cell
        for cell in table.cells
        if flat["model.name"] == cell.model
        and all(
            flat.get(key) in values
            for key, values in {**required_settings(cell.row, cell.model), **table.needs}.items()
        )
    ]


def describe_setting(found: Mapping[str, Any], table: PaperTable) -> str:
    """The deviations of a setting in one line: `epochs 20 (paper: 200), dataset digits (paper: cifar10)`."""
    paper = {**default_settings(), **table.setting}
    return ", ".join(f"{pretty_setting(key, value)} (paper: {_plain(paper.get(key))})" for key, value in found.items())


def pretty_setting(key: str, value: Any) -> str:
    """`key value` for a setting of a table."""
    return f"{key.removesuffix('.name')} {_plain(value)}"


def _plain(value: Any) -> str:
    if value is None:
        return "default"
    return str(value).lower() if isinstance(value, bool) else pretty("dataset.name", value)


def arm_text(config: Mapping[str, Any]) -> str:
    """Everything that makes an arm, where it is not the default: for arms that the paper does not have."""
    defaults = default_settings()
    flat = deciding_settings(config)
    model = str(flat.get("model.name"))
    parts = [model_name(model), pretty("normalization.name", flat.get("normalization.name"))]
    parts += [pretty("aggregation.name", flat.get("aggregation.name"))] if not is_plain(model) else []
    parts.append(pretty("lr.value", flat.get("lr.value")))
    said = ("model.name", "normalization.name", "aggregation.name", "lr.value")
    for key, value in flat.items():
        if is_arm_setting(key) and key not in said and value != defaults.get(key):
            if key.startswith("aggregation.") and is_plain(model):
                continue
            parts.append(pretty(key, value))
    return ", ".join(parts)
