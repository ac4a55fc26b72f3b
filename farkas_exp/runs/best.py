"""The best setting of a search: `python -m farkas_exp.best runs_dir=... [top=5] [KEY=VALUE ...]`.

Ranks by the error on images held out of the training set, over all seeds of a setting; a run that has seen the test
set takes no part. Reads run directories only.

In a configuration `${best:KEY}` stands for the value of KEY that a search has found best for the very same setting:
the second stage of a comparison (`experiment=without_normalization_test`).
"""

import json
import shlex
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farkas_exp.machine.errors import UserError, unknown
from farkas_exp.machine.output import patient, warn
from farkas_exp.machine.terminal import printable, unreadable_text
from farkas_exp.runs import RunRecord, Survey, survey
from farkas_exp.runs.query import (
    DONE,
    by_data,
    deciding_settings,
    default_settings,
    filter_keys,
    has_failed,
    ranked_error,
    selected,
    setting,
)

HELP = """\
python -m farkas_exp.best [KEY=VALUE ...]

Ranks the settings of a search by their error on held-out images (dataset.validation > 0), over their seeds.

runs_dir=runs         where the runs are
top=5                 how many settings are listed
any key of a run's configuration, such as model=farkasnet18 or epochs=20, ranks only the runs with that value.

example: python -m farkas_exp.best runs_dir=runs/lr_search model=farkasnet18
"""


@dataclass(frozen=True)
class Error:
    """Mean and standard deviation (None for one value) of `n` errors in percent."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Setting:
    """One setting of a search: what sets it apart from the others, and its error over the seeds."""

    values: dict[str, Any]
    error: Error
    failed: int
    config: Mapping[str, Any]


@patient()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (of this process by default); a user's mistake is one line and status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help", "help"} & set(arguments):
        print(HELP, end="")
        return 0
    try:
        values = _parse(arguments)
        top = values.pop("top", "5")
        if not (top.isascii() and top.isdecimal() and len(top) < 10 and int(top) > 0):
            raise UserError(f"top: expected a whole number of at least 1, got {top!r}")
        runs_dir = Path(values.pop("runs_dir", "runs"))
        keys = filter_keys()
        found = survey(runs_dir)
        ranked = rank(selected(found.records, {keys[key]: tuple(text.split(",")) for key, text in values.items()}))
        left_out = unreadable_text(found.unreadable)
        if not ranked:
            raise UserError(
                f"runs_dir: no run in {runs_dir} is done and has held images out; search with dataset.validation=0.1"
                + (f" ({left_out})" if left_out else "")
            )
    except UserError as error:
        warn(f"error: {printable(error)}")
        return 2
    _print(ranked[: int(top)], len(ranked))
    if left_out:
        print(left_out)
    return 0


def _parse(arguments: Sequence[str]) -> dict[str, str]:
    known = ["runs_dir", "top", *filter_keys()]
    values = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key not in known or not equals:
            raise unknown(key, argument, known)
        values[key] = value
    return values


def rank(records: Sequence[RunRecord]) -> list[Setting]:
    """The settings among the runs that have a result and held images out, the smallest mean error first.

    A run that failed to train counts as chance: leaving it out would favour what often fails. Runs on different data
    are never seeds of one setting.
    """
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    by_identity = defaultdict(list)
    for record in records:
        if record.state in DONE and record.evaluated_on == "validation":
            by_identity[record.identity].append(record)
    for identity, group in by_identity.items():
        groups |= {(identity, data): part for data, part in by_data(group).items()}
    configs = {key: deciding_settings(group[0].config) for key, group in groups.items()}
    different = _differences(list(configs.values()))
    ranked = []
    for key, group in groups.items():
        errors = [ranked_error(record) for record in group]
        error = Error(statistics.fmean(errors), statistics.stdev(errors) if len(errors) > 1 else None, len(errors))
        values = {name: configs[key].get(name) for name in different}
        ranked.append(Setting(values, error, sum(map(has_failed, group)), configs[key]))
    return sorted(ranked, key=lambda candidate: candidate.error.mean)


def best_value(key: str, config: Mapping[str, Any]) -> Any:
    """What `${best:KEY}` stands for in a configuration: the value of KEY with the smallest error on held-out images.

    Compared are the runs in the configuration's `runs_dir` that held images out and have the same setting, but for the
    keys that are a `${best:...}` in it, and for the seed. Of equal errors the smaller value wins.

    Args:
        key: the dotted key.
        config: nested, with the interpolations as they are written.

    Raises:
        UserError: there is no such run, or one of them is not done or may not be readable, or they are not of the same
            data: a choice among a part of a search would change.
    """
    defaults = default_settings()
    own = deciding_settings(config)
    free = {name for name, value in own.items() if isinstance(value, str) and value.startswith("${best:")}
    free.add("dataset.validation")
    runs_dir = Path(str(config.get("runs_dir")))
    found = survey(runs_dir)
    held_out = [record for record in found.records if record.evaluated_on == "validation"]
    records = [
        record for record in held_out
        if _without({**defaults, **deciding_settings(record.config)}, free) == _without({**defaults, **own}, free)
    ]  # fmt: skip
    _refuse_part(key, found, records)
    unfinished = [record for record in records if record.state not in DONE]
    if unfinished:
        raise UserError(f"{key}: {unfinished[0].path} of its search is {unfinished[0].state}; finish the search first")
    if not records:
        raise UserError(
            f"{key}: its search has no run of this setting in runs_dir {runs_dir}; run the search first (the same"
            " command with dataset.validation > 0 and the values to choose from), or give a value"
        )
    ranked = rank(records)
    values = [candidate.config.get(key) for candidate in ranked if candidate.error.mean == ranked[0].error.mean]
    return min(values, key=_size)


def _size(value: Any) -> tuple[bool, float, str]:
    """By which the smaller of two values is chosen: numbers first, then by their text."""
    is_number = isinstance(value, (int, float))
    return (not is_number, float(value) if is_number else 0.0, json.dumps(value))


def _refuse_part(key: str, found: Survey, records: Sequence[RunRecord]) -> None:
    """Refuse to choose where what cannot be read may belong to the search, or its runs are of other data."""
    if found.unreadable:
        raise UserError(
            f"{key}: {found.unreadable[0]} may belong to its search, and cannot be read; restore it or move it away"
        )
    parts = defaultdict(list)  # another part of the training set held out is another evaluation set, by intent
    for record in records:
        parts[setting(record.config, "dataset.validation")].append(record)
    if any(len(by_data(part)) > 1 for part in parts.values()):
        raise UserError(f"{key}: the runs of its search are not of the same data; keep those of each in a runs_dir")


def _without(settings: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in keys}


def _differences(configs: Sequence[dict[str, Any]]) -> list[str]:
    """The dotted keys whose values are not the same in all configurations, in the schema's order."""
    keys = list(dict.fromkeys(key for config in configs for key in config))
    return [key for key in keys if len({json.dumps(config.get(key)) for config in configs}) > 1]


def _print(ranked: Sequence[Setting], count: int) -> None:
    print("Error on held-out images, mean over seeds, a failed run at chance:")
    for place, candidate in enumerate(ranked, 1):
        spread = "" if candidate.error.sd is None else f" ± {candidate.error.sd:.2f}"
        failed = f", {candidate.failed} failed to train" if candidate.failed else ""
        error = f"{candidate.error.mean:6.2f} %{spread} (n = {candidate.error.n}{failed})"
        print(f"{place:3d}.  {error}  {overrides_text(candidate)}")
    if count > len(ranked):
        print(f"      ... {count - len(ranked)} more; top={count} lists them")
    best = overrides_text(ranked[0])
    print(f"To train the best on the whole training set and test it: add {best} dataset.validation=0")


def overrides_text(candidate: Setting) -> str:
    """The setting as overrides of a command line."""
    texts = [f"{key}={_plain(value)}" for key, value in candidate.values.items()]
    return printable(shlex.join(texts)) if texts else "(the only setting)"


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{','.join(map(_plain, value))}]" if isinstance(value, list) else str(value)
