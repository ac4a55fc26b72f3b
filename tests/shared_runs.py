"""A run that several processes train together, and what is compared of it."""

import torch

from farkas_exp.runs import RunDirectory, collect, read_rows

SMALL = [
    "model=farkasnet18", "model.blocks=[1,1]", "model.widths=[4,8]", "normalization=batch", "lr.value=0.05",
    "dataset=digits", "dataset.train_limit=200", "augmentation=cutout", "augmentation.crop_padding=2",
    "augmentation.cutout=3", "dropout=constant", "dropout.rate=0.1", "batch_size=40", "epochs=3", "device=cpu",
    "wandb.mode=disabled", "progress=none", "failure.epochs=0",
]  # fmt: skip
"""Five steps an epoch, with everything that is random: crops, flips, cutout, dropout; and batch norm."""
EVERY_STEP = ["checkpoint.every_epochs=0", "checkpoint.every_minutes=1e-9"]
TIMES = {"time", "epoch_seconds", "images_per_second"}


def record(runs_dir, seed=0):
    (found,) = [record for record in collect(runs_dir) if record.seed == seed]
    return found


def numbers(runs_dir):
    """The metrics of a run without its times, its weights and momenta."""
    run = RunDirectory(record(runs_dir).path)
    rows = [{key: value for key, value in row.items() if key not in TIMES} for row in read_rows(run.metrics)]
    saved = torch.load(run.checkpoint, weights_only=True)
    return rows, saved["model"], [state["momentum_buffer"] for state in saved["optimizer"]["state"].values()]


def assert_same(expected, runs_dir):
    """Bitwise."""
    (rows, weights, momenta), (rows2, weights2, momenta2) = expected, numbers(runs_dir)
    assert rows == rows2
    assert all(torch.equal(weights[key], weights2[key]) for key in weights)
    assert all(torch.equal(a, b) for a, b in zip(momenta, momenta2, strict=True))
