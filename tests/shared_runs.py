"""A run that several processes train together."""

from farkas_exp.runs import RunDirectory, collect

SMALL = [
    "model=farkasnet18", "model.blocks=[1,1]", "model.widths=[4,8]", "normalization=batch", "lr.value=0.05",
    "dataset=digits", "dataset.train_limit=200", "augmentation=cutout", "augmentation.crop_padding=2",
    "augmentation.cutout=3", "dropout=constant", "dropout.rate=0.1", "batch_size=40", "epochs=3", "device=cpu",
    "wandb.mode=disabled", "progress=none", "failure.epochs=0",
]  # fmt: skip
"""Five steps an epoch, with everything that is random: crops, flips, cutout, dropout; and batch norm."""
EVERY_STEP = ["checkpoint.every_epochs=0", "checkpoint.every_minutes=1e-9"]


def record(runs_dir, seed=0):
    (found,) = [record for record in collect(runs_dir) if record.seed == seed]
    return found


def run_of(runs_dir, seed=0):
    return RunDirectory(record(runs_dir, seed).path)
