"""Which training loss and error are shown: runs may have two of each, and no column or panel mixes them."""

from collections.abc import Mapping, Sequence
from typing import Any

from farkas_exp.machine.output import plural
from farkas_exp.runs import RunRecord

RUNNING = "the mean over the epoch's steps, in training mode, on the images as they are trained on"
AFTER = "that of the network after the epoch, in evaluation mode, on the images of its steps"
EACH = {"train ": f"Train loss and error: {RUNNING}.", "train eval ": f"Train eval loss and error: {AFTER}."}
"""What the figures are whose names begin so."""


def training_key(figures: Sequence[Mapping[str, Any]], name: str) -> str:
    """The key of the `loss` or the `error` that is shown of these results: that after the epoch if all have it."""
    after = f"train_eval_{name}"
    return after if figures and all(after in each for each in figures) else f"train_{name}"


def training_note(runs: Sequence[RunRecord], name: str) -> str:
    """What a table's training loss or error (`training_key`) is; empty for no runs."""
    results = [run.result or {} for run in runs]
    if not results:
        return ""
    key, after = training_key(results, name), f"train_eval_{name}"
    text = f"Training {name} ({key}): {AFTER if key == after else RUNNING}."
    mixed = sum(f"train_{name}_mixed" in each for each in results)
    if key != after and (others := sum(after in each for each in results)):
        text += f" {plural(others, 'run')} of {len(results)} also measured {AFTER} ({after}), which is not shown."
    if key != after and mixed:
        text += f" Runs without it: {mixed} trained on mixed images (train_{name}_mixed)."
    return text
