"""Runs that survive: resumption inside an epoch, damaged and lost files, full and read-only disks, moved folders."""

import errno
import os
import re
import resource
import shutil
import signal

import pytest
import torch
from torch import nn

from farkas_exp import runs
from farkas_exp.config import parse
from farkas_exp.launch import execution, outcomes
from farkas_exp.machine.errors import UserError
from farkas_exp.runs import checkpoint, open_run, read_json, read_rows, read_run
from farkas_exp.training import session as train
from farkas_exp.training.trainer import Trainer
from tests.configs import config, values
from tests.forks import Fork
from tests.stopping import assert_same, stop_after

CIFAR_STYLE = {"crop_padding": 2, "flip": True, "cutout": 3}
MEASURED = {"augmentation": CIFAR_STYLE, "diagnostics": {"epochs": [0, 1]}}


def die(*arguments):
    """Stand in for a SIGKILL at exactly this point: nothing after it happens, no handler runs."""
    raise Killed


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The undisturbed run."""
    made = config(tmp_path_factory.mktemp("whole"))
    assert execution.execute(made).status == runs.FINISHED
    return open_run(made)


@pytest.fixture(scope="module")
def whole_measured(tmp_path_factory):
    """The undisturbed run with random augmentation and diagnostics."""
    made = config(tmp_path_factory.mktemp("measured"), **MEASURED)
    assert execution.execute(made).status == runs.FINISHED
    return open_run(made)


# --- resumption


@pytest.mark.parametrize("step", [1, 6, 14])
def test_a_checkpoint_inside_an_epoch_is_enough_to_go_on_bitwise(whole_measured, tmp_path, monkeypatch, step):
    """5 steps an epoch, a checkpoint after every step and at no end of an epoch; killed in step `step` + 1."""
    killed = config(tmp_path / "killed", checkpoint={"every_epochs": 0, "every_minutes": 1e-9}, **MEASURED)
    original, count = Trainer._train_step, 0

    def counted(self, images, labels):
        nonlocal count
        count += 1
        return die() if count > step else original(self, images, labels)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_train_step", counted)
        with pytest.raises(Killed):
            execution.execute(killed)
    saved = checkpoint.load(open_run(killed))["state"]
    assert 5 * saved["epoch"] + saved["step"] in (step, step - 1)  # the end of an epoch is no step of it
    assert execution.execute(killed).status == runs.FINISHED
    assert_same(whole_measured, open_run(killed))
    assert read_rows(whole_measured.diagnostics) == read_rows(open_run(killed).diagnostics)
    assert [row["epoch"] for row in read_rows(open_run(killed).diagnostics)] == [0, 1]


def test_long_epochs_are_saved_by_time_and_short_ones_are_not_slowed_down(tmp_path, monkeypatch):
    saves = []
    monkeypatch.setattr(checkpoint, "save", lambda run, state: saves.append(state["state"]["step"]))
    execution.execute(config(tmp_path / "a", epochs=1, checkpoint={"every_epochs": 0, "every_minutes": 60.0}))
    assert saves == [0]  # the last checkpoint of the run
    saves.clear()
    execution.execute(config(tmp_path / "b", epochs=1, checkpoint={"every_epochs": 0, "every_minutes": 1e-9}))
    assert saves == [1, 2, 3, 4, 0]


class Net(nn.Module):
    """Batch normalization and dropout: what consumes random numbers and what keeps state."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.3), nn.Flatten()
        )
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(256, 10))

    def forward(self, images):
        return self.head(self.features(images))


@pytest.mark.parametrize("steps", [3, 5, 12])
def test_dropout_goes_on_with_its_own_random_numbers(tmp_path, monkeypatch, steps):
    monkeypatch.setattr(train, "build_model", lambda *arguments: seeded_net())
    whole, parts = config(tmp_path / "a", augmentation=CIFAR_STYLE), config(tmp_path / "b", augmentation=CIFAR_STYLE)
    assert execution.execute(whole).status == runs.FINISHED
    with monkeypatch.context() as patched:
        stop_after(steps, patched)
        assert execution.execute(parts).status == runs.INTERRUPTED
    torch.manual_seed(999)  # another process has another global state
    assert execution.execute(parts).status == runs.FINISHED
    assert_same(open_run(whole), open_run(parts))


def seeded_net():
    torch.manual_seed(0)
    return Net()


@pytest.mark.parametrize("moment", ["fsync", "first replace", "second replace"])
def test_killed_while_a_checkpoint_is_written(whole, tmp_path, monkeypatch, moment):
    killed = config(tmp_path / "killed")
    save, seen = checkpoint.save, []

    def save_then_die(run, state):
        seen.append(state)
        if len(seen) < 2:
            return save(run, state)
        target = {"fsync": "fsync", "first replace": "replace", "second replace": "replace"}[moment]
        original = getattr(os, target)
        calls = []

        def call(*arguments):
            calls.append(arguments)
            return die() if len(calls) == (2 if moment == "second replace" else 1) else original(*arguments)

        with monkeypatch.context() as inner:
            inner.setattr(os, target, call)
            inner.setattr("pathlib.Path.unlink", lambda *a, **k: None)  # nor is anything tidied up
            return save(run, state)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", save_then_die)
        with pytest.raises(Killed):
            execution.execute(killed)
    run = open_run(killed)
    assert list(run.path.glob(".*.tmp"))
    assert execution.execute(killed).status == runs.FINISHED
    assert_same(whole, run)
    assert not list(run.path.glob(".*.tmp"))


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_checkpoint_is_named_and_the_previous_one_used(whole, tmp_path, monkeypatch, capfd, damage):
    damaged = config(tmp_path / "damaged")
    with monkeypatch.context() as patched:
        stop_after(13, patched)
        execution.execute(damaged)
    run = open_run(damaged)
    content = run.checkpoint.read_bytes()
    if damage == "truncated":
        run.checkpoint.write_bytes(content[: len(content) // 2])
    else:
        weights = checkpoint.load(run)["model"]["classifier.weight"].numpy().tobytes()
        flipped = bytes([weights[0] ^ 1]) + weights[1:]
        assert content.count(weights) == 1
        run.checkpoint.write_bytes(content.replace(weights, flipped))
    capfd.readouterr()
    assert execution.execute(damaged).status == runs.FINISHED
    said = capfd.readouterr().err.splitlines()
    assert said == [f"warning: {run.checkpoint}: truncated, or no checkpoint; going on from the one before it"]
    assert_same(whole, run)
    assert [row["epoch"] for row in read_rows(run.metrics)] == [1, 2, 3]
    run.checkpoint.write_bytes(b"PK")
    assert checkpoint.load(run, said.append) is None
    assert said[1:] == [f"{run.checkpoint}: truncated, or no checkpoint; there is none before it"]


def test_a_process_killed_after_its_result_leaves_nothing_to_do(tmp_path, monkeypatch):
    """The result is the last file: killed just before it, the same command writes it, without training."""
    made = config(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(train, "write_result", lambda *arguments: die())
        with pytest.raises(Killed):
            execution.execute(made)
    run = open_run(made)
    assert read_run(run.path).state == runs.INTERRUPTED
    monkeypatch.setattr(Trainer, "_train_step", lambda *arguments: pytest.fail("trained again"))
    assert execution.execute(made).status == runs.FINISHED
    assert read_json(run.result)["test_error"] == read_rows(run.metrics)[-1]["test_error"]


# --- lost, foreign and copied files


def interrupted(made, monkeypatch, steps=8):
    with monkeypatch.context() as patched:
        stop_after(steps, patched)
        assert execution.execute(made).status == runs.INTERRUPTED
    return open_run(made)


def test_a_torn_last_line_is_cut_and_written_again(whole, tmp_path, monkeypatch):
    torn = config(tmp_path / "torn")
    run = interrupted(torn, monkeypatch)
    with open(run.metrics, "a", encoding="utf-8") as file:
        file.write('{"epoch": 2, "tra')
    assert execution.execute(torn).status == runs.FINISHED
    assert_same(whole, run)


def test_metrics_that_lack_an_epoch_are_refused_and_nothing_is_harmed(tmp_path, monkeypatch):
    made = config(tmp_path)
    run = interrupted(made, monkeypatch)
    run.metrics.write_text("notes of mine\n")
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(UserError, match=r"metrics.jsonl: epoch 1 is missing, but the checkpoint is after epoch 1"):
        execution.execute(made)
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_the_checkpoint_of_another_run_is_refused(tmp_path, monkeypatch):
    made, other = config(tmp_path), config(tmp_path, seed=1)
    run, second = interrupted(made, monkeypatch), interrupted(other, monkeypatch)
    shutil.copy(second.checkpoint, run.checkpoint)
    with pytest.raises(UserError, match="a checkpoint of another run"):
        execution.execute(made)


def test_a_checkpoint_that_does_not_fit_the_network_is_refused_in_one_line(tmp_path, monkeypatch):
    made = config(tmp_path)
    run = interrupted(made, monkeypatch)
    saved = checkpoint.load(run)
    saved["model"].pop(next(iter(saved["model"])))
    checkpoint.save(run, saved)
    with pytest.raises(UserError, match="does not fit this version's network") as raised:
        execution.execute(made)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "lost", ["run.json", "config.yaml", "state.json", "environment.json", "log.txt", "lock", "checkpoint.pt"]
)
def test_a_finished_run_survives_the_loss_of_any_file_but_its_result(whole, tmp_path, lost):
    shutil.copytree(whole.path.parent, tmp_path / whole.path.parent.name)
    made = config(tmp_path)
    run = open_run(made)
    result = run.result.read_bytes()
    (run.path / lost).unlink()
    assert execution.execute(made).status == outcomes.SKIPPED
    assert run.result.read_bytes() == result
    assert [record.state for record in runs.collect(tmp_path)] == [runs.FINISHED]


def test_state_of_any_kind_is_read_without_an_exception(tmp_path, monkeypatch):
    made = config(tmp_path)
    run = interrupted(made, monkeypatch)
    for text in ('{"state": 3, "epoch": "x"}', "[]", '{"state": "running", "epoch": null}', "\x00", ""):
        run.state.write_text(text)
        assert read_run(run.path).state in (runs.EMPTY, runs.INTERRUPTED)


def test_a_copied_folder_goes_on_where_it_is(whole, tmp_path, monkeypatch):
    """Killed on one machine, its runs_dir moved to another: the lock and the "running" of the first mean nothing."""
    made = config(tmp_path / "here")
    run = interrupted(made, monkeypatch)
    state = read_json(run.state)
    runs.write_json(run.state, {**state, "state": runs.RUNNING, "host": "elsewhere", "pid": os.getpid()})
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    moved = config(tmp_path / "there")
    assert read_run(open_run(moved).path).state == runs.INTERRUPTED
    assert execution.execute(moved).status == runs.FINISHED
    assert_same(whole, open_run(moved))
    assert read_json(open_run(moved).record)["wandb_id"]
    assert not (tmp_path / "here").exists()


# --- disks


@pytest.mark.parametrize("file", ["metrics.jsonl", "checkpoint.pt", "state.json"])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on_later(whole, tmp_path, monkeypatch, capfd, file):
    made = config(tmp_path / "full")
    run = open_run(made)
    sync, full = os.fsync, False

    def fsync(descriptor):
        nonlocal full
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        full = full or (file in name and len(read_rows(run.metrics)) >= 2)
        if full and str(run.path) in name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        outcome = execution.execute(made)
    assert (outcome.status, outcome.exit_status) == (outcomes.DISK, 1)
    named = "" if file == "metrics.jsonl" else rf" \({re.escape(str(run.path))}/{re.escape(file)}\)"
    assert re.match(f"No space left on device{named}; mend it and give the same command again", outcome.note)
    assert capfd.readouterr().err == ""
    assert read_run(run.path).state == runs.INTERRUPTED
    assert not list(run.path.glob(".*.tmp"))
    assert execution.execute(made).status == runs.FINISHED
    assert_same(whole, run)


def test_a_file_size_limit_while_torch_writes_is_one_line(tmp_path):
    """torch reports it as a RuntimeError of its own; a limit is a full disk that a test may have without a mount."""

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        print(execution.execute(config(tmp_path / "runs")))

    status, said = Fork(limited, tmp_path / "said").end()
    assert status == 0
    assert "status='file error'" in said
    assert re.search(r"File too large \(\S+/checkpoint\.pt\); mend it", said)
    assert said.count("\n") == 1, "and no warning"
    (record,) = runs.collect(tmp_path / "runs")
    assert record.state == runs.INTERRUPTED
    assert not record.path.joinpath("error.txt").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_read_only_folder_is_refused_in_one_line_and_its_finished_runs_are_skipped(whole, tmp_path, monkeypatch):
    shutil.copytree(whole.path.parent, tmp_path / whole.path.parent.name)
    done, new = config(tmp_path), config(tmp_path, epochs=2)
    make = os.mkdir

    def read_only(path, *arguments):
        if str(path).startswith(str(tmp_path)):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return make(path, *arguments)

    monkeypatch.setattr(os, "mkdir", read_only)
    assert execution.execute(done).status == outcomes.SKIPPED
    outcome = execution.execute(new)
    assert outcome.status == outcomes.DISK
    assert outcome.note.startswith(f"Read-only file system ({tmp_path}")


def test_a_defect_is_still_a_crash_with_its_traceback(tmp_path, monkeypatch):
    made = config(tmp_path)

    def missing(self, epoch):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/image.png")

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "evaluate", missing)
        assert execution.execute(made).status == runs.CRASHED
    assert "image.png" in open_run(made).error.read_text()


def test_a_crash_before_the_first_epoch_is_a_known_run(tmp_path, monkeypatch):
    made = config(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(train, "build_model", lambda *arguments: 1 / 0)
        assert execution.execute(made).status == runs.CRASHED
    assert [record.state for record in runs.collect(tmp_path)] == [runs.CRASHED]
    assert execution.execute(made).status == runs.CRASHED
    assert execution.execute(parse({**values(tmp_path), "retry_failed": True})).status == runs.FINISHED
