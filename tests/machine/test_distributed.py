"""Several processes for one run: the numbers of one, one record, one decision, and no hang whatever happens to them."""

import os
import signal
import time

import pytest
import torch

from farkas_exp import runs
from farkas_exp.machine import distributed, liveness
from farkas_exp.machine.processes import Group
from farkas_exp.machine.signals import StopRequest
from farkas_exp.runs import RunDirectory, collect, read_json, read_rows
from farkas_exp.training import building
from farkas_exp.training import session as train
from farkas_exp.training.optimizer import build_optimizer
from farkas_exp.training.trainer import Trainer, TrainerState
from tests.configs import config
from tests.ranks import command, command_with, in_ranks
from tests.shared_runs import EVERY_STEP, SMALL, record, run_of
from tests.stopping import assert_same, numbers

CIFAR_STYLE = {"crop_padding": 2, "flip": True, "cutout": 3}


class InDoublePrecision:
    """A data set whose images are float64."""

    def __init__(self, data):
        self.data = data

    def __getattr__(self, name):
        return getattr(self.data, name)

    def train_batches(self, epoch, start_step=0):
        return ((images.double(), labels) for images, labels in self.data.train_batches(epoch, start_step))


def trained_in_double(steps):
    """The weights after some steps with crops, flips and cutout, and the summed loss and errors of these steps."""
    made = config(normalization={"name": "none"}, augmentation=CIFAR_STYLE, regularizer={
        "name": "norm_bias", "strength": 1e-3, "norm_squared": 5.0})  # fmt: skip
    with distributed.group() as processes:
        data = building.load_data(made, torch.device("cpu"), processes)
        model = building.build_model(made, data, torch.device("cpu")).double()
        optimizer = build_optimizer(model, made.optimizer, 0.05)
        trainer = Trainer(made, model, optimizer, InDoublePrecision(data), torch.device("cpu"), processes)
        trainer.distribute()
        state = TrainerState()
        trainer.train_epoch(state, StopRequest(), pause=lambda: state.step >= steps and processes.is_first)
        weights = [parameter.detach().numpy() for parameter in model.parameters()]
        return state.step, weights, processes.sum(list(state.totals.values()))


@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_take_the_steps_of_one(world_size):
    step, weights, totals = trained_in_double(4)
    untrained = trained_in_double(1)[1]
    assert step == 4
    for step2, weights2, totals2 in in_ranks(world_size, trained_in_double, 4):
        assert step2 == 4
        assert totals2 == pytest.approx(totals, rel=1e-12)
        for ours, theirs in zip(weights, weights2, strict=True):
            assert abs(ours - theirs).max() < 1e-12
    assert max(abs(a - b).max() for a, b in zip(weights, untrained, strict=True)) > 1e-3


def evaluated(path, changes):
    """Loss and error that the processes find with the weights at `path`."""
    made = config(**changes)
    with distributed.group() as processes:
        trainer = train.build_trainer(made, processes)
        trainer.model.load_state_dict(torch.load(path, weights_only=True)["model"])
        if processes.rank:  # running statistics of its own, which must not count
            for buffer in trainer.model.buffers():
                buffer.zero_()
        found = trainer.evaluate()
        on = made.dataset.evaluated_on
        return found[f"{on}_loss"], found[f"{on}_error"]


def test_evaluation_counts_every_image_once_with_the_statistics_of_the_first(undisturbed):
    runs_dir, _ = undisturbed
    path = run_of(runs_dir).checkpoint
    held_out = {"dataset": {"validation": 0.115}, "batch_size": 39}  # 23 images: 7, 8 and 8
    loss, error = evaluated(path, held_out)
    for loss2, error2 in in_ranks(3, evaluated, path, held_out):
        assert error2 == error
        assert loss2 == pytest.approx(loss, rel=1e-5)
    row = read_rows(run_of(runs_dir).metrics)[-1]
    assert evaluated(path, {}) == pytest.approx((row["test_loss"], row["test_error"]), rel=1e-5)


def test_two_processes_train_two_seeds_and_only_the_first_one_speaks(undisturbed):
    runs_dir, ((status, out, err), (status1, out1, err1)) = undisturbed
    assert (status, status1) == (0, 0)
    assert "2 runs in" in out
    assert "2 finished" in out
    assert (err, out1, err1) == ("", "", "")
    assert [record.state for record in collect(runs_dir)] == [runs.FINISHED] * 2
    for each in collect(runs_dir):
        assert read_json(RunDirectory(each.path).environment)["starts"][-1]["world_size"] == 2
        assert [row["epoch"] for row in each.metrics()] == [1, 2, 3]
        assert len(torch.load(RunDirectory(each.path).checkpoint, weights_only=True)["ranks"]) == 2
    assert len(list(runs_dir.glob(".sweeps/*"))) == 1


def test_the_same_command_skips_what_is_done(undisturbed):
    runs_dir, _ = undisturbed
    (status, out, err), second = in_ranks(2, command, *SMALL, f"runs_dir={runs_dir}")
    assert (status, err) == (0, "")
    assert "done before: test error" in out
    assert second == (0, "", "")


def test_random_numbers_are_a_function_of_seed_and_rank(undisturbed):
    """The training stream of the first is that of a single process, the second one's is another."""
    runs_dir, _ = undisturbed
    states = [
        torch.load(run_of(runs_dir, seed).checkpoint, weights_only=True)["ranks"][rank]["rng"]
        for seed in (0, 1) for rank in (0, 1)
    ]  # fmt: skip
    assert all(not torch.equal(states[i], states[j]) for i in range(4) for j in range(i))


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["batch_size=41"], "batch_size: 41 cannot be shared equally by 2 processes"),
        (
            ["-m", "hydra/launcher=local_parallel", "seed=0,1"],
            "hydra/launcher: this command already is several processes",
        ),
        pytest.param(["modle=resnet18"], "modle: unknown 'modle'", marks=pytest.mark.slow),
        pytest.param(
            ["regularizer=sep_up", "regularizer.strength=1"],
            "regularizer.name: sep_up looks at the units and points",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["diagnostics.measures=[robustness]", "diagnostics.epochs=[1]"],
            "diagnostics.measures: robustness works on the whole test set",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_mistake_is_one_line_of_the_first_and_status_2_of_all(tmp_path, arguments, words):
    (status, out, err), second = in_ranks(2, command, *SMALL, *arguments, f"runs_dir={tmp_path / 'runs'}")
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {words}")
    assert err.count("\n") == 1
    assert second == (2, "", "")
    assert not list((tmp_path / "runs").glob("*/*/*"))


def other_data_on_the_second(rank):
    if rank:
        from farkas_exp.data import device

        device.fingerprint = lambda arrays: "other"


@pytest.mark.slow
def test_processes_that_see_different_data_are_refused(tmp_path):
    (status, _, err), second = in_ranks(2, command_with, other_data_on_the_second, *SMALL, f"runs_dir={tmp_path}")
    assert (status, second[0]) == (2, 2)
    assert err.startswith("error: dataset: the processes see different data (fingerprints ")


# --- signals, deaths and errors


def at_step(number, action):
    """Let `action` happen in training step `number` (from 1)."""
    step, count = Trainer._train_step, 0

    def counted(self, images, labels):
        nonlocal count
        count += 1
        if count == number:
            action()
        return step(self, images, labels)

    Trainer._train_step = counted


def terminate_the_second(rank):
    if rank:
        at_step(7, lambda: os.kill(os.getpid(), signal.SIGTERM))


def kill_the_second(rank):
    if rank:
        at_step(8, lambda: os.kill(os.getpid(), signal.SIGKILL))


def kill_both(rank):
    at_step(8, lambda: os.kill(os.getpid(), signal.SIGKILL))


def divide_by_zero_in_the_second(rank):
    if rank:
        at_step(3, lambda: 1 / 0)


def divide_by_zero_in_the_first(rank):
    if not rank:
        at_step(3, lambda: 1 / 0)


def go_silent(rank):
    """Let the second process give no sign of life any more, and hang in a step; a kill would close its connections."""
    liveness.BEAT_SECONDS, liveness.SILENCE_SECONDS, distributed.GRACE_SECONDS = 0.1, 2.0, 1.0
    if rank:
        at_step(7, lambda: (setattr(liveness.Watch, "_run", None), Group.watch.stop(), time.sleep(60)))


def test_a_silent_process_ends_the_others_in_time(tmp_path):
    """It lives, so no connection breaks: without the watch the first one would wait for it for an hour."""
    first, _ = in_ranks(2, command_with, go_silent, *SMALL, *EVERY_STEP, f"runs_dir={tmp_path}", wait_for=[0])
    assert first == 75
    assert record(tmp_path).state == runs.INTERRUPTED
    assert run_of(tmp_path).checkpoint.exists()


def test_a_signal_to_one_stops_all_after_the_same_step_and_they_go_on_bitwise(tmp_path, undisturbed):
    answers = in_ranks(2, command_with, terminate_the_second, *SMALL, f"runs_dir={tmp_path}")
    assert [answer[0] for answer in answers] == [75, 75]
    assert "stopped by SIGTERM in epoch 2, step 2" in answers[0][1]
    saved = torch.load(run_of(tmp_path).checkpoint, weights_only=True)
    assert (saved["state"]["epoch"], saved["state"]["step"]) == (1, 2)
    assert record(tmp_path).progress["state"] == runs.INTERRUPTED
    assert [answer[0] for answer in in_ranks(2, command, *SMALL, f"runs_dir={tmp_path}")] == [0, 0]
    assert_same(run_of(undisturbed[0]), run_of(tmp_path))


@pytest.mark.parametrize("tampering", [kill_the_second, pytest.param(kill_both, marks=pytest.mark.slow)])
def test_after_a_kill_two_processes_go_on_bitwise(tmp_path, undisturbed, tampering):
    """From a checkpoint inside an epoch, since one is written after every step."""
    arguments = [*SMALL, *EVERY_STEP, f"runs_dir={tmp_path}"]
    first, second = in_ranks(2, command_with, tampering, *arguments)
    assert second == -signal.SIGKILL
    if tampering is kill_the_second:
        assert first[0] == 75
        assert "another process of this run ended without a message" in first[1]
    assert record(tmp_path).state == runs.INTERRUPTED
    saved = torch.load(run_of(tmp_path).checkpoint, weights_only=True)["state"]
    assert (saved["epoch"], saved["step"]) in ((1, 1), (1, 2))
    assert [answer[0] for answer in in_ranks(2, command, *arguments)] == [0, 0]
    assert_same(run_of(undisturbed[0]), run_of(tmp_path))


@pytest.mark.parametrize(
    ("first", "second"),
    [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow), pytest.param(2, 4, marks=pytest.mark.slow)],
)
def test_another_number_of_processes_goes_on_to_the_same_numbers(tmp_path, first, second):
    """Without dropout and batch norm, whose numbers are those of a process."""
    arguments = [*SMALL, "normalization=none", "dropout=none", "dropout.rate=0", *EVERY_STEP]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert in_ranks(2, command, *arguments, f"runs_dir={whole}")[0][0] == 0
    in_ranks(first, command_with, kill_both, *arguments, f"runs_dir={parts}")
    assert record(parts).state == runs.INTERRUPTED
    assert in_ranks(second, command, *arguments, f"runs_dir={parts}")[0][0] == 0
    (rows, *tensors), (rows2, *tensors2) = numbers(run_of(whole)), numbers(run_of(parts))
    for row, row2 in zip(rows, rows2, strict=True):
        figures = {key: value for key, value in row.items() if value is not None}
        assert {key: row2[key] for key in figures} == pytest.approx(figures, rel=1e-4)
    torch.testing.assert_close(tensors, tensors2, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "tampering", [pytest.param(divide_by_zero_in_the_first, marks=pytest.mark.slow), divide_by_zero_in_the_second]
)
def test_an_error_of_one_ends_all_with_its_reason_in_the_record(tmp_path, tampering):
    first, second = in_ranks(2, command_with, tampering, "-m", *SMALL, "seed=0,1", f"runs_dir={tmp_path}")
    assert (first[0], second[0]) == (1, 1)
    assert "ZeroDivisionError: division by zero" in first[1]
    assert "1 crashed" in first[1]
    crashed = record(tmp_path)
    assert crashed.state == runs.CRASHED
    assert "lambda: 1 / 0" in (crashed.path / "error.txt").read_text()
    if tampering is divide_by_zero_in_the_second:
        assert "process 1: ZeroDivisionError" in first[1]
        assert second[2] == "error: process 1: ZeroDivisionError: division by zero\n"
    # the same command leaves the crashed one alone and trains the other
    (status, out, _), _ = in_ranks(2, command, "-m", *SMALL, "seed=0,1", f"runs_dir={tmp_path}")
    assert status == 1
    assert "1 finished, 1 crashed" in out
