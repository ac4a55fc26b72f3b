"""What runs are doing: `python -m farkas_exp.status runs_dir=... [state=running] [watch=true] [format=plain|json]`.

Reads run directories only, never holds a run up (it looks at a lock for microseconds), and copes with files that are
being written. Ten thousand runs take a few seconds; `watch=true` then reads only what has changed.
"""

import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from farkas_exp import runs
from farkas_exp.config.options import shown as as_written
from farkas_exp.machine.commands import command
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.output import plural
from farkas_exp.machine.signals import StopRequest
from farkas_exp.machine.terminal import printable
from farkas_exp.runs import RunRecord
from farkas_exp.runs.collection import each_once
from farkas_exp.runs.command import folder_at, one_of, read_words
from farkas_exp.runs.query import differing, effective_settings, number, selected, short

DAMAGED = "damaged"
"""State of a run directory whose `run.json` or `result.json` cannot be read; always listed and counted."""

COPY = "copy"
"""State of a further folder of a run, which reports do not count either; always listed and counted by itself."""

ORDER = (runs.RUNNING, runs.INTERRUPTED, runs.CRASHED, DAMAGED, COPY, runs.EMPTY, runs.FAILED, runs.FINISHED)
"""The order of the list: what needs attention first."""

HELP = f"""\
python -m farkas_exp.status [KEY=VALUE ...]

Lists runs with their state, epoch, test or validation error, time left, host, and the settings in which they differ.

runs_dir=runs         where the runs are
state=running         only runs in this state; several are separated by commas: {", ".join(ORDER)}
                      (damaged ones and copies are always listed)
format=plain          plain or json
watch=true            keep the list up to date on the terminal, until Ctrl-C
every=2               seconds between updates, with watch=true
any key of a run's configuration, such as model=farkasnet18, lr=0.1 or seed=0,1, shows only runs with these values.

example: python -m farkas_exp.status runs_dir=runs state=running,crashed watch=true
"""

_LONGEST = 1e9
"""Seconds; an estimate above this is none."""
_LIVE_RUNS = (runs.RUNNING, runs.INTERRUPTED)
"""States that change without a change of the directory, when a process begins or dies."""


@command(HELP)
def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    values, filters = read_words(arguments, WORDS)
    watcher = Watcher(values.get("runs_dir", Path("runs")), values.get("state", ()), filters)
    as_json = values.get("format") == "json"
    if values.get("watch") != "true":
        print_once(watcher.look(), as_json)
    elif as_json:
        raise UserError("watch: format=json is for one look; use watch=true with format=plain")
    else:
        watch(watcher, values.get("every", 2.0))


def _every(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise UserError(f"every: {value!r} is out of range; give seconds between 0.1 and 3600")
    return seconds


WORDS = {
    "runs_dir": folder_at("runs_dir"), "state": lambda value: tuple(map(one_of("state", ORDER), value.split(","))),
    "format": one_of("format", ("plain", "json")), "watch": one_of("watch", ("true", "false")), "every": _every,
}  # fmt: skip
"""How the values of the command's own words are read."""


@dataclass(frozen=True)
class Line:
    """One run as it is listed; `settings` are those in which the listed runs differ."""

    run: str
    state: str
    epoch: int = 0
    epochs: int = 0
    test_error: float | None = None
    validation_error: float | None = None
    eta_seconds: float | None = None
    host: str | None = None
    seconds_since_update: float | None = None
    note: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Seen:
    """A run directory as read when its folder had last changed at `changed`."""

    path: Path
    changed: int
    record: RunRecord | None
    faults: list[runs.Unreadable]


class Watcher:
    """Reads the runs of a folder again and again, but only those that have changed.

    Lists those in one of `states` (any by default) that match `filters`.
    """

    def __init__(
        self, runs_dir: Path, states: Sequence[str] = (), filters: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        self.runs_dir, self._states, self._filters = runs_dir, states, filters or {}
        self._known: dict[Path, _Seen] = {}
        self._settings: dict[str, dict[str, Any]] = {}

    def look(self) -> list[Line]:
        """The requested runs by state (`ORDER`) and name, and every damaged one or copy."""
        now = time.time()
        seen = [self._see(path) for path in runs.scan(self.runs_dir)]
        once, copies = each_once([each.record for each in seen if each.record and not each.faults])
        found = [run for run in selected(once, self._filters) if not self._states or run.state in self._states]
        differ = self._different(found)
        lines = [replace(self._line(record, now), settings=differ[record.identity]) for record in found]
        lines += [Line(self._name(copy.path), COPY, note=copy.why) for copy in copies]
        for each in seen:
            note = "; ".join(fault.why for fault in each.faults)
            if each.record and each.faults:
                lines.append(replace(self._line(each.record, now), state=DAMAGED, note=note))
            elif each.faults:
                lines.append(Line(self._name(each.path), DAMAGED, note=note))
        return sorted(lines, key=lambda line: (ORDER.index(line.state), line.run))

    def _see(self, path: Path) -> _Seen:
        try:
            changed = os.stat(path).st_mtime_ns  # every file but the growing ones is replaced, which touches its folder
        except OSError:
            return _Seen(path, 0, None, runs.faults(path, None))
        known = self._known.get(path)
        if known is None or known.changed != changed or (known.record and known.record.state in _LIVE_RUNS):
            record = runs.read_run(path)
            known = self._known[path] = _Seen(path, changed, record, runs.faults(path, record))
        return known

    def _different(self, records: Sequence[RunRecord]) -> dict[str, dict[str, Any]]:
        """The settings in which the runs differ, by identity and by the key of the command line."""
        for record in records:
            if record.identity not in self._settings:
                self._settings[record.identity] = effective_settings(record.config)
        flats = {record.identity: self._settings[record.identity] for record in records}
        return {name: {short(key): value for key, value in own.items()} for name, own in differing(flats).items()}

    def _name(self, path: Path) -> str:
        return f"{path.parent.name}/{path.name}"

    def _line(self, record: RunRecord, now: float) -> Line:
        progress, result = record.progress, record.result or {}
        told = progress | result
        keys = ("updated", "eta_seconds", "test_error", "validation_error")
        updated, eta, test, validation = (_number(told.get(key)) for key in keys)
        age = None if updated is None else max(0.0, now - updated)
        live = record.state == runs.RUNNING
        return Line(
            self._name(record.path), record.state, record.epoch, record.epochs, test, validation,
            max(0.0, eta - age) if live and eta is not None and age is not None and eta < _LONGEST else None,
            progress.get("host") if isinstance(progress.get("host"), str) else None,
            age, str(result.get("reason") or (not record.result and progress.get("error")) or ""),
        )  # fmt: skip


def _number(value: Any) -> float | None:
    found = number(value)
    return None if math.isnan(found) else found


def print_once(lines: Sequence[Line], as_json: bool) -> None:
    """Print the list."""
    if as_json:
        print(json.dumps({"count": _count(lines), "runs": [vars(line) for line in lines]}, indent=1))
        return
    head = _head(lines)
    rows = [head, *(_cells(line, head) for line in lines)] if lines else []
    widths = [max(len(row[i]) for row in rows) for i in range(len(head) - 1)] if rows else []
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))
    print(summary(lines))


def summary(lines: Sequence[Line]) -> str:
    """How many runs are in which state, in one line."""
    parts = [f"{number} {state}" for state, number in _count(lines).items()]
    return plural(len(lines), "run") + (f": {', '.join(parts)}" if parts else "")


def _count(lines: Sequence[Line]) -> dict[str, int]:
    count = Counter(line.state for line in lines)
    return {state: count[state] for state in ORDER if count[state]}


def _head(lines: Sequence[Line]) -> tuple[str, ...]:
    settings = ("settings",) if any(line.settings for line in lines) else ()
    return ("state", "epoch", "test error %", "validation error %", "ETA", "host", "updated", *settings, "run")


def _cells(line: Line, head: Sequence[str]) -> tuple[str, ...]:
    from farkas_exp.runs.console import duration

    settings = [printable(" ".join(f"{key}={as_written(value)}" for key, value in line.settings.items()))]

    def shown(value: float | None, form: Callable[[float], str]) -> str:
        return "" if value is None else form(value)

    return (
        line.state,
        f"{line.epoch}/{line.epochs}" if line.epochs else "",
        *(shown(error, "{:.2f}".format) for error in (line.test_error, line.validation_error)),
        shown(line.eta_seconds, duration),
        printable(line.host or ""),
        shown(line.seconds_since_update if line.state == runs.RUNNING else None, lambda age: f"{duration(age)} ago"),
        *(settings if "settings" in head else []),
        printable(line.run + (f"  ({line.note})" if line.note else "")),
    )


def watch(watcher: Watcher, every: float) -> None:
    """Keep the list up to date on the terminal, each so many seconds, until Ctrl-C."""
    from rich.live import Live

    if not sys.stdout.isatty():
        raise UserError("watch: true needs a terminal; use watch=false here")
    with StopRequest() as stop, Live(auto_refresh=False, screen=True) as live:
        while True:
            height = live.console.size.height
            live.update(table(watcher.look(), str(watcher.runs_dir), height), refresh=True)
            if stop.wait(every):
                return


_STYLES = {runs.RUNNING: "green", runs.FAILED: "yellow", runs.INTERRUPTED: "cyan"}
_STYLES |= dict.fromkeys((runs.CRASHED, DAMAGED, COPY), "red")


def table(lines: Sequence[Line], title: str, height: int) -> Any:
    """The list as a table of at most `height` lines, with what does not fit counted below it."""
    from rich.table import Table
    from rich.text import Text

    room = max(1, height - 7)  # title, head, rules, caption
    left = len(lines) - room
    caption = summary(lines) + (f" (the last {left} are not shown)" if left > 0 else "") + "; Ctrl-C ends this list"
    heading = Text(f"{printable(title)}  {time.strftime('%H:%M:%S')}")
    shown = Table(title=heading, caption=Text(caption), expand=True)
    head = _head(lines)
    for each in head:
        shown.add_column(each, no_wrap=True, overflow="ellipsis")
    for line in lines[:room]:
        shown.add_row(*map(Text, _cells(line, head)), style=_STYLES.get(line.state, ""))
    return shown
