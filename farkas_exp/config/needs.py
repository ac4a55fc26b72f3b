"""What an option needs to have an effect: a choice of its group, a value above 0, a kind of network or data set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeVar

from farkas_exp.registry import DATASETS, NETWORKS, Entry, Network, Registry

E = TypeVar("E", bound=Entry)

MOST_NAMED = 6
"""The most choices that a message lists."""


@dataclass(frozen=True)
class Need:
    """A condition on the configuration without which an option does nothing.

    Attributes:
        words: what is missing, as one writes it: regularizer.name=norm_bias; or a function of the configuration.
        is_met: whether a configuration meets it.
    """

    words: str | Callable[[Any], str]
    is_met: Callable[[Any], bool]

    def words_for(self, config: Any) -> str:
        """What this configuration lacks."""
        return self.words if isinstance(self.words, str) else self.words(config)


def one_of(key: str, known: Sequence[str]) -> str:
    """The choices `known` at a key, as one writes them."""
    return f"{key}={' or '.join(known)}"


def choice(group: str, *known: str) -> Need:
    """The need for one of the choices `known` of a group."""
    key = f"{group}.name"
    return Need(one_of(key, known), lambda config: attrgetter(key)(config) in known)


def positive(key: str) -> Need:
    """The need for a value above 0 at `key`."""
    return Need(f"{key} > 0", lambda config: attrgetter(key)(config) > 0)


def kind(registry: Registry[E], is_met: Callable[[E], bool], words: str | Callable[[str], str] | None = None) -> Need:
    """A need for an entry of a certain kind. An unknown name passes: it is refused elsewhere.

    `words` may be a function of the name that is there; by default they list the entries of this kind.
    """

    def of(config: Any) -> bool:
        entry = registry.get(registry.name_in(config))
        return entry is None or is_met(entry)

    def named(config: Any) -> str:
        if callable(words):
            return words(registry.name_in(config))
        return one_of(registry.key, [name for name in sorted(registry) if is_met(registry[name])])

    return Need(words if isinstance(words, str) else named, of)


def network(words: str, is_met: Callable[[Network], bool]) -> Need:
    """The need for a kind of network."""
    return kind(NETWORKS, is_met, lambda name: f"{words}, not {name}")


def own_option(registry: Registry[Any], option: str) -> Need:
    """The need for a choice that has this option."""
    group = registry.key.removesuffix(".name")

    def words(name: str) -> str:
        having = [each for each in registry if option in registry[each].options]
        if len(having) <= MOST_NAMED:
            return one_of(registry.key, having)
        own = ", ".join(f"{group}.{key}" for key in registry[name].options) or "none"
        return f"another {registry.key}: the options of {name} are {own}"

    return kind(registry, lambda entry: option in entry.options, words)


FARKAS = network("a network of Farkas layers", lambda entry: entry.farkas)
APPENDED = network("a network with Algorithm 2's residual layers", lambda entry: entry.appends)
NORMALIZABLE = network("a network that takes a normalization", lambda entry: bool(entry.positions))
ACTIVATED = network("a network with activations", lambda entry: entry.activated)
SPATIAL = network("a network of convolutions", lambda entry: entry.spatial)
ANY_HEAD = network("a network that chooses its last layer", lambda entry: entry.chooses_head)
OWN_RATES = network("a network with FixUp's scalar parameters", lambda entry: entry.scalars)
SHARED_DECAY = Need(
    "optimizer.scalars=common, as FixUp's own rule decays everything",
    lambda config: not OWN_RATES.is_met(config) or config.optimizer.scalars == "common",
)
MEAN_FILL = Need("augmentation.cutout_fill=mean", lambda config: config.augmentation.cutout_fill == "mean")
NO_PHASES = Need("phases=none", lambda config: not config.phases.schedule)
STEPPED = Need("lr.schedule=steps", lambda config: config.lr.schedule == "steps")
MILESTONES = Need("lr.milestones", lambda config: bool(config.lr.milestones))
WITH_LOSS = Need("regularizer.alone=false", lambda config: not config.regularizer.alone)
PHASES = Need("phases", lambda config: bool(config.phases.schedule))
STREAMED = kind(DATASETS, lambda entry: entry.streamed)
IMAGE_FOLDER = kind(DATASETS, lambda entry: entry.image_files)
IN_MEMORY = kind(DATASETS, lambda entry: entry.pixels and not entry.streamed, "images in memory")
PIXELS = kind(DATASETS, lambda entry: entry.pixels, "images, not points")
