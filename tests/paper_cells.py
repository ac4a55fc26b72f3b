"""The configurations that the paper's tables ask for, and made runs of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from farkas_exp.studies.farkas.paper import TABLES, PaperCell
from tests.made_runs import make_run, settings

Errors = Callable[[PaperCell, int], float | None]
"""(cell, seed) → test error; None for a failed run."""

BATCH = {"resnet": 10.0, "farkasnet": 10.0}
PLAIN = {"resnet": 15.0, "farkasnet": 12.0}


def cell_settings(wanted: PaperCell, table: str = "table1", **more: Any) -> dict[str, Any]:
    """The configuration that the paper asks for in a cell."""
    setting = {key.replace(".", "__"): value for key, value in TABLES[table].setting.items()}
    row = wanted.row
    arm = {"normalization__name": row.normalization, "aggregation__name": row.aggregation, "init__name": row.init}
    arm |= {key.replace(".", "__"): values[0] for key, values in wanted.needs.items()}
    return settings(wanted.model, **{**setting, **arm, "lr__value": row.lr or 0.01, **more})


def find(table: str, model: str, normalization: str) -> PaperCell:
    return next(c for c in TABLES[table].cells if (c.model, c.row.normalization) == (model, normalization))


def as_the_paper_says(wanted: PaperCell, seed: int) -> float | None:
    """The FarkasNet better by 3 points without batch norm, equal with it."""
    return (BATCH if wanted.row.normalization == "batch" else PLAIN)[wanted.row.family]


def make_cell(runs: Path, wanted: PaperCell, table: str, seed: int, error: float | None, **more: Any) -> None:
    """A run of a cell with a little noise of its own; None for one that failed."""
    if error is None:
        make_run(runs, cell_settings(wanted, table, **more), seed=seed, state="failed", epoch=5, reason="chance")
    else:
        noise = 0.02 * ((7 * seed + 3 * len(wanted.row.family) + len(wanted.column)) % 5)
        make_run(runs, cell_settings(wanted, table, **more), seed=seed, test_error=error + noise)


def make_cifar(
    runs: Path,
    errors: Errors,
    tables: tuple[str, ...] = ("table1", "table2"),
    normalizations: tuple[str, ...] = ("none",),
    seeds: int = 3,
    **more: Any,
) -> None:
    for name in tables:
        for wanted in TABLES[name].cells:
            for seed in range(seeds if wanted.row.normalization in normalizations else 0):
                make_cell(runs, wanted, name, seed, errors(wanted, seed), **more)
