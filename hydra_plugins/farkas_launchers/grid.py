"""`hydra/sweeper=grid`: every combination of a sweep once, by `farkas_exp.launch.grid`."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(Sweeper):
    """Every combination, in batches of at most `max_batch_size`."""

    def __init__(self, max_batch_size: int | None = None, params: Mapping[str, Any] | None = None) -> None:
        self.max_batch_size, self.params = max_batch_size, params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before the sweep."""
        self.context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: Sequence[str]) -> None:
        """Run every combination of the command line's and the experiment's values."""
        from farkas_exp.launch import grid

        assert self.config is not None and self.launcher is not None  # noqa: PT018
        found = grid.batches(self.context.config_loader, self.config, self.params, arguments, self.max_batch_size)
        for first, batch in found:
            self.launcher.launch(batch, initial_job_idx=first)


ConfigStore.instance().store(  # as for the launchers
    group="hydra/sweeper",
    name="basic",
    node={"_target_": f"{__name__}.GridSweeper", "max_batch_size": None, "params": None},
)
