"""Runs that are stopped in the middle, and their numbers."""

import os
import signal

import torch

from farkas_exp.runs import read_rows
from farkas_exp.training.trainer import Trainer

TIMES = {"time", "epoch_seconds", "images_per_second"}


def numbers(run):
    """The metrics of a run without its times, and its final weights."""
    rows = [{key: value for key, value in row.items() if key not in TIMES} for row in read_rows(run.metrics)]
    saved = torch.load(run.checkpoint, weights_only=True)
    return rows, saved["model"], saved["optimizer"]["state"]


def assert_same(first, second):
    rows, weights, momenta = numbers(first)
    rows2, weights2, momenta2 = numbers(second)
    assert rows == rows2
    assert weights.keys() == weights2.keys()
    assert all(torch.equal(weights[key], weights2[key]) for key in weights)
    for key, state in momenta.items():
        assert torch.equal(state["momentum_buffer"], momenta2[key]["momentum_buffer"])


def stop_after(steps, monkeypatch, number=signal.SIGTERM):
    """Let the process be asked to stop after so many training steps."""
    step = Trainer._train_step
    count = 0

    def counted(self, images, labels):
        nonlocal count
        count += 1
        if count == steps:
            os.kill(os.getpid(), number)
        return step(self, images, labels)

    monkeypatch.setattr(Trainer, "_train_step", counted)
