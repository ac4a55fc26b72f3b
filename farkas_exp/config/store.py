"""The choices of the groups: their files, and those that other packages register, told to Hydra with the schema."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from farkas_exp.config.extensions import registries
from farkas_exp.config.parsing import schema_defaults
from farkas_exp.registry import load_plugins


@functools.cache
def config_dir() -> str:
    """The folder of the YAML files: inside the installed package, or `conf/` of a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "conf"
    return str(installed if installed.is_dir() else package.parent / "conf")


def choice_of(group: str, name: str) -> dict[str, Any]:
    """The keys that `GROUP=NAME` sets in its group; a name without a file sets nothing but the name."""
    if not is_choice(group, name):
        return {"name": name}
    values: dict[str, Any] = yaml.safe_load(_file(group, name).read_text(encoding="utf-8")) or {}
    return values.get(group, values)


def is_choice(group: str, name: str) -> bool:
    """Whether `GROUP=NAME` is a choice with a file."""
    return _file(group, name).is_file()


def _file(group: str, name: str) -> Path:
    return Path(config_dir()) / group / f"{name}.yaml"


def tell_hydra(overrides: Sequence[str] = ()) -> None:
    """Load the plugins, including those in the overrides, and store the schema and every choice without a file."""
    load_plugins(named_plugins(overrides))
    store = ConfigStore.instance()
    store.store(name="schema", node=schema_defaults())
    for group, entries in registries().items():
        for name in entries:
            if not is_choice(group, name):
                store.store(group=group, name=name, node={"name": name})


def named_plugins(overrides: Sequence[str]) -> list[str]:
    """The modules of the last `plugins=[...]` among the overrides."""
    found: list[str] = []
    for override in overrides:
        if override.startswith("plugins="):
            try:
                value = OverridesParser.create().parse_override(override).value()
            except HydraException:  # reported with the other overrides
                continue
            found = [str(module) for module in value] if isinstance(value, list) else []
    return found
