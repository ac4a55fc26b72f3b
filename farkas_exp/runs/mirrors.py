"""`tracking=[csv,tensorboard]`: the rows of a run beside `metrics.jsonl`, for a spreadsheet and for TensorBoard."""

import csv
import importlib.util
import io
from collections.abc import Sequence
from typing import Any

from farkas_exp.machine.errors import UserError
from farkas_exp.machine.files import appending, write_text
from farkas_exp.runs import RunDirectory, finite, read_rows


class Mirror:
    """Follows the metrics of a run."""

    def log(self, row: dict[str, Any]) -> None:
        """Mirror a row that is in the metrics by now."""

    def close(self) -> None:
        """End."""


def check_mirrors(names: Sequence[str]) -> None:
    """Check that there is what the mirrors need."""
    if "tensorboard" in names and importlib.util.find_spec("tensorboard") is None:
        raise UserError("tracking: tensorboard needs the package tensorboard; pip install 'farkas-exp[tracking]'")


def mirrors(names: Sequence[str], run: RunDirectory, epochs: int) -> list[Mirror]:
    """The mirrors of a run that goes on after so many epochs."""
    made = {"csv": lambda: CsvMirror(run), "tensorboard": lambda: TensorBoardMirror(run, epochs)}
    return [made[name]() for name in dict.fromkeys(names)]


def unmirrored(names: Sequence[str], run: RunDirectory) -> list[str]:
    """The mirrors that a finished run does not have."""
    places = {"csv": run.table, "tensorboard": run.events}
    return [name for name in dict.fromkeys(names) if not places[name].exists()]


class CsvMirror(Mirror):
    """`metrics.csv`: the rows of `metrics.jsonl` as a table, a number that is not finite as an empty cell."""

    def __init__(self, run: RunDirectory) -> None:
        self._run, self._columns = run, ()
        self._write()

    def log(self, row: dict[str, Any]) -> None:
        if tuple(row) != self._columns:  # the first row, or one with a further figure
            self._write()
            return
        with appending(self._run.table) as file:
            csv.writer(file, lineterminator="\n").writerow(finite(row).values())

    def _write(self) -> None:
        """Write the whole table again, as after an interruption."""
        rows = read_rows(self._run.metrics)
        self._columns = tuple(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self._run.table, text.getvalue() if rows else "")


class TensorBoardMirror(Mirror):
    """Events in `tensorboard/`, the step being the epoch. Events of epochs that are trained again are replaced."""

    def __init__(self, run: RunDirectory, epochs: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.events), purge_step=epochs + 1)

    def log(self, row: dict[str, Any]) -> None:
        for key, value in row.items():
            if isinstance(value, (int, float)) and key not in ("epoch", "time"):
                self._writer.add_scalar(key, value, row["epoch"], row.get("time"))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
