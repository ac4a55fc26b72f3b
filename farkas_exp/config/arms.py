"""The arms of an experiment: what it compares, each a list of overrides on top of the experiment's values.

An experiment's file lists them (`arms:`); its sweep runs all of them, or those of `arm=he,bn`. To Hydra they are the
choices of a group `arm` that is merged after the experiment: the command line wins over an arm, and an arm over the
experiment.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from farkas_exp.config.texts import keep_texts, read_yaml
from farkas_exp.machine.errors import UserError

GROUP = "arm"
OF_A_SWEEP = ("arms", "only_for")
"""Keys of a composed configuration that belong to a sweep, not to a run."""


@dataclass(frozen=True)
class Arm:
    """One arm: the choices and values that it sets.

    `label` is its name in tables and W&B (None: its settings); `only_for`, patterns of the networks that it is for.
    """

    name: str
    choices: Mapping[str, str]
    values: Mapping[str, Any]
    label: str | None = None
    only_for: tuple[str, ...] = ()

    def node(self) -> dict[str, Any]:
        """The arm as a choice of a Hydra group."""
        values: dict[str, Any] = {}
        for key, value in self.values.items():
            *groups, last = key.split(".")
            inner = values
            for group in groups:
                inner = inner.setdefault(group, {})
            inner[last] = value
        about = {GROUP: self.label} if self.label else {}
        about |= {"only_for": list(self.only_for)} if self.only_for else {}
        overrides = [{f"override /{group}": choice} for group, choice in self.choices.items()]
        return {"defaults": overrides, **values, **about} if overrides else {**values, **about}


def arms_of(experiment: str, folders: Sequence[Path], built_on_it: tuple[str, ...] = ()) -> dict[str, Arm]:
    """The arms of an experiment, in the order of its file, taken from the first of the `folders` that has it.

    Raises:
        UserError: a malformed arm or defaults list, or one that leads back to an experiment that is `built_on_it`.
        yaml.YAMLError: the file is no YAML.
    """
    for folder in folders:
        path = folder / "experiment" / f"{experiment}.yaml"
        if not path.is_file():
            continue
        with open(path, "rb") as file:
            found = read_yaml(file)
        if not isinstance(found, dict):
            return {}
        if "arms" in found:
            arms = found["arms"]
            if not isinstance(arms, dict):
                raise UserError(f"{path}: arms: expected NAME: [OVERRIDE, ...] pairs, got {arms!r}")
            return {str(name): _arm(str(name), entry, folders, path) for name, entry in arms.items()}
        defaults, below = found.get("defaults") or [], (*built_on_it, experiment)
        if not isinstance(defaults, list):
            raise UserError(f"{path}: defaults: expected a list, got {defaults!r}")
        names = [entry.removeprefix("/experiment/") for entry in defaults if isinstance(entry, str)]
        if circle := set(names) & set(below):
            raise UserError(f"{path}: defaults: {circle.pop()} is built on this experiment itself")
        return next((arms for name in names if (arms := arms_of(name, folders, below))), {})
    return {}


def _arm(name: str, entry: Any, folders: Sequence[Path], path: Path) -> Arm:
    where = f"{path}: arms.{name}"
    entry = {"set": entry} if isinstance(entry, list) else entry
    if not isinstance(entry, dict) or not set(entry) <= {"label", "only_for", "set"}:
        raise UserError(f"{where}: expected a list of overrides, or label, only_for and set, got {entry!r}")
    label, networks, overrides = entry.get("label"), entry.get("only_for", []), entry.get("set", [])
    if not isinstance(networks, list) or not isinstance(overrides, list) or not isinstance(label, str | None):
        raise UserError(f"{where}: expected lists at only_for and set and a text at label")
    choices, values = {}, {}
    for text in keep_texts([str(override) for override in overrides]):
        refusal = UserError(f"{where}: {text!r} is not KEY=VALUE")
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            raise refusal from None
        if override.is_sweep_override() or override.is_add() or override.is_delete():
            raise refusal
        key, value = override.key_or_group, override.value()
        if any((folder / key).is_dir() for folder in folders):
            choices[key] = str(value)
        else:
            values[key] = value
    return Arm(name, choices, values, label, tuple(map(str, networks)))


def named(argument: str, arms: Mapping[str, Arm]) -> str:
    """`arm=NAME,NAME` with labels replaced by names: `arm=He` by `arm=he`. Any other argument is returned unchanged."""
    key, equals, text = argument.partition("=")
    if key != GROUP or not equals or set("([{'\"$") & set(text):
        return argument
    short = {_simple(arm.label): name for name, arm in arms.items() if arm.label}
    short |= {_simple(name): name for name in arms}
    parts = [part.strip() for part in text.split(",")]
    return f"{GROUP}={','.join(part if part in arms else short.get(_simple(part), part) for part in parts)}"


def _simple(name: str) -> str:
    return re.sub(r"\W+", "_", name.casefold()).strip("_")


def offer(arms: Mapping[str, Arm]) -> None:
    """Make these arms, and no others, the choices of Hydra's group `arm`."""
    store = ConfigStore.instance()
    store.repo.pop(GROUP, None)
    for arm in arms.values():
        store.store(group=GROUP, name=arm.name, node=arm.node(), package="_global_")


def offered() -> list[str]:
    """The names of the offered arms, in order."""
    return [name.removesuffix(".yaml") for name in ConfigStore.instance().repo.get(GROUP, {})]


def with_arms(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Every experiment that has arms, with their names."""
    found: dict[str, list[str]] = {}
    for path in sorted(path for folder in folders for path in (folder / "experiment").glob("*.yaml")):
        try:
            arms = arms_of(path.stem, folders)
        except (UserError, yaml.YAMLError, OSError):
            continue  # reported when that experiment is requested
        if arms:
            found[path.stem] = list(arms)
    return found


def of_run(values: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The values of a run without those of its sweep, and why to pass it over (None: do not)."""
    run = {key: value for key, value in values.items() if key not in OF_A_SWEEP}
    patterns = [str(pattern) for pattern in values.get("only_for") or ()]
    model = values.get("model")
    name = str(model.get("name")) if isinstance(model, dict) else ""
    if patterns and not any(fnmatchcase(name, pattern) for pattern in patterns):
        return run, f"this arm is for {', '.join(patterns)}"
    return run, None
