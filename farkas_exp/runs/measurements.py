"""The measurements of a run (`diagnostics.jsonl`): what is requested, and what is there already.

The file has one row for each measured epoch; a new row replaces or completes an earlier one of its epoch. Beside the
figures a row says which `measures` it holds, and their settings. Imports no torch, so that a finished run that lacks
nothing is skipped without it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from farkas_exp.config.schema import DiagnosticsConfig
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.files import write_text
from farkas_exp.machine.output import plural
from farkas_exp.registry import MEASURES
from farkas_exp.runs import FAILED, RunDirectory, RunRecord, read_json, read_rows
from farkas_exp.runs.jsonfiles import json_line

ACTIVITY = "activity"
"""The measure that is taken at every requested epoch, beside the named `measures`."""


@dataclass(frozen=True)
class Gap:
    """The requested measures that the row of an epoch lacks."""

    epoch: int
    measures: tuple[str, ...]


def described(gaps: Iterable[Gap]) -> str:
    """Gaps for a message: epoch 0 (hessian); epoch 3 (activity, hessian)."""
    return "; ".join(f"epoch {gap.epoch} ({', '.join(gap.measures)})" for gap in gaps)


def check_asked(asked: DiagnosticsConfig) -> None:
    """Check that what is to be measured is known, and at which epochs.

    Raises:
        UserError: it is not.
    """
    for name in asked.measures:
        MEASURES[name]
    if asked.measures and not asked.epochs:
        raise UserError(
            f"diagnostics.measures: [{','.join(asked.measures)}] at no epoch; give diagnostics.epochs, such as [0,1]"
        )


class Measurements:
    """The measurements of one run that its `diagnostics` request."""

    def __init__(self, run: RunDirectory, asked: DiagnosticsConfig) -> None:
        self.run, self.asked = run, asked
        self.settings = {"images": asked.images, "lanczos_steps": asked.lanczos_steps, "ntk_images": asked.ntk_images}

    def gaps(self, epochs: int) -> list[Gap]:
        """What is requested up to epoch `epochs` (0: before the first) and missing.

        A row made with other settings lacks all measures, those it holds beside the requested ones included.
        """
        names = dict.fromkeys((ACTIVITY, *self.asked.measures))
        rows = self._rows() if self.asked.epochs else {}
        found = []
        for epoch in sorted({epoch for epoch in self.asked.epochs if epoch <= epochs}):
            row = rows.get(epoch, {"measures": [], "settings": None})
            same = row["settings"] == self.settings
            lacking = [name for name in names if not (same and name in row["measures"])]
            lacking += [] if same else [name for name in row["measures"] if name not in names]
            found += [Gap(epoch, tuple(lacking))] if lacking else []
        return found

    def left_by(self, record: RunRecord) -> tuple[list[Gap], list[Gap]]:
        """The gaps of a finished run that can still be filled, and those whose network is gone.

        The initial network follows from the seed; the last checkpoint has the final one, or, of a run that failed to
        train, the one before its last epoch.
        """
        gaps = self.gaps(record.epoch)
        kept = {0, record.epoch - (record.state == FAILED)} if self.run.checkpoint.exists() else {0}
        return [gap for gap in gaps if gap.epoch in kept], [gap for gap in gaps if gap.epoch not in kept]

    def unmeasured(self, lost: Iterable[Gap], epochs: int) -> str:
        """What cannot be measured of a run of `epochs` epochs, in words: lost gaps, and what its epochs left out."""
        after = sorted({epoch for epoch in self.asked.epochs if epoch > epochs})
        parts = [f"{described(lost)}, whose network is not kept"] if (lost := list(lost)) else []
        parts += [f"epoch {', '.join(map(str, after))}, after the last one ({epochs})"] if after else []
        if self.asked.train_eval and (over := sum("train_eval_loss" not in row for row in read_rows(self.run.metrics))):
            parts += [f"train_eval of {plural(over, 'epoch')} that went without it"]
        return "; ".join(parts)

    def put(self, gap: Gap, figures: dict[str, Any]) -> None:
        """Write the figures that fill a gap into the row of its epoch."""
        rows = self._rows()
        before = rows.get(gap.epoch, {})
        if before.get("settings") != self.settings:
            before = {}
        measures = [*before.get("measures", ()), *gap.measures]
        rows[gap.epoch] = {**before, "epoch": gap.epoch, "measures": measures, "settings": self.settings, **figures}
        self.run.check_own()
        write_text(self.run.diagnostics, "".join(json_line(rows[epoch]) for epoch in sorted(rows)))

    def _rows(self) -> dict[int, dict[str, Any]]:
        """The rows by epoch, each with its measures and settings; older versions kept these in the run's record."""
        rows = {row["epoch"]: row for row in read_rows(self.run.diagnostics) if type(row.get("epoch")) is int}
        if all("measures" in row for row in rows.values()):
            return rows
        record = read_json(self.run.record)
        then = record["config"].get("diagnostics", {}) if isinstance(record, dict) else {}
        made = {
            "measures": [ACTIVITY, *then.get("measures", [])],
            "settings": {key: then.get(key, value) for key, value in self.settings.items()},
        }
        return {epoch: {**made, **row} for epoch, row in rows.items()}
