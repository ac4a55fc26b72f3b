"""The launchers of `conf/hydra/launcher`.

Hydra takes plugins from this namespace only, and imports all of them at each start; `farkas_exp.launch` does the work,
and is imported only when a sweep needs it.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class _LazyLauncher(Launcher):
    module: str
    """Its `launch(settings, work, runs)` does the work."""

    def __init__(self, **settings: Any) -> None:
        self.settings: dict[str, Any] = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in settings.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what the jobs need."""
        self.context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train the runs with these overrides, numbered from `initial_job_idx` on, and return their objectives."""
        from farkas_exp.launch import jobs
        from farkas_exp.launch.sweep import Sweep, SweepWatch

        work = jobs.Work(self.context, self.config, self.task_function, SweepWatch.current or Sweep.of(self.config))
        runs = jobs.numbered(job_overrides, initial_job_idx)
        import_module(self.module).launch(self.settings, work, runs)
        return jobs.returns(work, runs)


class SequentialLauncher(_LazyLauncher):
    """`hydra/launcher=sequential`."""

    module = "farkas_exp.launch.sequential"


# In place of Hydra's own default: of several overrides in a defaults list the first wins, so that one in config.yaml
# would keep experiments from choosing a launcher.
ConfigStore.instance().store(group="hydra/launcher", name="basic", node={"_target_": f"{__name__}.SequentialLauncher"})


class LocalParallelLauncher(_LazyLauncher):
    """`hydra/launcher=local_parallel`."""

    module = "farkas_exp.launch.local_parallel"


class SlurmLauncher(_LazyLauncher):
    """`hydra/launcher=slurm`."""

    module = "farkas_exp.launch.slurm"
