"""The phases of a schedule: which an epoch belongs to, and the batch of each."""

from farkas_exp.config.schema import PhaseConfig, PhasesConfig


def phase_at(phases: PhasesConfig, epoch: int) -> PhaseConfig:
    """The phase that epoch (from 0) belongs to; the last one for every later epoch."""
    assert phases.schedule
    return next((phase for phase in phases.schedule if epoch < phase.until), phases.schedule[-1])


def global_batch(phases: PhasesConfig, phase: PhaseConfig) -> int:
    """The images in a step of `phase` over all devices, with `phases.batch_scale`."""
    return max(1, round(phase.batch_size * phases.batch_scale))
