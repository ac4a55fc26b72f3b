"""The arms of a comparison, composed from the file of its experiment."""

from functools import cache
from pathlib import Path
from typing import Any

from farkas_exp.report.methods import Arms

COMPARISONS = {
    "without_normalization": "without_normalization_test",
    "transformers": "transformers_test",
    "deep_narrow": "deep_narrow",
}
"""What compares methods, with the experiment that has their arms."""
CHOSEN = ("lr.value", "dataset.validation")
"""What varies within a method: the rate, and whether images are held out to choose it."""


def arms_of(experiment: str) -> Arms:
    """The arms of an experiment, which are the methods it compares."""
    return Arms(composed(experiment), CHOSEN)


@cache
def composed(experiment: str) -> dict[str, dict[str, Any]]:
    """The nested configuration of each arm by its label, with some learning rate."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from farkas_exp.config import arms
    from farkas_exp.config.composition import Compositions
    from farkas_exp.config.store import config_dir, tell_hydra

    tell_hydra()
    found: dict[str, dict[str, Any]] = {}
    own = arms.arms_of(experiment, [Path(config_dir())])
    arms.offer(own)
    with initialize_config_dir(config_dir(), version_base="1.3"):
        master = compose("config", return_hydra_config=True)
        compositions = Compositions(GlobalHydra.instance().config_loader(), master)
        for name, arm in own.items():
            # any rate, in place of that of a test, which is looked up among the runs of the search
            values = compositions.values([f"experiment={experiment}", f"arm={name}", "lr.value=0.1"])
            found[arm.label or name], _ = arms.of_run(values)
    return found
