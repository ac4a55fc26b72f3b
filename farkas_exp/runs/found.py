"""The runs of a folder as a sequence that can be filtered and laid out as tables, and what of it cannot be read."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from farkas_exp.config.options import shown
from farkas_exp.machine.errors import unknown
from farkas_exp.machine.output import plural
from farkas_exp.machine.terminal import printable
from farkas_exp.runs.directory import STATES
from farkas_exp.runs.query import different_settings, filter_keys, selected
from farkas_exp.runs.record import RunRecord

NAMED = 10
"""The most unreadable things that are named; the others are counted."""


@dataclass(frozen=True)
class Unreadable:
    """Something in a folder that may be a run, or part of one, but cannot be read, or is a run once more."""

    path: Path
    why: str

    def __str__(self) -> str:
        return f"{self.path} ({self.why})"


class Runs(Sequence[RunRecord]):
    """Records of runs, by name and seed.

        found = farkas_exp.runs("runs", model=["resnet34", "farkasnet34"], state="finished")
        found.results                   # a row a run: its settings that differ from the others', its state and result
        found.metrics                   # a row an epoch of every run
        found.where(lr=0.1)             # some of them
        farkas_exp.load(found[0])       # one of them, with its network

    Attributes:
        records: the runs themselves.
        unreadable: what in the folder may be a run, and is not among them.
    """

    def __init__(self, records: Iterable[RunRecord], unreadable: Iterable[Unreadable] = ()) -> None:
        self.records, self.unreadable = list(records), list(unreadable)

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> RunRecord: ...
    @overload
    def __getitem__(self, index: slice) -> "Runs": ...
    def __getitem__(self, index: int | slice) -> "RunRecord | Runs":
        found = self.records[index]
        return found if isinstance(found, RunRecord) else Runs(found, self.unreadable)

    def __repr__(self) -> str:
        states = Counter(record.state for record in self)
        told = [f"{states[state]} {state}" for state in STATES if states[state]]
        told += [f"{len(self.unreadable)} unreadable"] if self.unreadable else []
        return f"<{plural(len(self), 'run')}{': ' * bool(told)}{', '.join(told)}>"

    @property
    def left_out(self) -> str:
        """One line that counts and names what is not among the runs; empty if nothing."""
        if not self.unreadable:
            return ""
        names = [printable(each) for each in self.unreadable[:NAMED]]
        names += [f"{len(self.unreadable) - NAMED} more"] if len(self.unreadable) > NAMED else []
        return f"{len(self.unreadable)} not among the runs: {'; '.join(names)}"

    def where(self, state: str | Sequence[str] | None = None, **settings: Any) -> "Runs":
        """Those with one of the given values at every key.

        Args:
            state: such as "finished".
            settings: by key of the configuration, a value or a list of values: `lr=0.1`, `seed=[0, 1]`,
                `**{"optimizer.momentum": 0.9}`.

        Raises:
            UserError: an unknown key or state.
        """
        keys = filter_keys()
        for key in settings:
            if key not in keys:
                raise unknown(key, key, ["state", *keys])
        states = [] if state is None else _several(state)
        for each in states:
            if each not in STATES:
                raise unknown("state", each, STATES)
        filters = {}
        for key, value in settings.items():
            values = _several(value)
            filters[keys[key]] = (*map(shown, values), shown(values))  # also a setting that is a list
        kept = [record for record in selected(self, filters) if not states or record.state in states]
        return Runs(kept, self.unreadable)

    @property
    def results(self) -> Any:
        """A row a run: name, identity, seed, the settings that differ, state, epochs, figures of the result, path.

        A pandas data frame where pandas is installed, else a list.
        """
        differ = different_settings({record.identity: record.config for record in self})
        return frame([_row(record, differ[record.identity]) for record in self])

    @property
    def metrics(self) -> Any:
        """A row an epoch: name, identity, seed, the settings that differ, and the figures of the epoch.

        A pandas data frame where pandas is installed, else a list.
        """
        differ = different_settings({record.identity: record.config for record in self})
        return frame([{**_head(r, differ[r.identity]), **row} for r in self for row in r.metrics()])


def frame(rows: list[dict[str, Any]]) -> Any:
    """The rows as a pandas data frame where pandas is installed, else as they are."""
    try:
        from pandas import DataFrame  # type: ignore[import-not-found]
    except ImportError:
        return rows
    return DataFrame(rows)


def _head(record: RunRecord, differ: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": record.slug, "identity": record.identity, **differ, "seed": record.seed}


def _row(record: RunRecord, differ: Mapping[str, Any]) -> dict[str, Any]:
    figures = {key: value for key, value in (record.result or {}).items() if key not in ("schema", "status", "epochs")}
    facts = {"state": record.state, "epoch": record.epoch, "epochs": record.epochs}
    return {**_head(record, differ), **facts, **figures, "path": str(record.path)}


def _several(value: Any) -> list[Any]:
    value = value.tolist() if hasattr(value, "tolist") else value  # of numpy, pandas and torch
    return list(value) if isinstance(value, Iterable) and not isinstance(value, (str, Mapping)) else [value]
