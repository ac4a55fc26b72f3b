"""One run from configuration to result: build its parts, keep its directory, and call the trainer."""

import time
from dataclasses import dataclass
from typing import Any

from farkas_exp import runs
from farkas_exp.config import Config
from farkas_exp.machine import distributed
from farkas_exp.machine.errors import Interrupted, UserError, in_one_line
from farkas_exp.machine.processes import Processes
from farkas_exp.machine.signals import StopRequest, free_to_leave
from farkas_exp.measures.figures import check_measures
from farkas_exp.runs import RunDirectory, RunLost, checkpoint, write_record, write_state
from farkas_exp.runs.console import Progress
from farkas_exp.runs.jsonfiles import append_row, truncate_rows
from farkas_exp.runs.mirrors import check_mirrors, mirrors
from farkas_exp.runs.record import by_evaluation_set, name_of, write_result
from farkas_exp.runs.wandb import mirror_of, summary_of, told_by
from farkas_exp.training.building import build_model, check_batch, choose_device, load_data
from farkas_exp.training.environment import check_same_data, correct_mode, record_start
from farkas_exp.training.loop import Listener, train_to_end
from farkas_exp.training.measuring import Measuring
from farkas_exp.training.optimizer import build_optimizer
from farkas_exp.training.precision import as_configured
from farkas_exp.training.schedule import batch_size_at
from farkas_exp.training.trainer import Trainer, TrainerState


@as_configured()
def train(config: Config, run: RunDirectory, title: str | None = None) -> dict[str, Any]:
    """Train one run, from its checkpoint if there is one, and return its result. The caller holds the run's lock.

    Of several processes the first keeps the run directory; the others take part and return nothing.

    Raises:
        UserError: a mistake in the configuration or the data, before anything is written.
        Interrupted: a signal asked to stop; a checkpoint has been written.
        RankFailed: another process failed.
    """
    processes = distributed.current()
    with processes.within_reach():
        with free_to_leave():
            trainer = build_trainer(config, processes)
        try:
            prepared = processes.from_first(lambda: _prepare(config, run, trainer))
            if not processes.is_first:
                _take_part(trainer, prepared.saved)
                return {}
            return _Session(config, run, trainer, prepared, title).run_to_end()
        finally:
            trainer.data.close()


def build_trainer(config: Config, processes: Processes) -> Trainer:
    """The trainer in every process; a mistake found by one is raised in all."""
    device = processes.together(lambda: choose_device(config.device, processes))
    data = processes.in_turn(lambda: load_data(config, device, processes))
    fingerprints = processes.gather(data.info.fingerprint)
    if len(set(fingerprints)) > 1:
        raise UserError(f"dataset: the processes see different data (fingerprints {', '.join(fingerprints)})")

    def build() -> Trainer:
        check_measures(config, processes.world_size)
        told_by(config.wandb)
        check_mirrors(config.tracking)
        model = build_model(config, data, device)
        fewest = min(batch_size_at(config, epoch) for epoch in range(config.epochs))
        check_batch(model, data.info.image_shape, fewest // processes.world_size)
        optimizer = build_optimizer(model, config.optimizer, config.lr.value)
        return Trainer(config, model, optimizer, data, device, processes)

    return processes.together(build)


@dataclass(frozen=True)
class _Prepared:
    """What a run continues from: record, rows of metrics, checkpoint; `again` epochs are trained once more."""

    record: dict[str, Any]
    rows: list[dict[str, Any]]
    saved: dict[str, Any] | None
    state: TrainerState
    changed: str | None
    again: int


def _prepare(config: Config, run: RunDirectory, trainer: Trainer) -> _Prepared:
    """Prepare the run directory, and restore the trainer."""
    info = trainer.data.info
    run.check_own()
    check_same_data(run, config, info)
    if config.retry_failed and runs.read_json(run.result) is not None:
        attempt = (run.checkpoint, run.previous_checkpoint, run.metrics, run.diagnostics, run.state)
        for file in (*attempt, run.result):  # last: until it is gone, the same command forgets the rest
            file.unlink(missing_ok=True)
    checkpoint.remove_stray_files(run)
    record = write_record(run, config, info.files)
    saved = checkpoint.load_of(run, record)
    state = _restored(run, trainer, saved)
    before = runs.read_rows(run.metrics)
    _check_complete(run, before, state.epoch)
    rows = [by_evaluation_set(row, trainer.evaluated_on) for row in truncate_rows(run.metrics, state.epoch)]
    truncate_rows(run.diagnostics, state.epoch)
    changed = record_start(run, config, trainer, state)
    return _Prepared(record, rows, saved, state, changed, len(before) - len(rows))


def _take_part(trainer: Trainer, saved: dict[str, Any] | None) -> None:
    """Train together with the first process, which keeps the run directory."""
    state = TrainerState() if saved is None else trainer.restore(saved)
    with StopRequest() as stop, trainer.processes.bound_together():
        trainer.distribute()
        train_to_end(trainer, state, stop, Listener())


class _Session(Listener):
    """The part of a run that this process trains: writes what the trainer reports into the run directory."""

    def __init__(
        self, config: Config, run: RunDirectory, trainer: Trainer, prepared: _Prepared, title: str | None
    ) -> None:
        record, rows, state = prepared.record, prepared.rows, prepared.state
        self.config, self.run, self.trainer, self.state, self.record = config, run, trainer, state, record
        self.title = title or f"{record['slug']} seed {config.seed}"
        self.changed, self.again = prepared.changed, prepared.again
        self.measuring = Measuring(config, run, trainer.data, trainer.device)
        self.progress = Progress(config.progress, self.title, config.epochs, run.log, done=state.epoch)
        self.wandb = mirror_of(config, run.path, record)
        self.mirrors = mirrors(config.tracking, run, state.epoch)
        self.last = rows[-1] if rows else {}
        self.error, self.best_error = f"{trainer.evaluated_on}_error", f"best_{trainer.evaluated_on}_error"
        self.best = min((row[self.error] for row in rows if row[self.error] is not None), default=None)
        self.saved_at = time.monotonic()

    def run_to_end(self) -> dict[str, Any]:
        """Train the rest, and close everything with the outcome."""
        exit_code = 1
        summary: dict[str, Any] = {}
        closing = "crashed"
        try:
            with StopRequest() as stop, self.trainer.processes.bound_together():
                self.trainer.distribute()
                self._write_state(runs.RUNNING)
                if self.changed:
                    self.progress.warning(f"from here on not bitwise the numbers of an unbroken run: {self.changed}")
                if self.again:
                    where = "the checkpoint" if self.state.epoch or self.state.step else "the beginning, without one"
                    self.progress.message(f"goes on from {where}: {self.again} recorded epochs are trained once more")
                lost = self.measuring.catch_up(self.state.epoch, None if self.state.step else self.trainer.model)
                if lacks := self.measuring.measurements.unmeasured(lost, self.config.epochs):
                    self.progress.warning(f"not measured: {lacks}")
                result = self._result(self._train(stop))
            self._write_state(result["status"])
            self.run.check_own()
            for file in (self.run.previous_checkpoint, self.run.error):
                file.unlink(missing_ok=True)
            write_result(self.run, self.record, result)  # last: until it is there, the same command does the rest
            checkpoint.keep(self.run, self.config.checkpoint.keep)
            summary = summary_of(result, self.trainer.evaluated_on)
            exit_code = int(result["status"] != runs.FINISHED)
            closing = f"{result['status']}: {self.trainer.evaluated_on} error {result[self.error]:.2f} %" + (
                f" ({result['reason']})" if result["reason"] else ""
            )
            return result
        except Interrupted as stopped:
            exit_code, closing = 255, str(stopped)
            raise
        except RunLost as lost:
            closing = str(lost)
            raise
        finally:
            self.progress.close(closing)
            self.wandb.finish(exit_code, summary)
            for mirror in self.mirrors:
                mirror.close()

    def _train(self, stop: StopRequest) -> str | None:
        """Train the rest. A signal to all that this process started, such as a compiler, makes no crash of the run."""
        try:
            return train_to_end(self.trainer, self.state, stop, self)
        except (Interrupted, UserError, RunLost, OSError):
            raise
        except Exception as error:
            signal = stop.signal_name
            if signal is None or self.trainer.processes.are_several:  # of several, all have to agree
                raise
            self.stops()
            raise Interrupted(
                f"stopped by {signal}, and an error came of it ({in_one_line(error)}); the same command goes on from"
                " the last checkpoint"
            ) from error

    def _result(self, reason: str | None) -> dict[str, Any]:
        trainer, state = self.trainer, self.state
        figures = {
            key: value for key, value in self.last.items() if key.startswith((f"{trainer.evaluated_on}_", "train_"))
        }
        return {
            "schema": runs.SCHEMA,
            "status": runs.FAILED if reason else runs.FINISHED,
            "reason": reason,
            "epochs": state.epoch,
            **figures,
            self.best_error: self.best,
            "seconds": state.seconds,
            "images_per_second": state.images / state.train_seconds if state.train_seconds else None,
            "parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        }

    def report(self, row: dict[str, Any]) -> None:
        """See `Listener`, like the following methods."""
        self.last = row
        self.run.check_own()
        correct_mode(self.run, self.trainer.mode)
        if row[self.error] is not None:
            self.best = row[self.error] if self.best is None else min(self.best, row[self.error])
        append_row(self.run.metrics, row)
        self.progress.epoch(row)
        self.wandb.log(row)
        for mirror in self.mirrors:
            mirror.log(row)
        self.measuring.at(self.state.epoch, self.trainer.model)
        self._write_state(runs.RUNNING)

    def step(self, step: int) -> None:
        self.progress.step(step, self.trainer.data.steps_in(self.state.epoch))

    def checkpoint_is_due(self) -> bool:
        every = self.config.checkpoint.every_epochs
        return (every > 0 and self.state.epoch % every == 0) or self.time_is_up()

    def time_is_up(self) -> bool:
        """Whether the last checkpoint is older than `checkpoint.every_minutes`, also in the middle of an epoch."""
        minutes = self.config.checkpoint.every_minutes
        return minutes > 0 and time.monotonic() - self.saved_at > 60 * minutes

    def save(self, snapshot: dict[str, Any]) -> None:
        self.run.check_own()
        checkpoint.save(self.run, {"run": name_of(self.record), **snapshot})
        self.saved_at = time.monotonic()

    def goes_on(self) -> None:
        self._write_state(runs.RUNNING)

    def stops(self) -> None:
        self._write_state(runs.INTERRUPTED)

    def _write_state(self, state: str) -> None:
        self.run.check_own()
        write_state(
            self.run, state, epoch=self.state.epoch, epochs=self.config.epochs,
            eta_seconds=self.progress.eta_seconds(), **{self.error: self.last.get(self.error)},
        )  # fmt: skip


def _restored(run: RunDirectory, trainer: Trainer, saved: dict[str, Any] | None) -> TrainerState:
    """Restore the trainer from a checkpoint, and return its state; without one, the beginning."""
    if saved is None:
        return TrainerState()
    if checkpoint.has_weights_only(saved) and saved["state"]["epoch"] < trainer.config.epochs:
        raise UserError(
            f"{run.checkpoint}: has the weights of epoch {saved['state']['epoch']} alone, from which no training goes"
            f" on; restore {run.result.name}, or move {run.path} away to train afresh"
        )
    return checkpoint.restoring(run, lambda: trainer.restore(saved))


def _check_complete(run: RunDirectory, rows: list[dict[str, Any]], epochs: int) -> None:
    """Raise if the rows of metrics lack an epoch of the checkpoint: new ones would leave a gap."""
    there = {row.get("epoch") for row in rows}
    missing = [epoch for epoch in range(1, epochs + 1) if epoch not in there]
    if missing:
        raise UserError(
            f"{run.metrics}: epoch {missing[0]} is missing, but the checkpoint is after epoch {epochs};"
            f" restore it, or move {run.path} away to train afresh"
        )
