"""The runs of a grid: every combination of its values, each once."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from farkas_exp.config import arms
from farkas_exp.config.composition import Compositions
from farkas_exp.config.texts import keep_texts
from farkas_exp.launch.planned import planned
from farkas_exp.launch.sweep import SweepWatch
from farkas_exp.machine.errors import UserError, message_of
from farkas_exp.runs.query import different_keys

MOST_RUNS = 1_000_000
"""A larger sweep is a slip, and would fill the memory before it began."""

Combination = tuple[str, ...]
"""The overrides of one run."""


def batches(
    loader: Any, config: DictConfig, params: Mapping[str, Any] | None, arguments: Sequence[str], size: Any
) -> list[tuple[int, list[Combination]]]:
    """The runs of a sweep in batches of at most `size` (None: one batch), each with the number of its first run.

    `params` is what the experiment sweeps over; the `arguments` of the command line come last.

    Raises:
        UserError: values that cannot be listed, no combination, or a wrong size.
        HydraException: a combination does not compose; none is begun.
    """
    if size is not None and (type(size) is not int or size < 1):
        raise UserError(f"hydra.sweeper.max_batch_size: expected a whole number of at least 1 or null, got {size!r}")
    if params is not None and not isinstance(params, Mapping):
        raise UserError(f"hydra.sweeper.params: expected KEY: VALUES pairs, got {params!r}")
    found = combinations(params, arguments, loader)
    kept = distinct(found, Compositions(loader, config))
    if SweepWatch.current is not None:
        SweepWatch.current.repeated = len(found) - len(kept)
        SweepWatch.current.tally.total, SweepWatch.current.varied = len(kept), varied(kept)
    size = len(kept) if size is None else size
    return [(first, kept[first : first + size]) for first in range(0, len(kept), size)]


def varied(found: Iterable[Combination]) -> frozenset[str]:
    """The keys that have more than one value among these combinations."""
    words = ([override.partition("=") for override in each] for each in found)
    return frozenset(different_keys({key: value for key, _, value in each} for each in words))


def combinations(params: Mapping[str, Any] | None, arguments: Sequence[str], loader: Any) -> list[Combination]:
    """Every combination of the values of an experiment (`params`) and of the command line (`arguments`)."""
    own = keep_texts([f"{key}={value}" for key, value in (params or {}).items()])
    given = [*own, *arguments]
    choices: dict[str, list[str]] = {}  # a later value of a key replaces an earlier one
    for override in OverridesParser.create(config_loader=loader).parse_overrides(given):
        choices[override.get_key_element()] = _values(override)
    if math.prod(map(len, choices.values())) > MOST_RUNS:
        raise UserError(f"this sweep has too many combinations; at most {MOST_RUNS:,} at once")
    return list(itertools.product(*choices.values()))


def _values(override: Override) -> list[str]:
    key, text = override.get_key_element(), str(override.input_line)
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}" if "=" in text else text]
    if not override.is_discrete_sweep():
        raise UserError(f"{text}: an interval is no list of values; list them, or search: hydra/sweeper=tpe")
    try:
        values = list(itertools.islice(override.sweep_string_iterator(), MOST_RUNS + 1))
    except (HydraException, ValueError, ArithmeticError, TypeError) as error:
        raise UserError(f"{text}: {message_of(error)}") from None
    if key == arms.GROUP and set(values) <= set(order := arms.offered()):
        values.sort(key=order.index)
    if not values:
        raise UserError(f"{text}: no values, so the sweep would have no runs")
    return [f"{key}={value}" for value in values]


def distinct(found: Iterable[Combination], compositions: Compositions) -> list[Combination]:
    """The combinations, without those that mean the same as an earlier one.

    Raises:
        HydraException: one of them does not compose; none is begun.
    """
    first: dict[Any, Combination] = {}
    for combination in found:
        meaning: Any = combination
        with suppress(UserError, OmegaConfBaseException):  # reported by its own job, which leaves the others alone
            meaning = SweepWatch.known[combination] = planned(compositions.values(combination))
        first.setdefault(meaning, combination)
    return list(first.values())
