"""The trainer against the same epochs written out as a plain PyTorch loop."""

import copy
import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from farkas_exp.config.schema import PhaseConfig, PhasesConfig
from farkas_exp.machine.errors import UserError
from farkas_exp.training import trainer as trainer_module
from farkas_exp.training.execution import RecordingFailed
from farkas_exp.training.trainer import Failure, Trainer, TrainerState
from tests.trainers import SMALL, Stop, made_trainer, trained


@pytest.mark.parametrize("normalization", ["none", "batch"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("validation", [0.0, 0.25])
def test_epochs_are_those_of_a_plain_loop(normalization, smoothing, validation):
    options = {
        "normalization": {"name": normalization}, "label_smoothing": smoothing, "epochs": 2,
        "dataset": {"validation": validation}, "lr": {"value": 0.1, "milestones": [100]},
    }  # fmt: skip
    trainer, reference = made_trainer(**options), made_trainer(**options)
    state = TrainerState()
    model, data = reference.model, reference.data
    optimizer = torch.optim.SGD(
        [
            {"params": [p for n, p in model.named_parameters() if p.dim() == 2], "weight_decay": 5e-4},
            {"params": [p for n, p in model.named_parameters() if p.dim() != 2], "weight_decay": 0.0},
        ],
        lr=0.1, momentum=0.9,
    )  # fmt: skip
    for epoch, rate in enumerate((0.1, 0.1 * 0.2)):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses, wrong, seen = 0.0, 0, 0
        for images, labels in data.train_batches(epoch):
            logits = model(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += float(loss.detach()) * len(labels)
            wrong += int((logits.argmax(1) != labels).sum())
            seen += len(labels)
        model.eval()
        with torch.no_grad():
            tests = [(model(images), labels) for images, labels in data.test_batches()]
        logits, labels = (torch.cat(parts) for parts in zip(*tests, strict=True))
        assert trained(trainer, state)
        assert (state.epoch, state.step, state.images) == (epoch, seen // 40, (epoch + 1) * seen)
        row = trainer.finish_epoch(state)
        expected = {
            "epoch": epoch + 1, "lr": rate, "train_loss": losses / seen, "train_error": 100 * wrong / seen,
            "test_loss": float(F.cross_entropy(logits, labels)),
            "test_error": 100 * float((logits.argmax(1) != labels).float().mean()),
        }  # fmt: skip
        found = {key.replace("validation_", "test_"): value for key, value in row.items()}
        assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-5)
        assert (state.epoch, state.step) == (epoch + 1, 0)
    for (name, value), other in zip(trainer.model.state_dict().items(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-6, msg=name)
    assert trainer.model.training is False


def test_the_training_images_are_evaluated_after_the_epoch_where_that_is_asked_for():
    """The authors' training loss: the epoch's augmented images, all of them seen by the network after its last step."""
    trainer = made_trainer(normalization={"name": "batch"}, diagnostics={"train_eval": True}, label_smoothing=0.1)
    state = TrainerState()
    trained(trainer, state)
    row = trainer.finish_epoch(state)
    model = copy.deepcopy(trainer.model).eval()
    batches = list(trainer.data.train_batches(0))
    with torch.no_grad():
        logits, labels = model(torch.cat([images for images, _ in batches])), torch.cat([label for _, label in batches])
    assert row["train_eval_loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-4)
    assert row["train_eval_error"] == pytest.approx(100 * float((logits.argmax(1) != labels).double().mean()))
    assert row["train_eval_loss"] != pytest.approx(row["train_loss"], rel=1e-3)
    assert not any(key.startswith("train_eval") for key in made_row(made_trainer()))


def made_row(trainer: Trainer) -> dict[str, Any]:
    state = TrainerState()
    trained(trainer, state)
    return trainer.finish_epoch(state)


def test_the_seconds_and_the_images_of_an_epoch_are_counted():
    trainer, state = made_trainer(), TrainerState()
    trained(trainer, state)
    assert 0 < state.epoch_seconds == state.train_seconds == state.seconds
    before = state.seconds
    row = trainer.finish_epoch(state)
    assert state.seconds > before == state.train_seconds
    assert row["images_per_second"] == pytest.approx(200 / before)
    assert row["epoch_seconds"] >= before
    assert row["peak_memory_bytes"] is None
    assert state.epoch_seconds == 0


def test_the_seconds_of_an_interrupted_epoch_and_of_the_run_add_up():
    trainer, state = made_trainer(), TrainerState(epoch_seconds=100.0, train_seconds=200.0, seconds=300.0)
    trained(trainer, state)
    passed = [state.epoch_seconds - 100, state.train_seconds - 200, state.seconds - 300]
    assert 0 < passed[0] == pytest.approx(passed[1], abs=1e-9) == pytest.approx(passed[2], abs=1e-9)
    assert passed[0] < 60


def test_the_loss_of_an_epoch_leaves_the_regularizer_out_and_the_gradient_does_not():
    plain, heavy = made_trainer(epochs=1), made_trainer(epochs=1, regularizer={"name": "norm_bias", "strength": 0.5})
    rows = []
    for trainer in (plain, heavy):
        state = TrainerState()
        trained(trainer, state)
        rows.append(trainer.finish_epoch(state))
    norms = [float(sum(p.detach().pow(2).sum() for p in t.model.parameters())) for t in (plain, heavy)]
    assert norms[1] < 0.5 * norms[0]
    assert abs(rows[1]["train_loss"] - math.log(10)) < 0.3


def test_a_stop_ends_the_epoch_behind_a_step_and_the_rest_follows_to_the_same_weights():
    whole, parted = made_trainer(), made_trainer()
    state, other = TrainerState(), TrainerState()
    assert trained(whole, state)
    stop = Stop()
    assert not parted.train_epoch(other, stop, on_step=stop.at)
    assert other.step == 3
    assert trained(parted, other, pause=lambda: False)
    assert other.totals == pytest.approx(state.totals)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), parted.model.parameters(), strict=True))


def test_a_pause_comes_after_one_step_at_least():
    trainer, state = made_trainer(), TrainerState()
    steps = []
    while not trained(trainer, state, on_step=steps.append, pause=lambda: True):
        assert len(steps) == state.step
    assert steps == [1, 2, 3, 4, 5]


def failing(trainer: Trainer, **row: float) -> tuple[TrainerState, str | None]:
    state = TrainerState()
    trainer.evaluate = lambda epoch=None: {"test_loss": 1.0, "test_error": 50.0, **row}  # type: ignore[method-assign]
    for _ in range(3):
        trained(trainer, state)
        try:
            trainer.finish_epoch(state)
        except Failure as failure:
            return state, str(failure) if failure.row["epoch"] == state.epoch else "the row is of another epoch"
    return state, None


@pytest.mark.parametrize(
    ("epochs", "row", "ends", "reason"),
    [
        (0, {"test_error": 95.0}, 3, None),
        (2, {"test_error": 89.9}, 3, None),
        (2, {"test_error": 90.0}, 2, "test error at chance or worse in 2 epochs"),
        (1, {"test_error": 95.0}, 1, "test error at chance or worse in 1 epochs"),
        (0, {"test_loss": float("nan")}, 1, "loss is not finite"),
        (0, {"test_loss": float("inf")}, 1, "loss is not finite"),
    ],
)
def test_a_run_fails_at_chance_or_without_a_finite_loss(epochs, row, ends, reason):
    state, found = failing(made_trainer(failure={"epochs": epochs}), **row)
    assert (state.epoch, found) == (ends, reason)


def test_a_training_loss_that_is_not_finite_fails_too():
    trainer = made_trainer()
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    assert failing(trainer)[1] == "loss is not finite"


def test_bf16_computes_in_bf16_and_keeps_its_weights():
    trainer = made_trainer(precision="bf16")
    kinds = []
    linear = next(m for m in trainer.model.modules() if isinstance(m, torch.nn.Linear))
    linear.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    trained(trainer, TrainerState())
    trainer.evaluate()
    assert set(kinds) == {torch.bfloat16}
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_a_snapshot_is_taken_over_with_everything_that_goes_on():
    first, second = made_trainer(model={**SMALL["model"]}, dropout={"rate": 0.3}), made_trainer(dropout={"rate": 0.3})
    state = TrainerState()
    stop = Stop()
    first.train_epoch(state, stop, on_step=stop.at)
    saved = copy.deepcopy(first.snapshot(state))  # as a file would hold it
    torch.manual_seed(99)
    other = second.restore(saved)
    assert other == state
    random = torch.rand(2)
    second.restore(saved)
    assert torch.equal(torch.rand(2), random)
    second.restore(saved)
    trained(second, other)
    assert other.step == 5
    torch.set_rng_state(saved["rng"])
    trained(first, state)
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))


def test_dropout_follows_its_schedule_by_epoch():
    trainer, state = made_trainer(epochs=4, dropout={"rate": 0.4, "anneal": 1.0}), TrainerState()
    rates = []
    for _ in range(3):
        trained(trainer, state)
        rates.append(next(m.dropout for m in trainer.model.modules() if hasattr(m, "dropout")))
        trainer.finish_epoch(state)
    assert rates == pytest.approx([0.4, 0.3, 0.2])


def test_the_training_draws_from_a_stream_of_the_runs_seed():
    drawn = []
    for seed in (0, 0, 1):
        made_trainer(seed=seed)
        drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_in_phases_every_step_has_its_own_rate_and_the_images_are_those_of_the_phase():
    trainer, state = made_trainer(), TrainerState()
    phases = PhasesConfig("line", (PhaseConfig(1, 8, 40, 0.1, 0.6), PhaseConfig(2, 8, 20, 0.6, 0.1)))
    trainer.config = dataclasses.replace(trainer.config, phases=phases)
    rates = []
    trained(trainer, state, on_step=lambda step: rates.append(trainer.optimizer.param_groups[0]["lr"]))
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    row = trainer.finish_epoch(state)
    assert (state.images, row["lr"]) == (200, pytest.approx(0.5))
    trained(trainer, state)
    assert state.images == 200 + 5 * 20
    batches = trainer.data.train_batches  # five; the phase has ten
    trainer.data = SimpleNamespace(info=trainer.data.info, train_batches=batches, steps_in={1: 10}.__getitem__)  # type: ignore[assignment]
    state.step, rates[:] = 0, []
    assert not trained(trainer, state, on_step=lambda step: rates.append(trainer.optimizer.param_groups[0]["lr"]))
    assert rates == pytest.approx([0.6, 0.55, 0.5, 0.45, 0.4])


@pytest.mark.parametrize("mode", ["auto", "graph"])
def test_only_an_automatic_choice_goes_on_without_a_graph(mode, monkeypatch):
    def refuse(function):
        raise RecordingFailed("not here")

    monkeypatch.setattr(trainer_module, "choose_mode", lambda *arguments: "graph")
    trainer, state = made_trainer(compile=mode), TrainerState()
    trainer._choose_steps(refuse)
    if mode == "auto":
        assert trained(trainer, state)
        assert trainer.mode == "none (no graph: not here)"
    else:
        with pytest.raises(RecordingFailed):
            trained(trainer, state)


@pytest.mark.parametrize(("device", "own"), [("cpu", None), ("cuda:1", [torch.device("cuda:1")])])
def test_several_processes_train_the_network_of_all_each_on_its_own_device(device, own, monkeypatch):
    made = {}

    def parallel(model, device_ids, **options):
        made.update(model=model, device_ids=device_ids)
        return nn.Sequential(model)

    monkeypatch.setattr(trainer_module, "DistributedDataParallel", parallel)
    monkeypatch.setattr(trainer_module, "compile_model", lambda model, mode: (type(model), mode))
    trainer = made_trainer(compile="default")
    trainer.distribute()
    assert made == {}, "one process needs none of it"
    trainer.device, trainer.processes = torch.device(device), SimpleNamespace(are_several=True)  # type: ignore[assignment]
    trainer.distribute()
    assert made == {"model": trainer.model, "device_ids": own}
    assert trainer.forward == (nn.Sequential, "default")


def test_a_gpus_own_generator_goes_into_the_snapshot_and_comes_back(monkeypatch):
    trainer = made_trainer()
    trainer.device = torch.device("cuda:1")
    states = {trainer.device: torch.tensor([7])}
    monkeypatch.setattr(torch.cuda, "get_rng_state", states.__getitem__)
    saved = trainer.snapshot(TrainerState())
    found = {}
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: found.update({device: state}))
    trainer.restore(saved)
    assert found == states


def test_an_attack_of_the_training_moves_the_images_it_learns_from_and_not_those_it_is_tested_on():
    plain, attacked = made_trainer(epochs=1), made_trainer(epochs=1, attack={"name": "pgd", "steps": 2})
    for trainer in (plain, attacked):
        trained(trainer, TrainerState())
    pairs = list(zip(plain.model.parameters(), attacked.model.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in pairs)
    attacked.model.load_state_dict(plain.model.state_dict())
    assert attacked.evaluate() == plain.evaluate()


def test_a_process_that_joins_begins_without_sums_and_with_a_stream_of_its_own():
    trainer, state = made_trainer(), TrainerState()
    stop = Stop()
    trainer.train_epoch(state, stop, on_step=stop.at)  # type: ignore[arg-type]
    saved = copy.deepcopy(trainer.snapshot(state))
    assert sum(saved["state"]["totals"].values()) > 0
    drawn = []
    for rank in (1, 2, 1):
        trainer.processes = SimpleNamespace(rank=rank, world_size=3)  # type: ignore[assignment]
        assert sum(trainer.restore(saved).totals.values()) == 0
        drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[2] != drawn[1]
    later = {**saved, "state": {**saved["state"], "step": 4}}
    trainer.restore(later)
    assert torch.rand(3).tolist() != drawn[2]
    trainer.processes = SimpleNamespace(rank=0, world_size=3)  # type: ignore[assignment]
    assert trainer.restore(saved).totals == state.totals
    assert torch.equal(torch.get_rng_state(), saved["rng"])


@pytest.mark.parametrize("logits", [lambda x: x[:, :-1], lambda x: torch.cat([x, x], 1), lambda x: x.mean(1), tuple])
def test_logits_that_are_not_one_for_each_class_and_image_are_refused(logits):
    trainer = made_trainer()
    trainer.model.register_forward_hook(lambda module, args, output: logits(output))
    with pytest.raises(UserError, match=r"^model.name: mlp returns .* expected logits of \(40, 10\)"):
        trained(trainer, TrainerState())
