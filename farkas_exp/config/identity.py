"""What makes two runs the same experiment.

The identity of a run is a hash of every configuration value that decides its numbers, not of its seed, paths, device
or loggers (`config.outside`). Values at the schema's default are left out, so a new option changes no known hash;
`SCHEMA` is raised when the meaning of an existing value changes. Runs of one identity differ only in their seed: they
are the repetitions that a table averages over.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from farkas_exp.config.options import declared
from farkas_exp.config.schema import Config
from farkas_exp.registry import METHOD_GROUPS, NETWORKS

SCHEMA = 1
"""Version of the meaning of the configuration; part of every hash."""
LONGEST_SLUG = 200
"""Bytes; file systems take names of 255."""


@dataclass(frozen=True)
class Identity:
    """The identity of a run: `hash` decides, `slug` is for the reader."""

    hash: str
    slug: str

    @property
    def folder(self) -> str:
        """The folder that holds the seeds of this identity."""
        return f"{self.slug}-{self.hash}"


def identify(config: Config) -> Identity:
    """The identity of `config`."""
    payload = {"schema": SCHEMA, "config": deciding_values(config)}
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return Identity(hashlib.sha256(text.encode()).hexdigest()[:12], _slug(config))


def deciding_values(config: Any, whole: Any = None) -> dict[str, Any]:
    """The values that belong to the identity and differ from the schema's defaults, nested as in `config`.

    A tolerated or required value that does nothing in the `whole` configuration (default: `config`) does not count.
    """
    whole = config if whole is None else whole
    values: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        own, value = declared(f), getattr(config, f.name)
        required = f.default is dataclasses.MISSING
        if not own.decides or ((own.tolerated or required) and own.unmet(whole)):
            continue
        if dataclasses.is_dataclass(value):
            inner = deciding_values(value, whole)
            if inner:
                values[f.name] = inner
        elif required or value != f.default:
            if isinstance(value, tuple):  # of a phase of a schedule what differs from its defaults
                value = [deciding_values(each) if dataclasses.is_dataclass(each) else each for each in value]
            values[f.name] = value
    return values


def _slug(config: Config) -> str:
    """A readable name made of the main choices; never parsed."""
    parts = [f"debug_{config.debug}"] if config.debug else []
    parts += [config.model.name, config.normalization.name]
    if config.weight.name != "none":
        parts.append(config.weight.name)
    if NETWORKS[config.model.name].farkas:
        parts.append(config.aggregation.name)
    if config.init.name != "pytorch":
        parts.append(config.init.name)
    if config.head.name != "linear":
        parts.append(config.head.name)
    parts += [name for group in METHOD_GROUPS if (name := group.name_in(config)) != "none"]
    schedule = config.phases.name if config.phases.schedule else f"lr{config.lr.value:g}"
    parts += [config.dataset.label or config.dataset.name, schedule, f"e{config.epochs}"]
    text = "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in part) for part in parts)
    return text.encode()[:LONGEST_SLUG].decode(errors="ignore")
