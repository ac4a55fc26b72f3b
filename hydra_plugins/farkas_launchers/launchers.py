"""The launchers of `conf/hydra/launcher`.

Hydra takes plugins from this namespace only, and imports all of them at each start; `farkas_exp.launch` does the work,
and is imported only when a sweep needs it.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class _LazyLauncher(Launcher):
    def __init__(self, **settings: Any) -> None:
        self.settings: dict[str, Any] = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in settings.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what the jobs need."""
        self.context, self.task_function, self.config = hydra_context, task_function, config

    def work(self) -> Any:
        """What the jobs need, and where the sweep keeps their outcomes."""
        from farkas_exp.launch import jobs
        from farkas_exp.launch.sweep import Sweep, SweepWatch

        return jobs.Work(self.context, self.config, self.task_function, SweepWatch.current or Sweep.of(self.config))


class SequentialLauncher(_LazyLauncher):
    """`hydra/launcher=sequential`."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs one after the other, in this process."""
        from farkas_exp.launch import jobs
        from farkas_exp.machine.errors import UserError

        if self.settings:
            raise UserError(
                f"hydra.launcher.{next(iter(self.settings))}: does nothing here; it needs another hydra/launcher, such"
                " as hydra/launcher=local_parallel"
            )
        work, all_runs = self.work(), jobs.numbered(job_overrides, initial_job_idx)
        for run in jobs.skip_done(work, all_runs):
            jobs.run_one(work, run)
            jobs.tell_ended(work, [run])
        return jobs.returns(work, all_runs)


# In place of Hydra's own default: of several overrides in a defaults list the first wins, so that one in config.yaml
# would keep experiments from choosing a launcher.
ConfigStore.instance().store(group="hydra/launcher", name="basic", node={"_target_": f"{__name__}.SequentialLauncher"})


class LocalParallelLauncher(_LazyLauncher):
    """`hydra/launcher=local_parallel`."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, several at a time."""
        from farkas_exp.launch import jobs, local_parallel

        return local_parallel.launch(self.settings, self.work(), jobs.numbered(job_overrides, initial_job_idx))


class SlurmLauncher(_LazyLauncher):
    """`hydra/launcher=slurm`."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit the jobs to Slurm and wait for them."""
        from farkas_exp.launch import jobs, slurm

        return slurm.launch(self.settings, self.work(), jobs.numbered(job_overrides, initial_job_idx))
