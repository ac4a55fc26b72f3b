"""The configurations that the paper's tables ask for."""

from typing import Any

from farkas_exp.studies.farkas.paper import TABLES, PaperCell
from tests.made_runs import settings


def cell_settings(wanted: PaperCell, table: str = "table1", **more: Any) -> dict[str, Any]:
    """The configuration that the paper asks for in a cell."""
    setting = {key.replace(".", "__"): value for key, value in TABLES[table].setting.items()}
    row = wanted.row
    arm = {"normalization__name": row.normalization, "aggregation__name": row.aggregation, "init__name": row.init}
    arm |= {key.replace(".", "__"): values[0] for key, values in wanted.needs.items()}
    return settings(wanted.model, **{**setting, **arm, "lr__value": row.lr or 0.01, **more})


def find(table: str, model: str, normalization: str) -> PaperCell:
    return next(c for c in TABLES[table].cells if (c.model, c.row.normalization) == (model, normalization))
