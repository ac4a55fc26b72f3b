"""The arm of an experiment that a run belongs to, by its settings, not by who trained it, or under which name.

The experiment's file defines the arms. A run belongs to the arm whose values it has in the settings in which the arms
differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farkas_exp.machine.output import plural
from farkas_exp.report.arms import plain
from farkas_exp.runs import DONE, RunRecord
from farkas_exp.runs.query import by_data, effective_settings


class Arms:
    """The arms of an experiment.

    Args:
        configs: the nested configuration of each arm, by its label.
        swept: keys, or prefixes of keys, that vary within an arm, such as `lr.` in a search.
    """

    def __init__(self, configs: Mapping[str, Mapping[str, Any]], swept: Sequence[str] = ()) -> None:
        flats = {label: effective_settings(config) for label, config in configs.items()}
        keys = dict.fromkeys(key for flat in flats.values() for key in flat)
        self.keys = [
            key
            for key in keys
            if not (swept and key.startswith(tuple(swept)))
            and len({repr(flat.get(key, ...)) for flat in flats.values()}) > 1  # missing: without an effect there
        ]
        self._swept = tuple(swept)
        self._own = self.setting_of(next(iter(flats.values()), {}))
        self._labels: dict[str, str] = {}
        for label, flat in flats.items():
            self._labels.setdefault(self._key(flat), label)
        self.order = list(configs)

    def _key(self, flat: Mapping[str, Any]) -> str:
        return repr([_plain(flat.get(key)) for key in self.keys])

    def label(self, run: RunRecord) -> str | None:
        """The label of a run's arm; None for a run of no arm."""
        return self._labels.get(self._key(effective_settings(run.config)))

    def setting_of(self, flat: Mapping[str, Any]) -> dict[str, Any]:
        """The effective settings that all runs of a table share: neither those of the arms nor swept ones."""
        return {k: _plain(v) for k, v in flat.items() if k not in self.keys and not k.startswith(self._swept or "\0")}

    def choose(self, records: Sequence[RunRecord]) -> "Chosen":
        """The runs of the arms in one setting and on the same data.

        Of several settings the one of the experiment's file comes first if it has a result, then the one that has
        results of most arms, then the longest training.
        """
        labels = {run.path: label for run in records if (label := self.label(run)) is not None}
        settings: dict[str, list[RunRecord]] = {}
        for run in records:
            if run.path in labels:
                settings.setdefault(repr(self.setting_of(effective_settings(run.config))), []).append(run)
        parts = sorted(
            ((key, kept) for key, runs in settings.items() for kept in _same_data(runs)),
            key=lambda part: (_results(part[1], labels) > 0 and part[0] == repr(self._own), _results(part[1], labels),
                              max(run.epochs for run in part[1]), len(part[1]), part[0]),
            reverse=True,
        )  # fmt: skip
        chosen = parts[0][1] if parts else []
        by_label = {label: [run for run in chosen if labels[run.path] == label] for label in self.order}
        flats = [self.setting_of(effective_settings(kept[0].config)) for _, kept in parts]
        left_out = [(_differences(flats[0], flat), len(kept)) for flat, (_, kept) in zip(flats, parts, strict=True)]
        apart = _differences(self._own, flats[0]) if flats and flats[0] != self._own else ""
        return Chosen({label: runs for label, runs in by_label.items() if runs}, left_out[1:], apart)


@dataclass(frozen=True)
class Chosen:
    """The runs of each arm that has any, in the order of the experiment.

    `left_out` says how the other settings differ, each with its number of runs; `apart`, how this one differs from the
    experiment's.
    """

    runs: Mapping[str, Sequence[RunRecord]]
    left_out: Sequence[tuple[str, int]]
    apart: str = ""

    @property
    def notes(self) -> list[str]:
        """In which setting they are, if not the experiment's, and what was left out, in words."""
        apart = [f"Not the experiment's setting: {self.apart}."] if self.apart else []
        return apart + [
            f"Left out: {plural(count, 'run')} in another setting ({how}); choose it with KEY=VALUE."
            for how, count in self.left_out
        ]


def _same_data(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """The runs by their data: those evaluated on held-out images together with those on the test set."""
    parts = [by_data([run for run in runs if run.evaluated_on == on]) for on in ("test", "validation")]
    groups = [sorted(part.values(), key=len, reverse=True) for part in parts]
    first = [run for group in groups if group for run in group[0]]
    return [first, *(each for group in groups for each in group[1:])]


def _results(runs: Sequence[RunRecord], labels: Mapping[Any, str]) -> int:
    return len({labels[run.path] for run in runs if run.state in DONE})


def _differences(chosen: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    keys = [key for key in dict.fromkeys([*chosen, *other]) if chosen.get(key) != other.get(key)]
    return ", ".join(f"{key} {plain(other.get(key))}" for key in keys) or "other data"


def _plain(value: Any) -> Any:
    """A value as JSON has it: a whole float is the same number as an int."""
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return int(value) if type(value) is float and value.is_integer() and abs(value) < 1e15 else value
