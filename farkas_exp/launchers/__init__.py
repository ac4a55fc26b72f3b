"""How the runs of a sweep are spread: over the processes of one machine, or over the jobs of a Slurm cluster."""

import importlib

from hydra.core.plugins import Plugins

LAUNCHERS = {
    "LocalParallelLauncher": "farkas_exp.launchers.local_parallel",
    "SlurmLauncher": "farkas_exp.launchers.slurm",
}


def register() -> None:
    """Make our launchers known to Hydra, which takes plugins from its namespace `hydra_plugins` only.

    The Slurm launcher is left out where hydra-submitit-launcher is not installed.
    """
    known = Plugins.instance().class_name_to_class
    for name, module in LAUNCHERS.items():
        try:
            known[f"hydra_plugins.farkas_exp.{name}"] = getattr(importlib.import_module(module), name)
        except ImportError:
            continue
