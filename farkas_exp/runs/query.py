"""What the records of runs say: settings and figures, which runs match, and how they rank."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, TypeVar

from farkas_exp.config import Config, declared
from farkas_exp.config.extensions import every_extra, registries
from farkas_exp.config.needs import choice
from farkas_exp.config.options import Option, keys_of, shown
from farkas_exp.config.parsing import schema_defaults
from farkas_exp.machine.output import warn
from farkas_exp.machine.terminal import printable
from farkas_exp.registry import DATASETS, NETWORKS
from farkas_exp.runs.directory import FAILED, FINISHED, RunDirectory
from farkas_exp.runs.record import RunRecord, read_data

T = TypeVar("T")


def number(value: Any) -> float:
    """A number in a run's files as a float; NaN for null (not finite) and anything else."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def outcome(run: RunRecord, key: str) -> float:
    """A figure of a run's result, or NaN."""
    return number((run.result or {}).get(key))


def setting(config: Mapping[str, Any], key: str) -> Any:
    """The value at the dotted `key` of a nested configuration, or None."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def deciding_settings(config: Mapping[str, Any], schema: Any = Config, prefix: str = "") -> dict[str, Any]:
    """The settings that belong to a run's identity, by dotted key, in the schema's order.

    A key that the schema does not know, from a later version, counts among them; without a schema every key does.
    """
    fields = _fields(schema)
    flat: dict[str, Any] = {}
    for key in [*(k for k in fields if k in config), *(k for k in config if k not in fields)]:
        decides, inner = fields.get(key, (True, None))
        value = config[key]
        if decides and isinstance(value, dict):
            flat |= deciding_settings(value, inner, f"{prefix}{key}.")
        elif decides:
            flat[prefix + key] = value
    return flat


@cache
def _fields(schema: Any) -> Mapping[str, tuple[bool, Any]]:
    """Whether each field of a schema, or of none, decides, and the schema of its group."""
    fields = dataclasses.fields(schema) if schema else ()
    return {f.name: (declared(f).decides, f.type if dataclasses.is_dataclass(f.type) else None) for f in fields}


def _until_a_plugin(function: Callable[[], T]) -> Callable[[], T]:
    """Cache `function()` until a plug-in adds a choice to a group."""
    known = cache(lambda choices: function())
    # `tuple(entries)` would ask for the length, too
    return wraps(function)(lambda: known(tuple(tuple(iter(entries)) for entries in registries().values())))


@_until_a_plugin
def default_settings() -> Mapping[str, Any]:
    """The deciding settings at their defaults, by dotted key, also of what a choice brings; the required are None."""
    flat = deciding_settings(schema_defaults())
    return MappingProxyType({key: None if value == "???" else value for key, value in flat.items()})


def is_plain(name: str) -> bool:
    """Whether a network is known, and has no Farkas layers."""
    network = NETWORKS.get(name)
    return network is not None and not network.farkas


TOLERATED = frozenset(key for key, f in keys_of(Config) if declared(f).tolerated)
"""The settings that may have any value in a plain network, where they have no effect."""


def effective_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """All deciding settings that have an effect (`Option.needs`), also those that an older record lacks.

    Two runs with the same effective settings differ only in their seed.
    """
    flat = {**default_settings(), **deciding_settings(config)}
    groups: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        group, _, name = key.rpartition(".")
        groups.setdefault(group, {})[name] = value
    whole = SimpleNamespace(**{**groups[""], **{name: SimpleNamespace(**own) for name, own in groups.items() if name}})
    idle = {key for key, option in _options().items() if option.unmet(whole)}
    return {key: value for key, value in flat.items() if key not in idle}


def settings_in_full(config: Mapping[str, Any]) -> dict[str, Any]:
    """The effective settings, and every other one at its default: the same keys for every configuration."""
    return {**default_settings(), **effective_settings(config)}


@_until_a_plugin
def _options() -> Mapping[str, Option]:
    """The declarations of the keys that need something, also of those that a choice brings."""
    options = {key: declared(f) for key, f in keys_of(Config) if declared(f).needs}
    for key, extra in every_extra().items():
        needs = (choice(key.partition(".")[0], *extra.names), *declared(extra.field).needs)
        options[key] = dataclasses.replace(declared(extra.field), needs=needs)
    return options


def different_settings(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings in which these configurations differ, for each of them by dotted key, in the schema's order.

    A setting that has no effect in a configuration is not among its own.
    """
    return differing({name: effective_settings(config) for name, config in configs.items()})


def differing(flats: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each of these settings those that have more than one value among all."""
    differ = different_keys(flats.values())
    return {name: {key: flat[key] for key in differ if key in flat} for name, flat in flats.items()}


def different_keys(flats: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys that have more than one value among these settings."""
    values: dict[str, set[str]] = {}
    for flat in flats:
        for key, value in flat.items():
            values.setdefault(key, set()).add(repr(value))
    return [key for key, each in values.items() if len(each) > 1]


def short(key: str) -> str:
    """A dotted key as it is given on the command line: `model` for `model.name`, `lr` for `lr.value`."""
    group, _, name = key.rpartition(".")
    return group if group and name == _SHORT.get(group) else key


_ARM_GROUPS = ("model.", "residual.", "normalization.", "weight.", "aggregation.", "activation.", "init.", "lr.value",
               "optimizer.scalars")  # fmt: skip
_BUDGET = ("dataset.", "augmentation.", "epochs", "batch_size", "precision", "label_smoothing", "phases.")


def is_arm_setting(key: str) -> bool:
    """Whether the setting at `key` distinguishes the arms of a paper's table; the others belong to the whole table."""
    return key.startswith(_ARM_GROUPS)


def common_setting(config: Mapping[str, Any]) -> dict[str, Any]:
    """The deciding settings that the arms of a paper's table share."""
    return {key: value for key, value in deciding_settings(config).items() if not is_arm_setting(key)}


def budget(config: Mapping[str, Any]) -> dict[str, Any]:
    """What any methods must share to be compared: the data and the length of the training."""
    flat = {**default_settings(), **deciding_settings(config)}
    return {key: value for key, value in flat.items() if key.startswith(_BUDGET)}


def filter_keys() -> dict[str, str]:
    """Every key that filters runs, with the dotted key of the configuration that it means.

    A group means its name (`dataset=digits`) or its value (`lr=0.1`).
    """
    keys = {key: key for key in (*dict(keys_of(Config)), *every_extra())}
    keys |= {group: f"{group}.{name}" for group, name in _SHORT.items()}
    del keys["runs_dir"]
    return keys


_SHORT = {
    group: name
    for group, _, name in (key.rpartition(".") for key, _ in keys_of(Config))
    if group and name in ("name", "value")
}
"""The main key of each group that has one."""


def selected(records: Iterable[RunRecord], filters: Mapping[str, tuple[str, ...]]) -> list[RunRecord]:
    """The records whose configuration has one of the given values at every key of `filters`.

    The last value is the whole text of the others: where a record has it (a label with a comma), it alone counts.
    A key that an older record does not know has its default. `arm` and `experiment`, which only name a setting, and a
    setting without effect, such as the aggregation of a plain network, select an identity with all of its runs.
    """
    records = every = list(records)
    for key, (*several, whole) in filters.items():
        texts = [whole] if any(_same(value, whole) for value in _values(every, key)) else several
        values = zip(records, _values(records, key), strict=True)
        found = [record for record, value in values if any(_same(value, text) for text in texts)]
        if key in _NAMES or key in default_settings():
            identities = {record.identity for record in found}
            found = [record for record in records if record.identity in identities]
        records = found
    return records


def not_among(records: Iterable[RunRecord], filters: Mapping[str, tuple[str, ...]]) -> str:
    """A sentence that names those of several values of a filter that no record has; empty if there are none."""
    records = list(records)
    missing = [
        f"{key}={text}"
        for key, (*several, whole) in filters.items()
        for values in [_values(records, key)]
        for text in several
        if not any(_same(value, text) or _same(value, whole) for value in values)
    ]
    return f"No run with {', '.join(missing)}." if missing else ""


_NAMES = ("arm", "experiment")
_schema_defaults = _until_a_plugin(schema_defaults)


def _values(records: Sequence[RunRecord], key: str) -> list[Any]:
    """What each record has at `key`: the default where an older one does not know it."""
    if key == "seed":
        return [record.seed for record in records]
    group, _, name = key.rpartition(".")
    default = setting(_schema_defaults(), key)
    groups = (setting(record.config, group) if group else record.config for record in records)
    return [own[name] if isinstance(own, Mapping) and name in own else default for own in groups]


def _same(value: Any, text: str) -> bool:
    if isinstance(value, bool) or value is None:
        return text.lower() == {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, (int, float)):
        try:
            return float(text) == float(value)
        except ValueError:
            return False
    return shown(value) == (text.replace(", ", ",") if isinstance(value, (list, tuple)) else text)


def chance_error(run: RunRecord) -> float:
    """The error in percent of a random guess among the classes of the run's data; 100, and a warning, without any."""
    classes = read_data(RunDirectory(run.path)).get("classes")
    entry = DATASETS.get(str(setting(run.config, "dataset.name")))
    known = entry and (entry.classes or entry.options.get("num_classes"))  # for runs of older versions
    classes = classes or setting(run.config, "dataset.num_classes") or known
    if type(classes) is int and classes > 1:  # a guess of one class is never wrong, and what failed ranks first
        return 100.0 * (1 - 1 / classes)
    _warn_of_chance(run.path)
    return 100.0


def trains_below(run: RunRecord) -> float:
    """The error in percent below which a network trains: nine tenths of chance."""
    return 0.9 * chance_error(run)


@cache
def _warn_of_chance(path: Path) -> None:
    warn(f"warning: {printable(path)}: nothing says how many classes its data have; chance counts as 100 % error here")


def has_failed(run: RunRecord) -> bool:
    """Whether a run with a result failed to train, or has no finite error."""
    return run.state == FAILED or (run.state == FINISHED and not math.isfinite(outcome(run, run.key("error"))))


def ranked_error(run: RunRecord) -> float:
    """The error with which a run counts in rankings and comparisons: chance if it has failed.

    Leaving failed runs out would favour what often fails.
    """
    return chance_error(run) if has_failed(run) else outcome(run, run.key("error"))


def fingerprint(run: RunRecord) -> str:
    """The fingerprint of the run's training data; empty if unknown."""
    value = read_data(RunDirectory(run.path)).get("fingerprint")
    return value if isinstance(value, str) else ""


def by_data(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """The runs by their training data; those on unknown data join the others if these agree."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(fingerprint(record), []).append(record)
    if len(groups) == 2 and "" in groups:
        (known,) = set(groups) - {""}
        return {known: list(records)}
    return groups
