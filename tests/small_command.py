"""The command line with a run of seconds."""

from farkas_exp.launch.cli import main

SMALL = [
    "model=farkasnet18", "model.blocks=[1,1]", "model.widths=[4,8]", "dataset=digits", "dataset.train_limit=200",
    "batch_size=40", "epochs=2", "device=cpu", "wandb.mode=disabled", "progress=none", "failure.epochs=0",
]  # fmt: skip

TINY = [
    "model=mlp", "model.depth=1", "model.width=4", "dataset=digits", "dataset.train_limit=100", "batch_size=50",
    "epochs=1", "device=cpu", "wandb.mode=disabled", "progress=none", "failure.epochs=0",
]  # fmt: skip
ONE_BLOCK = [
    "model=farkasnet18", "model.blocks=[1]", "model.widths=[4]", "dataset=digits", "dataset.train_limit=200",
    "batch_size=40", "device=cpu", "wandb.mode=disabled", "failure.epochs=0",
]  # fmt: skip
"""Of as many epochs as a test wants."""


def small(tmp_path, *arguments):
    return main([*SMALL, f"runs_dir={tmp_path}", *arguments])
