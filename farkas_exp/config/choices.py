"""What a choice of a group sets, without Hydra: for Python, where a group is asked for by name."""

from pathlib import Path
from typing import Any

import yaml

from farkas_exp.config.store import config_dir


def choice_of(group: str, name: str) -> dict[str, Any]:
    """The keys that `GROUP=NAME` sets in its group; a name without a file sets nothing but the name."""
    if not is_choice(group, name):
        return {"name": name}
    values: dict[str, Any] = yaml.safe_load(_file(group, name).read_text(encoding="utf-8")) or {}
    return values.get(group, values)


def is_choice(group: str, name: str) -> bool:
    """Whether `GROUP=NAME` is a choice."""
    return _file(group, name).is_file()


def _file(group: str, name: str) -> Path:
    return Path(config_dir()) / group / f"{name}.yaml"
