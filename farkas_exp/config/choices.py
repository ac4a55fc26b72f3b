"""What a choice of a group sets, without Hydra: for Python, where a group is asked for by name."""

from pathlib import Path
from typing import Any

import yaml

from farkas_exp.config.store import config_dir


def choice_of(group: str, name: str) -> dict[str, Any]:
    """The keys that `GROUP=NAME` sets in its group; a name without a file sets nothing but the name."""
    file = Path(config_dir()) / group / f"{name}.yaml"
    if not file.is_file():
        return {"name": name}
    values: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return values.get(group, values)
