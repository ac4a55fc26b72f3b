"""Questions to the records of runs: their settings and figures, which of them fit, and how they rank."""

import dataclasses
import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from farkas_exp.config import Config, declared, parse, to_dict
from farkas_exp.registry import DATASETS, NETWORKS
from farkas_exp.runs import FAILED, FINISHED, RunDirectory, RunRecord, read_json

DONE = (FINISHED, FAILED)
"""States of a run with a result."""


def number(value: Any) -> float:
    """A number of a run's files as a float; null (written for what is not finite) and anything else is NaN."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def outcome(run: RunRecord, key: str) -> float:
    """One figure of a run's result, NaN where there is none."""
    return number((run.result or {}).get(key))


def setting(config: Mapping[str, Any], key: str) -> Any:
    """The value at the dotted `key` of a nested configuration, None where there is none."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def deciding_settings(config: Mapping[str, Any], schema: Any = Config, prefix: str = "") -> dict[str, Any]:
    """The settings of a nested configuration that belong to a run's identity, by dotted key, in the schema's order.

    A key that the schema does not know (from a later version) counts as deciding.
    """
    fields = {f.name: f for f in dataclasses.fields(schema)}
    flat: dict[str, Any] = {}
    for key in [*(k for k in fields if k in config), *(k for k in config if k not in fields)]:
        field, value = fields.get(key), config[key]
        if field is not None and not declared(field).decides:
            continue
        if isinstance(value, Mapping):
            inner = field.type if field is not None and dataclasses.is_dataclass(field.type) else _Unknown
            flat |= deciding_settings(value, inner, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


@dataclass(frozen=True)
class _Unknown:
    """The schema of a group that is not in the schema."""


@cache
def default_settings() -> Mapping[str, Any]:
    """The deciding settings at the schema's defaults, by dotted key; the required ones are None."""
    least = parse({"model": {"name": ""}, "lr": {"value": 1.0}, "dataset": {"name": ""}})
    flat = deciding_settings(to_dict(least))
    return MappingProxyType(flat | {"model.name": None, "lr.value": None, "dataset.name": None})


def is_plain(name: str) -> bool:
    """Whether a network has no Farkas layers; of one that is not known here, nobody can say so."""
    network = NETWORKS.get(name)
    return network is not None and not network.farkas


def effective_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """All deciding settings, also those that an older record does not know, but for those without an effect.

    A plain network has no aggregation, a network without normalization none of its details, and with phases the rate
    is theirs. Two runs with the same effective settings differ in their seed alone.
    """
    flat = {**default_settings(), **deciding_settings(config)}
    if is_plain(str(flat["model.name"])):
        flat = {key: value for key, value in flat.items() if not key.startswith("aggregation.")}
    if flat["normalization.name"] == "none":
        flat = {k: v for k, v in flat.items() if not k.startswith("normalization.") or k == "normalization.name"}
    if flat["phases.schedule"]:
        flat = {key: value for key, value in flat.items() if not key.startswith("lr.")}
    return flat


_ARM_GROUPS = ("model.", "residual.", "normalization.", "aggregation.", "activation.", "init.", "lr.value")
_BUDGET = ("dataset.", "augmentation.", "epochs", "batch_size", "precision", "label_smoothing", "phases.")


def is_arm_setting(key: str) -> bool:
    """Whether the setting at `key` tells the arms of a paper's table apart; the others are that of the whole table."""
    return key.startswith(_ARM_GROUPS)


def common_setting(config: Mapping[str, Any]) -> dict[str, Any]:
    """The setting that the arms of a paper's table share: the deciding settings without those that tell arms apart."""
    return {key: value for key, value in deciding_settings(config).items() if not is_arm_setting(key)}


def budget(config: Mapping[str, Any]) -> dict[str, Any]:
    """What methods of any kind have to share to be compared: the data and the length of the training."""
    flat = {**default_settings(), **deciding_settings(config)}
    return {key: value for key, value in flat.items() if key.startswith(_BUDGET)}


def filter_keys() -> dict[str, str]:
    """Every key that runs can be chosen by, and the dotted key of the configuration that it means.

    A group stands for its name (`dataset=digits`), or for its value (`lr=0.1`).
    """
    keys: dict[str, str] = {}
    hints = typing.get_type_hints(Config)
    for f in dataclasses.fields(Config):
        if not dataclasses.is_dataclass(hints[f.name]):
            keys[f.name] = f.name
            continue
        names = [inner.name for inner in dataclasses.fields(hints[f.name])]
        keys |= {f"{f.name}.{name}": f"{f.name}.{name}" for name in names}
        short = next((name for name in ("name", "value") if name in names), None)
        if short:
            keys[f.name] = f"{f.name}.{short}"
    del keys["runs_dir"]
    return keys


def selected(records: Iterable[RunRecord], filters: Mapping[str, tuple[str, ...]]) -> list[RunRecord]:
    """The records whose configuration has one of the wanted values at every key of `filters`."""

    def fits(record: RunRecord) -> bool:
        config = {**record.config, "seed": record.seed}
        return all(any(_same(setting(config, key), text) for text in texts) for key, texts in filters.items())

    return [record for record in records if fits(record)]


def _same(value: Any, text: str) -> bool:
    if isinstance(value, bool) or value is None:
        return text.lower() == {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, (int, float)):
        try:
            return float(text) == float(value)
        except ValueError:
            return False
    return str(value) == text


def chance_error(run: RunRecord) -> float:
    """The error in percent of a guess among the classes of the run's data; 100 where their number is not known."""
    classes = _environment(run).get("classes")
    entry = DATASETS.get(str(_dataset(run)))
    known = entry and (entry.classes or entry.options.get("num_classes"))  # a run of an older version has not noted it
    classes = classes or setting(run.config, "dataset.num_classes") or known
    return 100.0 * (1 - 1 / classes) if isinstance(classes, int) and classes > 0 else 100.0


def has_failed(run: RunRecord) -> bool:
    """Whether a run with a result has failed to train; one without a finite error has, too."""
    return run.state == FAILED or (run.state == FINISHED and not math.isfinite(outcome(run, run.key("error"))))


def ranked_error(run: RunRecord) -> float:
    """The error that a run with a result counts with wherever arms are ranked or compared: chance if it has failed.

    Leaving failed runs out would favour what often fails.
    """
    return chance_error(run) if has_failed(run) else outcome(run, run.key("error"))


def fingerprint(run: RunRecord) -> str:
    """The fingerprint of the data that the run was trained on, empty where it is not known."""
    value = _environment(run).get("fingerprint")
    return value if isinstance(value, str) else ""


def by_data(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """The runs by the data that they were trained on. Those that do not know belong to the others if these agree."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(fingerprint(record), []).append(record)
    if len(groups) == 2 and "" in groups:
        (known,) = set(groups) - {""}
        return {known: list(records)}
    return groups


def _environment(run: RunRecord) -> dict[str, Any]:
    environment = read_json(RunDirectory(run.path).environment)
    data = environment.get("data") if isinstance(environment, dict) else None
    return data if isinstance(data, dict) else {}


def _dataset(run: RunRecord) -> Any:
    return setting(run.config, "dataset.name")
