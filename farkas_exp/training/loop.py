"""The epochs of a run: train, evaluate, report, save; the same in every process of the run."""

from typing import Any

from farkas_exp.machine.errors import Interrupted
from farkas_exp.machine.signals import StopRequest
from farkas_exp.training.trainer import Failure, Trainer, TrainerState


class Listener:
    """Receives the events of a run; this one ignores them, as in every process but the first."""

    def step(self, step: int) -> None:
        """`step` steps of the current epoch are queued."""

    def report(self, row: dict[str, Any]) -> None:
        """An epoch is finished with these metrics."""

    def save(self, snapshot: dict[str, Any]) -> None:
        """Save what is needed to continue, before returning."""

    def goes_on(self) -> None:
        """The run goes on after a checkpoint inside an epoch."""

    def stops(self) -> None:
        """The run is interrupted; the checkpoint has been written."""

    def time_is_up(self) -> bool:
        """Whether it is time for a checkpoint in the middle of an epoch."""
        return False

    def checkpoint_is_due(self) -> bool:
        """Whether it is time for a checkpoint after an epoch."""
        return False


def train_to_end(trainer: Trainer, state: TrainerState, stop: StopRequest, listener: Listener) -> str | None:
    """Train the rest of the run; return why it failed to train, or None.

    A signal to any of the processes stops all of them after the same step.

    Raises:
        Interrupted: a signal asked to stop; the checkpoint has been written.
    """
    epochs, processes = trainer.config.epochs, trainer.processes
    reason = None
    while state.epoch < epochs and reason is None:
        if not trainer.train_epoch(state, stop, on_step=listener.step, pause=listener.time_is_up):
            listener.save(trainer.snapshot(state))
            signal = processes.first_said(stop.signal_name)
            if signal is None:
                listener.goes_on()
                continue
            listener.stops()
            where = f"epoch {state.epoch + 1}, step {state.step}"
            raise Interrupted(f"stopped by {signal} in {where}; the same command goes on from there")
        try:
            row = trainer.finish_epoch(state)
        except Failure as failure:
            row, reason = failure.row, str(failure)
        listener.report(row)
        if reason is None and (state.epoch == epochs or processes.agree(listener.checkpoint_is_due())):
            listener.save(trainer.snapshot(state))
    return reason
