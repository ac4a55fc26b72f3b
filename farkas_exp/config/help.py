"""The text of `--help`: the config groups with their choices, read from the YAML files, and an example of each.

Hydra's own help composes the configuration once for each choice, which takes seconds.
"""

from pathlib import Path
from typing import get_args

from farkas_exp.config.extensions import registries
from farkas_exp.config.options import shown
from farkas_exp.config.parsing import schema_defaults
from farkas_exp.config.schema import Tracker
from farkas_exp.registry import MEASURES

USAGE = """\
How do deep networks train without normalization?

  python -m farkas_exp [GROUP=CHOICE ...] [KEY=VALUE ...]     one run
  python -m farkas_exp -m GROUP=CHOICE,CHOICE KEY=1,2 ...     every combination
  python -m farkas_exp experiment=NAME [arm=NAME,NAME ...]    a prepared set of runs, or some of its arms
  python -m farkas_exp.report runs_dir=runs                   tables and figures of what has run
  python -m farkas_exp evaluate | export | compare | prune --help     what is done with runs that are there
  python -m farkas_exp --check-data dataset=imagenet dataset.root=...    decode every file, name the broken ones
"""

EXAMPLES = {
    "model": "farkasnet34",
    "normalization": "batch",
    "aggregation": "mean",
    "activation": "elu",
    "init": "zero_last",
    "lr": "medium",
    "optimizer": "adam",
    "dataset": "digits",
    "augmentation": "crop_flip",
    "experiment": "demo",
}
"""An example for each group; other groups show their first choice."""


def choices(config_dir: Path) -> dict[str, list[str]]:
    """The config groups and their choices, files or registered without one; without Hydra's own."""
    groups = sorted(
        path for path in config_dir.iterdir() if path.is_dir() and path.name not in ("hydra", "__pycache__")
    )
    return {
        group.name: sorted({*(path.stem for path in group.glob("*.yaml")), *registries().get(group.name, ())})
        for group in groups
    }


def help_text(config_dir: Path) -> str:
    """The whole text of `--help`."""
    lines = [USAGE, "Groups and their choices (GROUP=CHOICE), with an example:\n"]
    for group, names in choices(config_dir).items():
        lines.append(f"  {group}: {', '.join(names)}")
        lines.append(f"      {group}={EXAMPLES.get(group, names[0])}")
    lines.append(
        "\nKeys and their defaults (KEY=VALUE), for example epochs=20 seed=1 lr.value=0.03; ??? is set by its group:\n"
    )
    for key, value in schema_defaults().items():
        if isinstance(value, dict):
            inner = "  ".join(f"{name}={shown(default)}" for name, default in value.items())
            lines.append(f"  {key}.  {inner}")
        else:
            lines.append(f"  {key}={shown(value)}")
    lines.append(
        f"\nWhat diagnostics.measures may list: {', '.join(MEASURES)}.  tracking: {', '.join(get_args(Tracker))}."
    )
    lines.append("\nThe composed configuration: --cfg job.  Flags of Hydra, multirun and completion: --hydra-help.")
    return "\n".join(lines)
