"""The runs of a sweep before they begin, the values that they take from a search, and its objective."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from farkas_exp import runs
from farkas_exp.config import Config, arms, parse
from farkas_exp.launch.execution import execute, settled
from farkas_exp.launch.outcomes import PASSED_OVER, SKIPPED, Outcome
from farkas_exp.runs.query import ranked_error


@dataclass(frozen=True)
class Planned:
    """A run before it begins: its configuration, or the outcome of one that its arm is not for."""

    config: Config | None
    outcome: Outcome | None = None

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Planned":
        """The run with these composed values.

        Raises:
            UserError: a mistake in them.
        """
        own, why_not = arms.of_run(values)
        if why_not is not None:  # checked before parsing: the arm may set what this network lacks
            return cls(None, Outcome(PASSED_OVER, str(own["model"]["name"]), why_not))
        return cls(parse(own))

    def settled(self) -> Outcome | None:
        """Its outcome if nothing is left to do, else None; see `execution.settled`."""
        return self.outcome if self.config is None else settled(self.config)

    def execute(self, title: str | None = None) -> Outcome:
        """Execute it; see `execution.execute`."""
        if self.config is None:
            assert self.outcome is not None
            return self.outcome
        return execute(self.config, title)


def _best(key: str, beyond: bool = False, *, _root_: DictConfig) -> Any:
    """The value of `${best:KEY}` or `${beyond:KEY}`; see `best.best_value`."""
    from farkas_exp.runs.best import best_value

    values: Any = OmegaConf.to_container(_root_, resolve=False)
    run, _ = arms.of_run({name: value for name, value in values.items() if name != "hydra"})
    return best_value(key, run, beyond)


OmegaConf.register_new_resolver("best", _best, replace=True)
OmegaConf.register_new_resolver("beyond", partial(_best, beyond=True), replace=True)


def objective(config: Config | None, outcome: Outcome) -> float | None:
    """The objective of a search: the error in percent on images held out of the training set; chance if it failed.

    None for a run without a result, and for one that has seen the test set: nothing is chosen on that.
    """
    if config is None or config.dataset.validation == 0 or outcome.status not in (runs.FINISHED, runs.FAILED, SKIPPED):
        return None
    record = runs.read_run(Path(outcome.path))
    return ranked_error(record) if record and record.result else None
