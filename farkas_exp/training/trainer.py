"""The one training loop, for every network, normalization and dataset.

Nothing waits for the device inside an epoch: losses and errors add up on the device and are fetched once at the end.
All that is random is a function of the seed and the epoch, or is in the checkpoint, so a run that is stopped and
continued ends with the same weights as an unbroken one (bitwise on a CPU with the same number of threads).
"""

import inspect
import math
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from farkas_exp.config import Config
from farkas_exp.data.base import ImageData
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.processes import ALONE, Processes
from farkas_exp.machine.seeding import derive_seed
from farkas_exp.machine.signals import StopRequest
from farkas_exp.methods.base import Method, Training, build_methods, changes_gradients, execution_mode, penalized
from farkas_exp.registry import OPTIMIZERS
from farkas_exp.training.evaluation import counted, evaluation_sums, named_means
from farkas_exp.training.execution import CapturedStep, Recorder, Step, choose_mode, compile_model
from farkas_exp.training.metrics import means, metrics_on
from farkas_exp.training.optimizer import keep_rates, optimizer_state, set_learning_rate
from farkas_exp.training.precision import autocast, set_precision
from farkas_exp.training.schedule import batch_size_at, learning_rate_at

AGREE_EVERY = {"cpu": 1, "cuda": 10}
"""Steps of several processes between two agreements on whether to stop."""


@dataclass
class TrainerState:
    """The progress of a run: `epoch` finished epochs, and `step` steps of the next one.

    `totals` are the sums of losses and metrics in this epoch and process, by name; `images` counts those of all
    processes.
    """

    epoch: int = 0
    step: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    chance_epochs: int = 0
    seconds: float = 0.0
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0
    images: int = 0


class Failure(Exception):  # noqa: N818 - a result of training, not a defect
    """The run failed to train; `row` has the metrics of its last epoch."""

    def __init__(self, reason: str, row: dict[str, Any]) -> None:
        super().__init__(reason)
        self.row = row


class Trainer:
    """Trains the initialized `model` on `data`, both on `device`; knows nothing of files.

    Of several `processes` that train the run together, all must call `distribute` before the first step.
    """

    def __init__(
        self, config: Config, model: nn.Module, optimizer: torch.optim.Optimizer, data: ImageData, device: torch.device,
        processes: Processes = ALONE,
    ) -> None:  # fmt: skip
        self.config, self.model, self.optimizer, self.data, self.device = config, model, optimizer, data, device
        self.processes = processes
        self._agree_every = AGREE_EVERY[device.type] if processes.are_several else 1
        self.mode = execution_mode(config, choose_mode(config, device, processes.world_size), processes.world_size)
        self.forward = compile_model(model, self.mode)
        self.methods = build_methods(Training(config, model, data, self.forward, self._share_statistics))
        self.is_penalized = any(type(method).penalty is not Method.penalty for method in self.methods)
        self.train_metrics = metrics_on(data.info, in_training=True)
        self.metrics = metrics_on(data.info)
        set_precision(config.precision, device)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # shapes are fixed
            torch.cuda.reset_peak_memory_stats(device)  # once: a graph allocates when it is recorded, not in an epoch
        self._choose_steps()
        torch.manual_seed(derive_seed(config.seed, "training", *([processes.rank] if processes.rank else [])))

    @property
    def evaluated_on(self) -> str:
        """The set that names the figures of an evaluation: "test" or "validation"."""
        return self.config.dataset.evaluated_on

    def distribute(self) -> None:
        """Take over the first process's weights, and average gradients over all processes in every step from now on."""
        if not self.processes.are_several:
            return
        device_ids = [self.device] if self.device.type == "cuda" else None
        # no training step uses running statistics; `_share_statistics` shares them where they are used
        known = inspect.signature(DistributedDataParallel).parameters
        options: dict[str, Any] = {"gradient_as_bucket_view": True}
        options["forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"] = False
        parallel = DistributedDataParallel(self.model, device_ids=device_ids, **options)
        # with a single channel, the strides of a gradient are ambiguous
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        self.forward = compile_model(parallel, self.mode)

    def _share_statistics(self) -> None:
        """Give every process the first one's running statistics of batch norm."""
        self.processes.share(self.model.buffers())

    def train_epoch(
        self,
        state: TrainerState,
        stop: StopRequest,
        on_step: Callable[[int], None] = lambda step: None,
        pause: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train the rest of the epoch in `state`; return whether its end was reached.

        A requested stop ends it after the current step, and `state` has all that the rest of the epoch needs. So does
        `pause`, after at least one step, for a checkpoint inside a long epoch. Nothing else waits for the device. All
        processes end it after the same step, whichever of them was asked (on GPUs within `AGREE_EVERY` steps).
        """
        started = time.perf_counter()
        self.model.train()
        for method in self.methods:
            method.begin_epoch(state.epoch)
        names = ("loss", *(metric.name for metric in self.train_metrics), *(["penalty"] if self.is_penalized else []))
        sums = [state.totals.get(name, 0.0) for name in names]
        totals = torch.tensor(sums, dtype=torch.float64 if self.device.type == "cpu" else torch.float32)
        totals = totals.to(self.device)
        first, steps = state.step, self.data.steps_in(state.epoch)
        for images, labels in self.data.train_batches(state.epoch, first):
            if state.step % self._agree_every == 0:
                leave = stop.requested or (state.step > first and pause())
                if self.processes.agree(leave):
                    break
            rate = self._learning_rate(state.epoch, state.step, steps)
            if rate != self._rate:  # on a GPU it may take a launch for each group
                set_learning_rate(self.optimizer, rate)
                self._rate = rate
            totals += self._train_step(images, labels)
            state.step += 1
            on_step(state.step)
        state.totals = dict(zip(names, totals.tolist(), strict=True))  # the one wait for the device
        elapsed = time.perf_counter() - started
        state.epoch_seconds += elapsed
        state.train_seconds += elapsed
        state.seconds += elapsed
        state.images += (state.step - first) * batch_size_at(self.config, state.epoch)
        return state.step == steps

    def _learning_rate(self, epoch: int, step: int, steps: int) -> float:
        """The rate of a step of an epoch: the schedule's, unless a method has its own."""
        rate = learning_rate_at(self.config, epoch, step, steps)
        for method in self.methods:
            rate = method.learning_rate(rate, epoch)
        return rate

    def _train_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Update the weights once; return the batch's summed loss, metrics and penalty, if there is one.

        They stay on the device. The loss does not include the penalty.
        """
        for method in self.methods:
            images, labels = method.mix(images, labels)
        totals = self._update(images, labels)
        for method in self.methods:
            method.after_step()
        return totals

    def _choose_steps(self, recorder: Recorder | None = None) -> None:
        """Execute steps in the chosen mode from the next one on; a recording begins afresh.

        The optimizer's step is part of the recording where it reads everything from the device and no method changes
        the gradients.
        """
        self._rate: float | None = None
        self._update: Step = self._update_by(self._backward)
        recorded = self.mode == "graph"
        whole = OPTIMIZERS[self.config.optimizer.name].recordable and not any(map(changes_gradients, self.methods))
        keep_rates(self.optimizer, self.device if recorded and whole else None)
        if recorded:
            on_failure = self._go_on_without if self.config.compile == "auto" else None
            record = partial(CapturedStep, on_failure=on_failure, recorder=recorder)
            self._update = record(self._update) if whole else self._update_by(record(self._backward))

    def _update_by(self, gradients: Step) -> Step:
        """The step that gets its gradients from `gradients`."""

        def update(images: Tensor, labels: Tensor) -> Tensor:
            totals = gradients(images, labels)
            for method in self.methods:
                method.change_gradients()
            self.optimizer.step()
            return totals

        return update

    def _go_on_without(self, reason: str) -> None:
        """Train eagerly from now on, since no graph can be recorded, and say so in the mode."""
        self.mode = f"none (no graph: {reason})"
        self._choose_steps()

    def _backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Forward and backward pass of a step."""
        with autocast(self.config.precision, self.device):
            for method in self.methods:
                images = method.prepare(images, labels)
            logits, penalties = penalized(self.methods, self.forward, images)
            self._check_logits(logits, len(images))
            loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        sum(penalties, 0 * loss if any(method.alone for method in self.methods) else loss).backward()
        with torch.no_grad():
            single = labels if labels.dim() == 1 else labels.argmax(1)  # of mixed images that with the larger share
            totals = counted(loss.detach() * len(labels), self.train_metrics, logits, single)
            if not self.is_penalized:
                return totals
            return torch.cat([totals, sum(penalties, torch.zeros_like(totals[:1])) * len(labels)])

    def _check_logits(self, logits: Any, images: int) -> None:
        """Refuse a network, for example another package's, that does not return a logit for each class and image."""
        expected, got = (images, self.data.info.num_classes), tuple(getattr(logits, "shape", ()))
        if got != expected:
            raise UserError(
                f"model.name: {self.config.model.name} returns {got or type(logits).__name__} for a batch of {images}"
                f" images of {self.data.info.num_classes} classes; expected logits of {expected}"
            )

    def finish_epoch(self, state: TrainerState) -> dict[str, Any]:
        """Evaluate after the last step of an epoch, advance `state` to the next, and return the epoch's metrics.

        Raises:
            Failure: the loss is not finite, or the error was at chance or worse in `failure.epochs` epochs (the
                authors' rule).
        """
        started = time.perf_counter()
        seen = state.step * batch_size_at(self.config, state.epoch)
        changed = [method.after_epoch(state.epoch) for method in self.methods]
        if any(changed):
            self.processes.share(self.model.parameters())
        sums = self.processes.sum(list(state.totals.values()))
        trained = means(dict(zip(state.totals, sums, strict=True)), seen)
        evaluated = self.evaluate(state.epoch)
        if self.config.diagnostics.train_eval:
            evaluated |= self._evaluated("train_eval", self.data.train_batches(state.epoch))
        lr = self._learning_rate(state.epoch, state.step - 1, state.step)
        training_seconds = state.epoch_seconds
        state.seconds += time.perf_counter() - started
        row = {
            "epoch": state.epoch + 1,
            "lr": lr,
            **{self._named_in_training(name): value for name, value in trained.items()},
            **evaluated,
            "images_per_second": seen / training_seconds if training_seconds else None,
            "epoch_seconds": training_seconds + time.perf_counter() - started,
            "peak_memory_bytes": torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None,
            "time": time.time(),
        }
        state.epoch, state.step, state.totals, state.epoch_seconds = state.epoch + 1, 0, {}, 0.0
        self._raise_if_failed(state, row)
        return row

    def _named_in_training(self, name: str) -> str:
        """The name of a training figure in a record: the error on mixed images is not an error on images."""
        mixed = name not in ("loss", "penalty") and any(method.mixes for method in self.methods)
        return f"train_{name}_mixed" if mixed else f"train_{name}"

    def _raise_if_failed(self, state: TrainerState, row: dict[str, Any]) -> None:
        if not (math.isfinite(row["train_loss"]) and math.isfinite(row[f"{self.evaluated_on}_loss"])):
            raise Failure("loss is not finite", row)
        chance = 100 * (1 - 1 / self.data.info.num_classes)
        state.chance_epochs += row[f"{self.evaluated_on}_error"] >= chance - 1e-9
        if self.config.failure.epochs and state.chance_epochs >= self.config.failure.epochs:
            raise Failure(f"{self.evaluated_on} error at chance or worse in {state.chance_epochs} epochs", row)

    def evaluate(self, epoch: int | None = None) -> dict[str, float]:
        """The mean loss and all metrics, named by the set: `test_loss`, or `validation_loss` of held-out images."""
        return self._evaluated(self.evaluated_on, self.data.test_batches(epoch))

    def _evaluated(self, name: str, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """The mean loss and all metrics of these images in evaluation mode, each behind `name`.

        Each process evaluates its share, with the first one's running statistics.
        """
        self._share_statistics()
        with ExitStack() as contexts:
            for method in self.methods:
                contexts.enter_context(method.evaluating())
            # not compiled: batches have other sizes
            sums = evaluation_sums(self.model, batches, self.metrics, self.config.precision, self.device)
        return named_means(name, self.metrics, self.processes.sum(sums))

    def snapshot(self, state: TrainerState) -> dict[str, Any]:
        """Everything needed to continue, even with another number of processes."""
        own = {
            "totals": state.totals,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        ranks = self.processes.gather(own)
        totals = {name: sum(rank["totals"][name] for rank in ranks) for name in state.totals}
        states = {type(method).__name__: kept for method in self.methods if (kept := method.state())}
        return {
            "state": {**asdict(state), "totals": totals},
            "model": self.model.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "rng": own["rng"],
            "cuda_rng": own["cuda_rng"],
            **({"ranks": ranks} if self.processes.are_several else {}),
            **({"methods": states} if states else {}),
        }

    def restore(self, saved: dict[str, Any]) -> TrainerState:
        """Restore a snapshot, and return its state.

        With another number of processes, the first one takes over the sums of all and its own random stream, and the
        others begin new ones.
        """
        self.model.load_state_dict(saved["model"])
        if "optimizer" in saved:
            self.optimizer.load_state_dict(saved["optimizer"])
        self._choose_steps()  # a recording would go on with the memory of before
        for method in self.methods:
            if kept := saved.get("methods", {}).get(type(method).__name__):
                method.restore(kept)
        state, rank = TrainerState(**saved["state"]), self.processes.rank
        state.totals = _named(state.totals)
        if "optimizer" not in saved:  # the weights alone, of a run that is done
            return state
        own = {"totals": state.totals, "rng": saved["rng"], "cuda_rng": saved["cuda_rng"]}
        ranks = saved.get("ranks", [own])
        if len(ranks) == self.processes.world_size:
            own = ranks[rank]
        elif rank:
            state.totals = dict.fromkeys(state.totals, 0.0)
            torch.manual_seed(derive_seed(self.config.seed, "training", rank, state.epoch, state.step))
            return state
        state.totals = _named(own["totals"])
        torch.set_rng_state(own["rng"])
        if own["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda_rng"], self.device)
        return state


def _named(totals: Any) -> dict[str, float]:
    """The sums of a checkpoint, by name; version 0.1.0 wrote them without names."""
    return totals if isinstance(totals, dict) else dict(zip(("loss", "error"), totals, strict=True))
