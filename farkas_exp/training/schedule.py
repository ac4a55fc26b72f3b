"""What changes during a run: the learning rate by step, the batch size by phase."""

import bisect
import math

from farkas_exp.config.schema import Config, LRConfig


def batch_size_at(config: Config, epoch: int) -> int:
    """The images in a step of an epoch (from 0), over all devices."""
    phases = config.phases
    return phases.batch_of(phases.at(epoch)) if phases.schedule else config.batch_size


def learning_rate_at(config: Config, epoch: int, step: int, steps: int) -> float:
    """The learning rate of a step (from 0) of an epoch (from 0) of `steps` steps.

    Without phases it is `learning_rate`; in the first `lr.warmup` epochs it is multiplied by the share of them that has
    passed at the end of the step (Goyal et al. 2017). In a phase it goes linearly from `lr_from` at the first step to
    `lr_to` at the end, multiplied by the factor on the batch (their linear scaling rule).
    """
    if not config.phases.schedule:
        warmup = config.lr.warmup
        share = min(1.0, (epoch + (step + 1) / steps) / warmup) if warmup else 1.0
        return share * learning_rate(config.lr, epoch + step / steps, config.epochs)
    phase = config.phases.at(epoch)
    begin = max((other.until for other in config.phases.schedule if other.until < phase.until), default=0)
    share = (epoch + step / steps - begin) / (phase.until - begin)
    scale = config.phases.batch_of(phase) / phase.batch_size
    return scale * (phase.lr_from + (phase.lr_to - phase.lr_from) * share)


def learning_rate(config: LRConfig, epoch: float, epochs: int) -> float:
    """The learning rate at an epoch of a run of `epochs`: 2.5 is the middle of the third one.

    The paper's schedule: times 0.2 from epochs 60, 120 and 160 of 200 on. In a run of another length each milestone
    moves to the same share of the run, rounded up to a whole epoch: the first epoch has the full learning rate. The
    cosine falls from the end of the warm-up to zero at the end of the run (Loshchilov and Hutter 2017).
    """
    if config.schedule == "cosine":
        share = 0.0 if epoch <= config.warmup else (epoch - config.warmup) / (epochs - config.warmup)
        return config.value * (1 + math.cos(math.pi * share)) / 2
    reference = config.reference_epochs or epochs
    milestones = [-(-milestone * epochs // reference) for milestone in config.milestones]
    return config.value * config.gamma ** bisect.bisect_right(milestones, epoch)
