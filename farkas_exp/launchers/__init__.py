"""How the runs of a sweep are composed, and spread over the processes of one machine or the jobs of a cluster."""

import importlib

from hydra.core.plugins import Plugins

PLUGINS = {
    "GridSweeper": "farkas_exp.launchers.grid",
    "LocalParallelLauncher": "farkas_exp.launchers.local_parallel",
    "SlurmLauncher": "farkas_exp.launchers.slurm",
}


def register() -> None:
    """Make our launchers and our sweeper known to Hydra, which takes plugins from its namespace `hydra_plugins` only.

    The Slurm launcher is left out where hydra-submitit-launcher is not installed.
    """
    known = Plugins.instance().class_name_to_class
    for name, module in PLUGINS.items():
        try:
            known[f"hydra_plugins.farkas_exp.{name}"] = getattr(importlib.import_module(module), name)
        except ImportError:
            continue
