"""The runs of a sweep before they begin, the values that they take from a search, and its objective."""

from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from farkas_exp import runs
from farkas_exp.config import Config, arms, parse
from farkas_exp.config.composition import copied, is_searched
from farkas_exp.config.folders import labelled
from farkas_exp.config.parsing import parse_group
from farkas_exp.launch.outcomes import PASSED_OVER, SKIPPED, Outcome
from farkas_exp.runs.query import ranked_error


def planned(values: dict[str, Any]) -> Config | Outcome:
    """The run with these composed values: its configuration, or the outcome of one that its arm is not for.

    Raises:
        UserError: a mistake in the values.
    """
    own, why_not = arms.of_run(values)
    if why_not is not None:  # checked before parsing: the arm may set what this network lacks
        return Outcome(PASSED_OVER, str(own["model"]["name"]), why_not)
    return parse(own)


def _best(*keys: str, beyond: bool = False, _root_: DictConfig) -> Any:
    """The value of `${best:KEY}` or `${beyond:KEY}`; see `best.best_value`."""
    from farkas_exp.runs.best import best_value

    run, _ = arms.of_run(_but_for_choices(_root_))
    return best_value(",".join(map(str, keys)), run, beyond)


def _but_for_choices(composed: DictConfig) -> dict[str, Any]:
    """The values of a run as they are recorded, but those that are taken from a search: these stay as written."""
    values: Any = OmegaConf.to_container(composed, resolve=False)
    own = {name: value for name, value in values.items() if name != "hydra"}
    escaped = copied(own, lambda value: f"\\{value}" if is_searched(value) else value)
    run: Any = OmegaConf.to_container(OmegaConf.create(escaped), resolve=True)
    dataset = {name: value for name, value in run["dataset"].items() if not is_searched(value)}
    run["dataset"]["label"] = labelled(parse_group("dataset", dataset)).label
    return run  # type: ignore[no-any-return]


OmegaConf.register_new_resolver("best", _best, replace=True)
OmegaConf.register_new_resolver("beyond", partial(_best, beyond=True), replace=True)


def objective(config: Config, outcome: Outcome) -> float | None:
    """The objective of a search: the error in percent on images held out of the training set; chance if it failed.

    None for a run without a result, and for one that has seen the test set: nothing is chosen on that.
    """
    if config.dataset.validation == 0 or outcome.status not in (runs.FINISHED, runs.FAILED, SKIPPED):
        return None
    record = runs.read_run(Path(outcome.path))
    return ranked_error(record) if record and record.result else None
