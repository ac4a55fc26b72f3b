"""Every combination of a sweep, each composed once.

Hydra's own sweeper composes all jobs to check them before the first one starts, and its launchers compose them again.
Composition is most of what a sweep of finished runs takes.
"""

import json
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(BasicSweeper):
    """Hydra's basic sweeper, whose launcher gets the configurations that were composed for the check."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before the sweep."""
        loader = _ComposeOnce(hydra_context.config_loader.get_search_path())
        context = HydraContext(config_loader=loader, callbacks=hydra_context.callbacks)
        super().setup(hydra_context=context, task_function=task_function, config=config)


class _ComposeOnce(ConfigLoaderImpl):
    """Composes a job at the first call and hands the same configuration over at the second, which may change it."""

    def __init__(self, config_search_path: Any) -> None:
        super().__init__(config_search_path)
        self._composed: dict[str, DictConfig] = {}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The configuration of one job."""
        key = json.dumps(list(sweep_overrides))
        if key in self._composed:
            return self._composed.pop(key)
        self._composed[key] = composed = super().load_sweep_config(master_config, sweep_overrides)
        return composed

    def __getstate__(self) -> dict[str, Any]:
        """Without the configurations: on another machine a job composes its own."""
        return {**self.__dict__, "_composed": {}}
