"""What an option needs to have an effect: a choice of its group, a value above 0, a kind of network or data set."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from farkas_exp.registry import (
    DATASETS,
    INITIALIZATIONS,
    NETWORKS,
    NORMALIZATIONS,
    OPTIMIZERS,
    Dataset,
    Network,
    Registry,
)

MOST_NAMED = 6
"""The most choices that a message lists."""


@dataclass(frozen=True)
class Need:
    """A condition on the configuration without which an option does nothing.

    Attributes:
        words: what is missing, as one writes it: regularizer.name=norm_bias.
        is_met: whether a configuration meets it.
        example: settings that meet it, by dotted key.
    """

    words: str | Callable[[Any], str]
    is_met: Callable[[Any], bool]
    example: Mapping[str, Any]


def choice(group: str, *known: str) -> Need:
    """The need for one of the choices `known` of a group."""
    key, which = f"{group}.name", " or ".join(known)
    return Need(f"{key}={which}", lambda config: at(config, key) in known, {key: known[0]})


def chosen(group: str, example: str) -> Need:
    """The need for a choice of a group other than none."""
    key = f"{group}.name"
    return Need(f"another {key} than none", lambda config: at(config, key) != "none", {key: example})


def positive(key: str, example: float) -> Need:
    """The need for a value above 0 at `key`."""
    return Need(f"{key} > 0", lambda config: at(config, key) > 0, {key: example})


def at(config: Any, key: str) -> Any:
    """The value at a dotted key."""
    return functools.reduce(getattr, key.split("."), config)


def network(words: str, is_met: Callable[[Network], bool], example: str = "farkasnet18") -> Need:
    """The need for a kind of network; an unknown name meets it, since it is refused elsewhere."""

    def of(config: Any) -> bool:
        entry = NETWORKS.get(config.model.name)
        return entry is None or is_met(entry)

    return Need(lambda config: f"{words}, not {config.model.name}", of, {"model.name": example})


def own_option(registry: Registry[Any], option: str, example: str) -> Need:
    """The need for a choice that has this option."""
    *_, group, _ = registry.key.split(".")

    def name_in(config: Any) -> str:
        return getattr(config, group).name

    def is_met(config: Any) -> bool:
        entry = registry.get(name_in(config))
        return entry is None or option in entry.options

    def words(config: Any) -> str:
        having = [name for name in registry if option in registry[name].options]
        if len(having) <= MOST_NAMED:
            return f"{registry.key}={' or '.join(having)}"
        own = ", ".join(f"{group}.{name}" for name in registry[name_in(config)].options) or "none"
        return f"another {registry.key}: the options of {name_in(config)} are {own}"

    return Need(words, is_met, {registry.key: example})


def data_set(is_met: Callable[[Dataset], bool], example: str) -> Need:
    """The need for a kind of data set; an unknown name meets it, since it is refused elsewhere."""

    def of(config: Any) -> bool:
        entry = DATASETS.get(config.dataset.name)
        return entry is None or is_met(entry)

    def words(config: Any) -> str:
        return f"dataset.name={' or '.join(name for name in sorted(DATASETS) if is_met(DATASETS[name]))}"

    return Need(words, of, {"dataset.name": example})


architecture = functools.partial(own_option, NETWORKS)
normalization = functools.partial(own_option, NORMALIZATIONS)
initialization = functools.partial(own_option, INITIALIZATIONS)
optimizer = functools.partial(own_option, OPTIMIZERS)
data_option = functools.partial(own_option, DATASETS)

FARKAS = network("a network of Farkas layers", lambda entry: entry.farkas)
APPENDED = network("a network with Algorithm 2's residual layers", lambda entry: entry.appends)
NORMALIZABLE = network("a network that takes a normalization", lambda entry: bool(entry.positions))
ACTIVATED = network("a network with activations", lambda entry: entry.activated)
SPATIAL = network("a network of convolutions", lambda entry: entry.spatial)
ANY_HEAD = network("a network that chooses its last layer", lambda entry: entry.chooses_head)
OWN_RATES = network("a network with FixUp's scalar parameters", lambda entry: entry.scalars, "fixup34")
SHARED_DECAY = Need(
    "optimizer.scalars=common, as FixUp's own rule decays everything",
    lambda config: not OWN_RATES.is_met(config) or config.optimizer.scalars == "common",
    {},
)
MEAN_FILL = Need("augmentation.cutout_fill=mean", lambda config: config.augmentation.cutout_fill == "mean", {})
NO_PHASES = Need("phases=none", lambda config: not config.phases.schedule, {})
STEPPED = Need("lr.schedule=steps", lambda config: config.lr.schedule == "steps", {"lr.schedule": "steps"})
_PHASE = {"until": 9, "image_size": 32, "batch_size": 8, "lr_from": 0.1, "lr_to": 0.01}
PHASES = Need(
    "phases",
    lambda config: bool(config.phases.schedule),
    {"phases.name": "own", "phases.schedule": [_PHASE], "dataset.name": "streamed_folder"},
)
STREAMED = data_set(lambda entry: entry.streamed, "streamed_folder")
IMAGE_FOLDER = data_set(lambda entry: entry.image_files, "image_folder")
IN_MEMORY = replace(data_set(lambda entry: entry.pixels and not entry.streamed, "digits"), words="images in memory")
PIXELS = replace(data_set(lambda entry: entry.pixels, "digits"), words="images, not points")
METHOD = chosen("regularizer", "sep_up")
SEPARATION = choice("regularizer", "sep_up", "sep_u", "sep_p")
PROJECTED = chosen("callback", "rank_min")
ATTACKED = chosen("attack", "pgd")
