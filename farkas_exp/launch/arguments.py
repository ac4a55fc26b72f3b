"""Check a command line before Hydra sees it, whose errors would be long or name no key."""

import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString, ValueType

from farkas_exp.config import arms
from farkas_exp.config.help import choices
from farkas_exp.config.options import shown
from farkas_exp.config.store import config_dir
from farkas_exp.launch.complaints import unknown_to_hydra
from farkas_exp.launch.local_parallel import visible_gpus
from farkas_exp.machine.errors import UserError, unknown


def packing(arguments: Sequence[str]) -> list[str]:
    """The overrides that `packing=N` stands for: the local launcher with N processes for each GPU.

    There are none if the command line names a launcher itself.
    """
    values = [argument.partition("=")[2] for argument in arguments if argument.startswith("packing=")]
    if not values or not values[-1].isdecimal() or any(a.startswith("hydra/launcher=") for a in arguments):
        return []
    processes = int(values[-1]) * max(1, len(visible_gpus()))
    return [] if processes < 2 else ["hydra/launcher=local_parallel", f"hydra.launcher.n_jobs={processes}"]


def checked(arguments: Sequence[str]) -> list[str]:
    """The arguments, with arms by the names of the experiment's file; offer these arms to Hydra."""
    parser = get_args_parser()
    parser.error = _refuse_flag  # type: ignore[method-assign]
    flags = parser.parse_args(list(arguments))
    folders = [Path(config_dir()), *([Path(flags.config_dir)] if flags.config_dir else [])]
    groups = choices(folders[0])
    overrides = []
    for text in flags.overrides:
        if not text.startswith(f"{arms.GROUP}="):  # checked below, once the experiment is known
            (override,) = OverridesParser.create().parse_overrides([text])
            _check_override(text, override, groups)
            overrides.append(override)
    experiment, found = _experiment(overrides, folders)
    named = [arms.named(argument, found) for argument in arguments]
    for text in named:
        if text.startswith(f"{arms.GROUP}="):
            _check_arm(text, experiment, found, folders)
    arms.offer(found)
    return named


def _check_override(text: str, override: Override, groups: Mapping[str, Sequence[str]]) -> None:
    key = override.key_or_group
    if not key:
        raise UserError(f"{text}: a key is missing before the equals sign; write KEY=VALUE")
    if key in ("hydra", "hydra.callbacks", "hydra.launcher", "hydra.sweeper") or key.startswith(
        "hydra.callbacks.sweep"
    ):
        raise UserError(f"{key}: cannot be changed as a whole; single values: hydra.KEY=VALUE")
    if key.startswith("hydra."):
        _check_key_of_hydra(key, override)
    if key.startswith("hydra/"):
        of_hydra = [f"hydra/{group}" for each in HydraConf().defaults for group in each]
        if key not in of_hydra:
            raise unknown("hydra", key, of_hydra)
        if override.value() is None:
            raise UserError(f"{text}: expected the name of a choice, such as hydra/launcher=local_parallel")
    by_optuna = key == "hydra/sweeper" and override.value() in ("tpe", "optuna")
    if by_optuna and importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        raise UserError(f"{text}: needs hydra-optuna-sweeper; pip install 'farkas-exp[search]'")
    if key in groups and not override.is_delete() and not all(isinstance(value, str) for value in _values(override)):
        given = text.partition("=")[2]
        raise UserError(f"{unknown(key, given, groups[key])} (single values: {key}.KEY=VALUE)")


def _check_key_of_hydra(key: str, override: Override) -> None:
    """Refuse what Hydra would add unseen, or refuse in a text of several lines."""
    if error := unknown_to_hydra(key):
        raise error
    kept = key.startswith(_OPEN) and not re.fullmatch(r"hydra\.launcher\.\w+", key)
    if override.is_delete() and not kept:
        raise UserError(f"{key}: cannot be deleted; set it: {key}=VALUE")
    if re.fullmatch(r"hydra\.callbacks\.\w+", key) and not isinstance(override.value(), dict | None):
        raise UserError(f"{key}: expected a callback, {{_target_: CLASS}}, or null; got {override.value()!r}")


_OPEN = ("hydra.callbacks.", "hydra.launcher.", "hydra.sweeper.", "hydra.hydra_logging.", "hydra.job_logging.")
"""Where the keys are those of a chosen entry, and can be fewer."""


def _experiment(overrides: Sequence[Override], folders: Sequence[Path]) -> tuple[str | None, dict[str, arms.Arm]]:
    """The requested experiment and its arms."""
    asked = [override for override in overrides if override.key_or_group == "experiment"]
    if any(override.is_sweep_override() for override in asked):
        raise UserError("experiment: one at a time, since each is a sweep of its own")
    name = asked[-1].value() if asked else None
    return (name, arms.arms_of(name, folders)) if isinstance(name, str) else (None, {})


def _check_arm(text: str, experiment: str | None, found: dict[str, arms.Arm], folders: Sequence[Path]) -> None:
    """Refuse an arm that the experiment does not have."""
    if not found:
        where = f"experiment={experiment} has no arms" if experiment else "this is for an experiment with arms"
        raise UserError(f"arm: {where}; with arms: {', '.join(arms.with_arms(folders))}")
    (override,) = OverridesParser.create().parse_overrides([text])
    for each in _values(override):
        if str(each) not in found:
            raise unknown("arm", shown(each), found)


def _values(override: Override) -> Iterable[Any]:
    """The value of an override, or each value of a sweep; none of a glob, which chooses among those that there are."""
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        return ()
    if not (override.is_sweep_override() and override.is_discrete_sweep()):
        return (override.value(),)
    return (each.text if isinstance(each, QuotedString) else each for each in override.sweep_iterator())


def _refuse_flag(message: str) -> NoReturn:
    raise UserError(f"{message}; flags: see --hydra-help")
