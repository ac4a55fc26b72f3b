"""The arms of an experiment, composed from its file."""

from functools import cache
from typing import Any

from farkas_exp.report.methods import Arms


@cache
def experiment_arms(experiment: str, *swept: str) -> Arms:
    """The arms of `experiment`; `swept` are keys, or their beginnings, that vary within an arm."""
    return Arms(_configs(experiment), swept)


def _configs(experiment: str) -> dict[str, dict[str, Any]]:
    """The nested configuration of each arm by its label, without what is interpolated."""
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from farkas_exp.cli import config_dir
    from farkas_exp.config import schema_defaults

    ConfigStore.instance().store(name="schema", node=schema_defaults())
    found: dict[str, dict[str, Any]] = {}
    with initialize_config_dir(config_dir(), version_base="1.3"):
        whole = compose("config", [f"experiment={experiment}"], return_hydra_config=True)
        for regime in str(whole.hydra.sweeper.params.regime).split(","):
            values: Any = OmegaConf.to_container(
                compose("config", [f"experiment={experiment}", f"regime={regime}"]), resolve=False
            )
            found[str(values.get("arm") or regime)] = values
    return found
