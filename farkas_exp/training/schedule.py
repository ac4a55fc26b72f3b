"""What changes during a run: the learning rate by step, the batch size by phase."""

from farkas_exp.config import Config
from farkas_exp.config.phases import global_batch, phase_at
from farkas_exp.training.optimizer import learning_rate


def batch_size_at(config: Config, epoch: int) -> int:
    """The images in a step of an epoch (from 0), over all devices."""
    if not config.phases.schedule:
        return config.batch_size
    return global_batch(config.phases, phase_at(config.phases, epoch))


def learning_rate_at(config: Config, epoch: int, step: int, steps: int) -> float:
    """The learning rate of a step (from 0) of an epoch (from 0) of `steps` steps.

    Without phases it is that of `learning_rate`; in the first `lr.warmup` epochs, times the share of them passed at the
    step's end (Goyal et al. 2017). In a phase it goes linearly from `lr_from` at the first step to `lr_to` at the end,
    times the factor on the batch (their linear scaling rule). The last epochs of a callback may have their own rate.
    """
    passed = epoch - (config.epochs - config.callback.last_epochs)  # of the callback's last epochs
    if config.callback.lr is not None and passed >= 0:
        return config.callback.lr * 0.1 ** sum(passed * part >= config.callback.last_epochs for part in (5, 3))
    if not config.phases.schedule:
        warmup = config.lr.warmup
        share = min(1.0, (epoch + (step + 1) / steps) / warmup) if warmup else 1.0
        return share * learning_rate(config.lr, epoch + step / steps, config.epochs)
    phase = phase_at(config.phases, epoch)
    begin = max((other.until for other in config.phases.schedule if other.until < phase.until), default=0)
    share = (epoch + step / steps - begin) / (phase.until - begin)
    scale = global_batch(config.phases, phase) / phase.batch_size
    return scale * (phase.lr_from + (phase.lr_to - phase.lr_from) * share)
