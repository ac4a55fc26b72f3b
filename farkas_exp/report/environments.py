"""What a report says of the software and the devices of its runs, where they were not trained alike."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from farkas_exp.machine.output import plural
from farkas_exp.machine.terminal import printable
from farkas_exp.report.arms import group_arms
from farkas_exp.runs import DONE, RunDirectory, RunRecord, read_starts
from farkas_exp.runs.jsonfiles import count

COMPARED = {"farkas_exp": "farkas_exp", "torch": "torch", "device_type": "device", "world_size": "processes"}
"""What may move a run's figures by more than rounding and is not in its identity, with its name in the note.

Each process has statistics of batch norm of its own. Beside these: the code of packages from outside.
"""
NAMED = 3
"""The most rows that are named; the others are counted."""


def environment_note(records: Sequence[RunRecord]) -> str:
    """In which environments the runs with a result were trained, and which rows mix them; empty if all are alike."""
    trained_in = {run.path: _environment(run) for run in records if run.state in DONE}
    runs: dict[str, dict[str, int]] = {}
    for (key, value), n in sorted(Counter(each for found in trained_in.values() for each in found).items()):
        runs.setdefault(key, {})[value] = n
    several = {key: counts for key, counts in runs.items() if len(counts) > 1}
    if not several:
        return ""
    parts = [
        f"{key} " + ", ".join(f"{value} ({plural(n, 'run')})" for value, n in counts.items())
        for key, counts in several.items()
    ]
    mixed = []
    for arm in group_arms(records):
        found = {each for run in arm.runs for each in trained_in.get(run.path, ())}
        mixed += [arm.label] if len(found) > len({key for key, _ in found}) else []
    more = [f"{len(mixed) - NAMED} more"] if len(mixed) > NAMED else []
    within = f". Mixed within: {'; '.join([*mixed[:NAMED], *more])}" if mixed else ""
    return f"Not trained alike: {'; '.join(parts)}{within}."


def _environment(run: RunRecord) -> set[tuple[str, str]]:
    """What is compared of a run, each with the values of all starts whose epochs count."""
    found = set()
    for start in counting_starts(run):
        plugins = start.get("plugins")
        facts = {COMPARED[key]: start.get(key) for key in COMPARED}
        facts |= plugins if isinstance(plugins, dict) else {}
        found |= {(printable(key), _text(value)) for key, value in facts.items() if isinstance(value, (str, int))}
    return found


def counting_starts(run: RunRecord) -> list[dict[str, Any]]:
    """The starts of a run whose epochs count, in order."""
    found: list[dict[str, Any]] = []
    begun = None
    for start in reversed(read_starts(RunDirectory(run.path))):
        at = count(start.get("epoch")), count(start.get("step"))
        if begun is None or at < begun:  # a later start that began no later trained these epochs again
            begun = at
            found.insert(0, start)
    return found


def _text(value: str | int) -> str:
    """A value without the build of PyTorch, which the device says: `2.15.0` for `2.15.0+cpu`."""
    return printable(value).partition("+")[0]
