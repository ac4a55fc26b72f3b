"""The moving average of the weights: its recursion, what is evaluated with it, and its place in the checkpoint."""

import copy

import pytest
import torch

from farkas_exp.training.trainer import TrainerState
from tests.trainers import Stop, made_trainer, trained

EMA = {"optimizer": {"ema": 0.35}, "normalization": {"name": "batch"}}
"""Three of the five steps are before the decay has risen to this."""


def test_the_average_follows_its_recursion_and_the_network_is_evaluated_with_it():
    trainer, weights = made_trainer(**EMA), []
    model = trainer.model
    average = {name: value.clone() for name, value in model.state_dict().items()}
    step = trainer.optimizer.step

    def noted(*arguments):
        step(*arguments)
        weights.append(copy.deepcopy(model.state_dict()))

    trainer.optimizer.step = noted
    state = TrainerState()
    trained(trainer, state)
    for number, current in enumerate(weights, start=1):
        decay = min(0.35, (1 + number) / (10 + number))
        for name, value in current.items():
            if value.is_floating_point():
                average[name] = decay * average[name] + (1 - decay) * value
    kept = [value for value in average.values() if value.is_floating_point()]
    torch.testing.assert_close(trainer.methods[0].state()["average"], kept, rtol=1e-5, atol=1e-7)
    reference = made_trainer(normalization={"name": "batch"})
    reference.model.load_state_dict(average)
    row = trainer.finish_epoch(state)
    for name, value in reference.evaluate().items():
        assert row[name] == pytest.approx(value, rel=1e-4)
    assert any("running_mean" in name for name in average)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[-1][name]), "what is trained stays as it is, bitwise"
    assert trainer.evaluate() == trainer.evaluate()


def test_a_stopped_run_goes_on_with_the_same_average_bitwise():
    whole, parted, resumed = (made_trainer(**EMA) for _ in range(3))
    state, other, stop = TrainerState(), TrainerState(), Stop()
    trained(whole, state)
    assert not parted.train_epoch(other, stop, on_step=stop.at)
    again = resumed.restore(copy.deepcopy(parted.snapshot(other)))
    trained(resumed, again)
    first, second = whole.methods[0].state(), resumed.methods[0].state()
    assert first["steps"] == second["steps"] == 5
    assert all(torch.equal(a, b) for a, b in zip(first["average"], second["average"], strict=True))
    assert resumed.finish_epoch(again)["test_loss"] == whole.finish_epoch(state)["test_loss"]


def test_the_weights_come_back_from_an_evaluation_that_fails():
    trainer = made_trainer(**EMA)
    trained(trainer, TrainerState())
    (method,) = trainer.methods
    before = copy.deepcopy(trainer.model.state_dict())
    with pytest.raises(AssertionError), method.evaluating():
        assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())


def test_without_an_average_a_checkpoint_is_as_it_was():
    assert "methods" not in made_trainer().snapshot(TrainerState())


def test_the_average_of_another_network_is_refused():
    method = made_trainer(**EMA).methods[0]
    saved = method.state()
    for average in (saved["average"][:-1], [*saved["average"], saved["average"][0]]):
        with pytest.raises(ValueError, match=r"argument 2 is (shorter|longer)"):
            method.restore({**saved, "average": average})
