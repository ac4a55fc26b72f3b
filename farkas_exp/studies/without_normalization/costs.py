"""What each method costs and needs: a training step against the first method's, parameters, multiply-adds.

`python -m farkas_exp.report costs runs_dir=DIR` measures the methods that have runs in DIR, here and now, in several
turns, each method right behind the first. The comparisons show the figures that lie in DIR/report, if they are of the
same settings.
Imports PyTorch only to measure.
"""

import csv
import hashlib
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from farkas_exp.config import parse
from farkas_exp.config.folders import check_reached
from farkas_exp.config.schema import ResidualConfig
from farkas_exp.machine.errors import UserError
from farkas_exp.registry import ACTIVATIONS, INITIALIZATIONS, NETWORKS, NORMALIZATIONS, REGULARIZERS
from farkas_exp.report.methods import Chosen
from farkas_exp.report.render import FOLDER, Report
from farkas_exp.report.tables import Table, tabulate
from farkas_exp.runs import RunRecord
from farkas_exp.runs.query import effective_settings, settings_in_full
from farkas_exp.studies.without_normalization.arms import CHOSEN, COMPARISONS, arms_of

NAME = "costs"
STEPS, ROUNDS = 8, 9
"""Steps of a trainer in a turn, and turns; one more goes before them."""
COLUMNS = ("relative step", "parameters", "multiply-adds", "needs")


@dataclass(frozen=True)
class Cost:
    """Of one method; `step` and `multiply_adds` (of an image) are None where they have not been measured."""

    parameters: int | None
    needs: str
    step: float | None = None
    multiply_adds: int | None = None

    def texts(self) -> tuple[str, ...]:
        """Those of the `COLUMNS`."""
        counts = ("–" if count is None else f"{count:,}" for count in (self.parameters, self.multiply_adds))
        return ("–" if self.step is None else f"{self.step:.2f}", *counts, self.needs)


def needs(config: Mapping[str, Any]) -> str:
    """What a method asks for beside what every network has: of the batch, before the first step, of the network."""
    flat = settings_in_full(config)
    norm, init = NORMALIZATIONS.get(flat["normalization.name"]), INITIALIZATIONS.get(flat["init.name"])
    network, regularizer = NETWORKS.get(flat["model.name"]), REGULARIZERS.get(flat["regularizer.name"])
    activation = ACTIVATIONS.get(flat["activation.name"])
    scaled = any(flat[f"residual.{f.name}"] != f.default for f in fields(ResidualConfig))
    asked = {
        "a batch": any(part is not None and part.of_batch for part in (norm, regularizer)),
        "images": init is not None and "images" in init.needs,
        "branches": scaled or (init is not None and init.branches),
        "activations fitted to the network": activation is not None and activation.fit is not None,
        "convolutions": flat["weight.name"] != "none",
        "Farkas layers": network is not None and network.farkas,
        "its own network": network is not None and not network.positions,
    }
    return ", ".join(words for words, needed in asked.items() if needed) or "nothing"


def known_costs(comparison: str, runs: Mapping[str, Sequence[RunRecord]]) -> dict[str, Cost]:
    """The cost of each method of a comparison, from its runs, and from what was measured in their setting."""
    measured: dict[tuple[str, str], Any] = {}
    for folder in {run.path.parent.parent for own in runs.values() for run in own}:
        try:
            with (folder / FOLDER / f"{NAME}_{comparison}.csv").open(encoding="utf-8", newline="") as file:
                measured |= {(row["method"], row["setting"]): row for row in csv.DictReader(file)}
        except (OSError, UnicodeDecodeError, KeyError, csv.Error):
            continue
    return {name: _cost(own, measured.get((name, _setting(own[0])), {})) for name, own in runs.items()}


def _setting(run: RunRecord) -> str:
    """What decides a method's cost, in a word: its settings but for what a search varies."""
    flat = {key: value for key, value in effective_settings(run.config).items() if key not in CHOSEN}
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:12]


def _cost(runs: Sequence[RunRecord], measured: Mapping[str, Any]) -> Cost:
    counted = next((run.result["parameters"] for run in runs if run.result and "parameters" in run.result), None)
    try:
        step, work = float(measured["step"]), int(measured["multiply_adds"])
    except (KeyError, TypeError, ValueError):
        step, work = None, None
    step = step if step is not None and 0 < step < math.inf else None
    return Cost(counted if isinstance(counted, int) else None, needs(runs[0].config), step, work)


def measure(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Cost]:
    """Train every method for some steps, beside the first one, on the device that `device=auto` chooses."""
    from farkas_exp.machine.processes import ALONE
    from farkas_exp.machine.signals import StopRequest
    from farkas_exp.measures.work import multiply_adds
    from farkas_exp.training.session import build_trainer
    from farkas_exp.training.trainer import Trainer, TrainerState

    trainers = {}
    for name, nested in configs.items():
        config = parse(nested)
        check_reached(config.dataset, "put a link to the images there")
        trainers[name] = build_trainer(replace(config, epochs=1, lr=replace(config.lr, warmup=0.0)), ALONE)

    def train(trainer: Trainer, steps: int) -> int:
        """Train for at most so many steps, since an epoch may have fewer; return their number."""
        state = TrainerState()
        trainer.train_epoch(state, StopRequest(), pause=lambda: state.step >= steps)  # it waits for the device
        return state.step

    def seconds(trainer: Trainer) -> float:
        started, left = time.perf_counter(), STEPS
        while left > 0:
            left -= train(trainer, left)
        return time.perf_counter() - started

    first, *others = trainers
    ratios: dict[str, list[float]] = {name: [] for name in others}
    for _ in range(1 + ROUNDS):
        for name in others:  # each right behind the first: whatever else the machine does hits both
            before = seconds(trainers[first])
            ratios[name].append(seconds(trainers[name]) / before)
    found = {}
    for name, trainer in trainers.items():
        images, _ = trainer.data.fixed_batch(1)
        work = multiply_adds(trainer.model, images)
        ratio = 1.0 if name == first else statistics.median(ratios[name][1:])
        count = sum(parameter.numel() for parameter in trainer.model.parameters())
        found[name] = Cost(count, needs(configs[name]), ratio, work)
        trainer.data.close()
    return found


def report(records: Sequence[RunRecord]) -> Report:
    """Measure the methods that have runs; the comparisons of these runs then show the figures."""
    chosen = {name: arms_of(experiment).choose(records) for name, experiment in COMPARISONS.items()}
    if not any(each.runs for each in chosen.values()):
        raise UserError("runs_dir: no run there is of a method of these comparisons")
    return Report(NAME, tuple(_table(name, each) for name, each in chosen.items() if each.runs))


def _table(comparison: str, chosen: Chosen) -> Table:
    runs = chosen.runs
    costs = measure({name: own[0].config for name, own in runs.items()})
    rows = [(name, *cost.texts()) for name, cost in costs.items()]
    flat = [{"method": name, "setting": _setting(runs[name][0]), **vars(cost)} for name, cost in costs.items()]
    notes = (
        f"Relative step: the time of {STEPS} training steps over that of {next(iter(costs))} right before them, the"
        f" median over {ROUNDS} turns. Multiply-adds: of an image's forward pass, in convolutions and matrix products.",
        *chosen.notes,
    )
    return tabulate(f"What each method costs: {comparison}", ("method", *COLUMNS), rows, notes, flat, comparison)
