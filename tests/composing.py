"""The configurations of the documented experiments, as the sweeps compose them."""

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from farkas_exp.config import Config, arms
from farkas_exp.config.composition import Compositions
from farkas_exp.config.store import config_dir, tell_hydra
from farkas_exp.launch.planned import planned


def composed(*overrides: str) -> Config | None:
    """The configuration with these overrides; None where the arm is not for the network."""
    experiment = dict(override.split("=", 1) for override in overrides).get("experiment", "")
    compositions, _ = of_experiment(experiment)
    made = planned(compositions.values(overrides))
    return made if isinstance(made, Config) else None


@cache
def jobs(experiment: str, *given: str) -> tuple[Config, ...]:
    """The configurations of all jobs of an experiment's sweep that its arms are for, in their order.

    An override in `given` takes the place of the sweep's own, as on the command line. Jobs that differ in their seed
    alone are composed once.
    """
    values = dict(override.split("=", 1) for override in given)
    sweep = {key: values.pop(key, value) for key, value in sweep_of(experiment).items()}
    if sweep.get("arm") == "glob(*)":
        sweep["arm"] = ",".join(own_arms(experiment))
    seeds = [int(seed) for seed in str(sweep.pop("seed")).split(",")]
    choices = [[f"{key}={value}" for value in str(several).split(",")] for key, several in sweep.items()]
    fixed = [f"{key}={value}" for key, value in values.items()]
    composed_jobs = [composed(f"experiment={experiment}", *fixed, *job) for job in itertools.product(*choices)]
    return tuple(replace(job, seed=seed) for job in composed_jobs if job is not None for seed in seeds)


def sweep_of(experiment: str) -> dict[str, str]:
    """What an experiment sweeps over."""
    _, master = of_experiment(experiment)
    assert str(master.hydra.mode).endswith("MULTIRUN")
    return {str(key): value for key, value in master.hydra.sweeper.params.items()}


@cache
def own_arms(experiment: str) -> dict[str, arms.Arm]:
    """The arms that an experiment's file names."""
    return arms.arms_of(experiment, [Path(config_dir())])


def of_experiment(experiment: str, *for_hydra: str) -> tuple[Compositions, DictConfig]:
    """What composes an experiment's runs ("": those of none), and the configuration of its whole sweep."""
    repo = ConfigStore.instance().repo
    repo.pop(arms.GROUP, None)  # another experiment's
    repo.update(offers(experiment))
    return made_for(experiment, *for_hydra)


@cache
def offers(experiment: str) -> dict[str, Any]:
    """The group of the experiment's arms in Hydra's store, as `arms.offer` makes it."""
    arms.offer(own_arms(experiment))
    repo = ConfigStore.instance().repo
    return {arms.GROUP: repo[arms.GROUP]} if arms.GROUP in repo else {}


@cache
def made_for(experiment: str, *for_hydra: str) -> tuple[Compositions, DictConfig]:
    """`of_experiment`, once its arms are offered."""
    tell_hydra()
    of_it = [f"experiment={experiment}"] if experiment else []
    with initialize_config_dir(config_dir(), version_base="1.3"):
        master = compose("config", [*of_it, *for_hydra], return_hydra_config=True)
        return Compositions(GlobalHydra.instance().config_loader(), master), master


def arm(made: Config) -> tuple[Any, ...]:
    """What tells the arms of the paper's tables apart: network, normalization, rate, aggregation, initialization."""
    aggregation = made.aggregation.name if "farkas" in made.model.name else None
    return (made.model.name, made.normalization.name, made.lr.value, aggregation, made.init.name)
