"""The best setting of a search: `python -m farkas_exp.best runs_dir=... [top=5] [KEY=VALUE ...]`.

Ranks settings by their error on images held out of the training set, over all seeds; a run that has seen the test set
takes no part.

In a configuration `${best:KEY}` is the value of KEY that a search found best for the same setting: the second stage of
a comparison (`experiment=without_normalization_test`). `${beyond:KEY}` is that value, too, unless it lies at an end of
the search's values: then it is the next one beyond. A value at an end that lacks seeds of the others comes before both.
"""

import json
import shlex
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from farkas_exp.config.composition import is_searched
from farkas_exp.config.options import shown
from farkas_exp.config.store import is_choice
from farkas_exp.machine.commands import command
from farkas_exp.machine.errors import UserError, unknown
from farkas_exp.machine.terminal import printable
from farkas_exp.runs import DONE, RunRecord, Runs, query, survey
from farkas_exp.runs.command import folder_at, read_words

HELP = """\
python -m farkas_exp.best [KEY=VALUE ...]

Ranks the settings of a search by their error on held-out images (dataset.validation > 0), over their seeds.

runs_dir=runs         where the runs are
top=5                 how many settings are listed
any key of a run's configuration, such as model=farkasnet18 or epochs=20, ranks only the runs with that value.

example: python -m farkas_exp.best runs_dir=runs/lr_search model=farkasnet18
"""


@dataclass(frozen=True)
class Setting:
    """One setting of a search: what sets it apart from the others, and its errors in percent over `n` seeds.

    `sd` is None for one seed.
    """

    values: dict[str, Any]
    mean: float
    sd: float | None
    n: int
    failed: int
    seeds: tuple[int, ...]
    config: Mapping[str, Any]


@command(HELP)
def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    values, filters = read_words(arguments, WORDS)
    runs_dir, top = values.get("runs_dir", Path("runs")), values.get("top", 5)
    found = survey(runs_dir)
    chosen = query.selected(found.records, filters)
    ranked = rank(chosen)
    if not ranked:
        raise UserError(
            f"runs_dir: no run in {runs_dir} is done and has held images out; search with dataset.validation=0.1"
            + (f" ({found.left_out})" if found.left_out else "")
        )
    _print(ranked, top)
    for note in filter(None, (query.not_among(chosen, filters), found.left_out)):
        print(note)


def _top(value: str) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and int(value) > 0):
        raise UserError(f"top: expected a whole number of at least 1, got {value!r}")
    return int(value)


WORDS = {"runs_dir": folder_at("runs_dir"), "top": _top}
"""How the values of the command's own words are read."""


def rank(records: Sequence[RunRecord]) -> list[Setting]:
    """The settings of the runs that have a result on held-out images, the smallest mean error first.

    A run that failed to train counts as chance: leaving it out would favour what often fails. Runs on different data
    are different settings.
    """
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    by_identity = defaultdict(list)
    for record in records:
        if record.state in DONE and record.evaluated_on == "validation":
            by_identity[record.identity].append(record)
    for identity, group in by_identity.items():
        groups |= {(identity, data): part for data, part in query.by_data(group).items()}
    configs = {key: query.deciding_settings(group[0].config) for key, group in groups.items()}
    different = query.different_keys(configs.values())
    ranked = []
    for key, group in groups.items():
        errors = [query.ranked_error(record) for record in group]
        sd = statistics.stdev(errors) if len(errors) > 1 else None
        values = {name: configs[key].get(name) for name in different}
        failed = sum(map(query.has_failed, group))
        seeds = tuple(sorted(record.seed for record in group))
        ranked.append(Setting(values, statistics.fmean(errors), sd, len(errors), failed, seeds, configs[key]))
    return sorted(ranked, key=lambda candidate: candidate.mean)


def unequal_seeds(ranked: Sequence[Setting]) -> str:
    """What to know of settings that were tried with different seeds; empty if all have the same."""
    seeds = sorted({seed for candidate in ranked for seed in candidate.seeds})
    short = [candidate for candidate in ranked if len(candidate.seeds) < len(seeds)]
    if not short:
        return ""
    lacking = ",".join(str(seed) for seed in seeds if seed not in short[0].seeds)
    values = overrides_text(short[0])
    own = f"{values} and " if len(short) == 1 else ""
    return (
        f"{len(short)} of {len(ranked)} settings lack seeds that others have ({values} lacks seed={lacking}), and a"
        f" mean over fewer seeds may be luck; the search's command with {own}seed={','.join(map(str, seeds))} trains"
        " what is lacking and skips the rest"
    )


def best_value(key: str, config: Mapping[str, Any], beyond: bool = False) -> Any:
    """The value of `${best:KEY}` in a configuration: that of KEY with the smallest error on held-out images.

    Compares the runs in the configuration's `runs_dir` that held images out and have its setting, apart from the seed
    and the keys that are a `${best:...}` in it. Of equal errors the smaller value wins. `beyond` takes the next value
    beyond the end at which the best one lies, as `${beyond:KEY}`, and before both a value at an end that lacks seeds.
    The configuration is nested, not resolved.

    Raises:
        UserError: no such key decides a run's numbers; or the search has no such run, is not finished, lacks seeds for
            some values, may have unreadable runs, or has runs on different data: a choice from part of a search could
            change.
    """
    defaults = query.default_settings()
    own = query.deciding_settings(config)
    if key not in {**defaults, **own}:
        raise unknown(f"${{{'beyond' if beyond else 'best'}:{key}}}", key, {**defaults, **own})
    free = {name for name, value in own.items() if is_searched(value)} | {"dataset.validation"}
    runs_dir = Path(str(config.get("runs_dir")))
    found = survey(runs_dir)
    held_out = [record for record in found.records if record.evaluated_on == "validation"]
    free |= query.TOLERATED if query.is_plain(str(own.get("model.name"))) else set()
    records = [
        record for record in held_out
        if _without({**defaults, **query.deciding_settings(record.config)}, free) == _without({**defaults, **own}, free)
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
    if beyond and (added := _added_with_fewer_seeds(key, ranked)):
        return added
    if unequal := unequal_seeds(ranked):
        raise UserError(f"{key}: of its search {unequal}; give it first, or give a value here: {key}=VALUE")
    values = [candidate.config.get(key) for candidate in ranked if candidate.mean == ranked[0].mean]
    best = min(values, key=_size)
    return _beyond(best, [candidate.config.get(key) for candidate in ranked]) if beyond else best


def _added_with_fewer_seeds(key: str, ranked: Sequence[Setting]) -> float | None:
    """The value at an end of the search's values, next to those with all seeds, that lacks some of these; else None."""
    seeds: dict[Any, int] = {value: len(each.seeds) for each in ranked if _is_step(value := each.config.get(key))}
    values, most = sorted(seeds), max(seeds.values(), default=0)
    full = [place for place, value in enumerate(values) if seeds[value] == most]
    if len(seeds) < len(ranked) or len(full) != full[-1] - full[0] + 1:
        return None
    return next((values[place] for place in (full[0] - 1, full[-1] + 1) if 0 <= place < len(values)), None)


def _is_step(value: Any) -> bool:
    return isinstance(value, float) and value > 0


def _beyond(best: Any, values: Sequence[Any]) -> Any:
    """The next number beyond the end of `values` at which `best` lies, by the ratio of those beside it; else `best`."""
    numbers = sorted(set(filter(_is_step, values)))
    if len(numbers) < 2 or best not in (numbers[0], numbers[-1]):
        return best
    inwards = numbers if best == numbers[0] else numbers[::-1]
    nearer, farther = inwards[1:3] if len(inwards) > 2 else inwards[:2]  # of 0.01, 0.03, 0.1: behind 0.1 comes 0.3
    return float(f"{best * nearer / farther:.3g}")


def _size(value: Any) -> tuple[bool, float, str]:
    """The order of values: numbers by size, then others by their text."""
    is_number = isinstance(value, (int, float))
    return (not is_number, float(value) if is_number else 0.0, json.dumps(value))


def _refuse_part(key: str, found: Runs, records: Sequence[RunRecord]) -> None:
    """Refuse to choose if something unreadable may belong to the search, or its runs are on different data."""
    if found.unreadable:
        raise UserError(f"{key}: {found.unreadable[0]} may belong to its search; restore it or move it away")
    parts = defaultdict(list)  # another part of the training set held out is another evaluation set, by intent
    for record in records:
        parts[query.setting(record.config, "dataset.validation")].append(record)
    if any(len(query.by_data(part)) > 1 for part in parts.values()):
        raise UserError(
            f"{key}: the runs of its search are on different data; keep each data set's runs in a runs_dir of their own"
        )


def _without(settings: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in keys}


def _print(ranked: Sequence[Setting], top: int) -> None:
    print("Error on held-out images, mean over seeds, a failed run at chance:")
    for place, candidate in enumerate(ranked[:top], 1):
        spread = "" if candidate.sd is None else f" ± {candidate.sd:.2f}"
        failed = f", {candidate.failed} failed to train" if candidate.failed else ""
        error = f"{candidate.mean:6.2f} %{spread} (n = {candidate.n}{failed})"
        print(f"{place:3d}.  {error}  {overrides_text(candidate)}")
    if len(ranked) > top:
        print(f"      ... {len(ranked) - top} more; top={len(ranked)} lists them")
    if unequal := unequal_seeds(ranked):
        print(f"Not settled: {unequal}.")
    held_out = {"dataset.validation"}
    best = replace(ranked[0], values={**_without(ranked[0].values, held_out), "dataset.validation": 0})
    print(f"To train the best on the whole training set and test it: add {overrides_text(best)}")


def _as_choice(key: str, value: Any) -> str:
    """`optimizer` for `optimizer.name` where there is such a choice, which may bring more than its name."""
    group, _, name = key.rpartition(".")
    return group if name == "name" and is_choice(group, str(value)) else key


def overrides_text(candidate: Setting) -> str:
    """The setting as overrides of a command line."""
    texts = [f"{_as_choice(key, value)}={shown(value)}" for key, value in candidate.values.items()]
    return printable(shlex.join(texts)) if texts else "(the only setting)"
