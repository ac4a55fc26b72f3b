"""Whole runs through `execution.execute`: what a user sees of one run."""

import os
import signal
from dataclasses import replace

import pytest
import torch

from farkas_exp import runs
from farkas_exp.data.base import Batching
from farkas_exp.launch import execution, outcomes
from farkas_exp.machine.errors import UserError
from farkas_exp.runs import open_run, read_json, read_rows, read_run
from farkas_exp.training.building import build_model
from farkas_exp.training.trainer import Trainer
from tests.configs import config
from tests.forks import Fork
from tests.stopping import assert_same, numbers, stop_after


def test_a_run_learns_and_leaves_its_whole_record(tmp_path):
    made = config(tmp_path, epochs=6, diagnostics={"epochs": [0, 6], "images": 16})
    outcome = execution.execute(made)
    run = open_run(made)
    assert (outcome.status, outcome.path) == (runs.FINISHED, str(run.path))
    result, rows = read_json(run.result), read_rows(run.metrics)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] - 0.08
    assert (result["test_error"], result["test_loss"]) == (rows[-1]["test_error"], rows[-1]["test_loss"])
    assert result["best_test_error"] == min(row["test_error"] for row in rows)
    assert [row["lr"] for row in rows] == pytest.approx([0.05, 0.05, 0.01, 0.01, 0.002, 0.0004])
    environment = read_json(run.environment)
    assert [start["torch"] for start in environment["starts"]] == [torch.__version__]
    assert environment["data"]["train"] == 200
    names = {path.name for path in run.path.iterdir()}
    assert names == {
        "run.json", "config.yaml", "state.json", "metrics.jsonl", "diagnostics.jsonl", "result.json",
        "environment.json", "checkpoint.pt", "log.txt", "lock",
    }  # fmt: skip
    diagnosed = read_rows(run.diagnostics)
    assert [row["epoch"] for row in diagnosed] == [0, 6]
    assert all(layer["dead_points"] == 0 for row in diagnosed for layer in row["layers"])


def test_a_finished_run_is_skipped_without_being_touched(tmp_path):
    made = config(tmp_path)
    assert execution.execute(made).status == runs.FINISHED
    before = {path.name: path.stat().st_mtime_ns for path in open_run(made).path.iterdir()}
    outcome = execution.execute(made)
    assert outcome.status == outcomes.SKIPPED
    assert "done before: test error" in outcome.note
    assert {path.name: path.stat().st_mtime_ns for path in open_run(made).path.iterdir()} == before


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(tmp_path):
    first, second, other = config(tmp_path / "a"), config(tmp_path / "b"), config(tmp_path / "a", seed=1)
    for made in (first, second, other):
        execution.execute(made)
    assert_same(open_run(first), open_run(second))
    assert numbers(open_run(first))[0] != numbers(open_run(other))[0]


@pytest.mark.parametrize("steps", [1, 3, 5, 7, 15])
def test_a_stopped_run_goes_on_to_the_same_numbers_bitwise(tmp_path, monkeypatch, steps):
    """5 steps an epoch: stopped at the start, inside, at the end of an epoch, after one, and after the last step."""
    whole, parts = config(tmp_path / "whole"), config(tmp_path / "parts")
    execution.execute(whole)
    with monkeypatch.context() as patched:
        stop_after(steps, patched)
        outcome = execution.execute(parts)
    if steps < 15:
        assert (outcome.status, outcome.exit_status) == (runs.INTERRUPTED, 75)
        assert "SIGTERM" in outcome.note
        assert read_run(open_run(parts).path).state == runs.INTERRUPTED
        assert execution.execute(parts).status == runs.FINISHED
    assert_same(open_run(whole), open_run(parts))


def test_a_killed_run_goes_on_to_the_same_numbers_bitwise(tmp_path):
    whole, killed = config(tmp_path / "whole", epochs=4), config(tmp_path / "killed", epochs=4)
    run = open_run(killed)

    def train():
        stop_after(13, pytest.MonkeyPatch(), signal.SIGKILL)  # in the third epoch
        print(execution.execute(killed))  # not reached; or it says why it was

    assert Fork(train, tmp_path / "said").end() == (-signal.SIGKILL, "")
    assert len(read_rows(run.metrics)) == 2
    assert read_run(run.path).state == runs.INTERRUPTED
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert execution.execute(killed).status == runs.FINISHED
        execution.execute(whole)
    finally:
        torch.set_num_threads(threads)
    assert_same(open_run(whole), run)


def test_a_run_without_progress_fails_is_recorded_and_is_no_error(tmp_path):
    made = config(tmp_path, lr={"value": 1e-12}, normalization={"name": "none"}, epochs=12, failure={"epochs": 2})
    outcome = execution.execute(made)
    result = read_json(open_run(made).result)
    assert (outcome.status, outcome.exit_status) == (runs.FAILED, 0)
    assert result["status"] == runs.FAILED
    assert result["epochs"] < 12
    assert result["reason"] == "test error at chance or worse in 2 epochs"
    again = execution.execute(made)
    assert again.status == outcomes.SKIPPED
    assert "retry_failed=true" in again.note
    assert execution.execute(replace(made, retry_failed=True)).status == runs.FAILED
    assert len(read_rows(open_run(made).metrics)) == result["epochs"]


def test_a_diverged_run_fails_with_its_reason(tmp_path):
    made = config(tmp_path, lr={"value": 1e30}, normalization={"name": "none"}, epochs=5)
    assert execution.execute(made).status == runs.FAILED
    result = read_json(open_run(made).result)
    assert (result["reason"], result["epochs"]) == ("loss is not finite", 1)


def test_a_diverged_run_fails_whatever_is_measured_of_it_or_done_to_its_weights(tmp_path):
    made = config(
        tmp_path, lr={"value": 1e30}, normalization={"name": "none"}, epochs=2,
        diagnostics={
            "epochs": [0, 1], "measures": ["hessian", "rank", "ntk", "grad_norm"], "ntk_images": 4, "lanczos_steps": 5,
        },
        callback={"name": "rank_min", "threshold": 0.1, "last_epochs": 2},
    )  # fmt: skip
    assert execution.execute(made).status == runs.FAILED
    before, after = read_rows(open_run(made).diagnostics)
    assert (before["hessian_max"] > 0, after["hessian_max"], after["dead_samples"]) == (True, None, None)


def test_the_failure_rule_counts_epochs_at_chance_in_total():
    made = config(failure={"epochs": 2})
    trainer = Trainer.__new__(Trainer)
    trainer.config = made
    trainer.data = type("Data", (), {"info": type("Info", (), {"num_classes": 10})})
    from farkas_exp.training.trainer import Failure, TrainerState

    state = TrainerState()
    row = {"train_loss": 1.0, "test_loss": 1.0}
    trainer._raise_if_failed(state, {**row, "test_error": 90.0})
    trainer._raise_if_failed(state, {**row, "test_error": 89.9})
    with pytest.raises(Failure, match="at chance or worse in 2 epochs"):
        trainer._raise_if_failed(state, {**row, "test_error": 95.0})


def test_a_crash_is_kept_with_its_traceback_and_left_alone_until_retried(tmp_path, monkeypatch):
    made = config(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "evaluate", lambda self, epoch: 1 / 0)
        outcome = execution.execute(made)
    run = open_run(made)
    assert (outcome.status, outcome.exit_status) == (runs.CRASHED, 1)
    assert "ZeroDivisionError: division by zero" in outcome.note
    assert "Traceback" in run.error.read_text()
    assert execution.execute(made).status == runs.CRASHED
    assert execution.execute(config(tmp_path, retry_failed=True)).status == runs.FINISHED
    assert not run.error.exists()


def test_an_error_after_a_requested_stop_interrupts_the_run_and_the_same_command_goes_on(tmp_path, monkeypatch):
    """A signal to the whole process group also ends the compiler that a step waits for."""
    made = config(tmp_path)

    def killed(self, images, labels):
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("the compiler was killed")

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_train_step", killed)
        outcome = execution.execute(made)
    assert (outcome.status, outcome.exit_status) == (runs.INTERRUPTED, 75)
    assert "stopped by SIGTERM" in outcome.note
    assert "the compiler was killed" in outcome.note
    assert read_run(open_run(made).path).state == runs.INTERRUPTED
    assert execution.execute(made).status == runs.FINISHED


def test_a_users_mistake_leaves_nothing_behind(tmp_path):
    for change in (
        {"model": {"name": "fixup34", "blocks": None, "widths": None}},
        {"batch_size": 201},
        {"init": {"name": "xaver"}},
        {"dataset": {"name": "image_folder", "root": str(tmp_path / "nowhere"), "train_limit": None}},
    ):
        with pytest.raises(UserError):
            execution.execute(config(tmp_path / "runs", **change))
        assert not list((tmp_path / "runs").glob("*"))


def test_changed_data_is_noticed_when_a_run_goes_on(tmp_path, monkeypatch):
    made = config(tmp_path)
    with monkeypatch.context() as patched:
        stop_after(3, patched)
        execution.execute(made)
    environment = read_json(open_run(made).environment)
    environment["data"]["fingerprint"] = "other"
    runs.write_json(open_run(made).environment, environment)
    with pytest.raises(UserError, match="not the data this run began with"):
        execution.execute(made)


@pytest.mark.parametrize("layout", [True, False])
def test_bf16_and_both_memory_formats_train(tmp_path, layout):
    made = config(tmp_path, precision="bf16", channels_last=layout, epochs=1)
    assert execution.execute(made).status == runs.FINISHED


def test_match_farkas_scales_the_network_of_the_same_seed_and_needs_no_normalization(tmp_path):
    from farkas_exp.data.build import build_data

    def built(init, **more):
        options = {"model": {"name": "resnet34"}, "normalization": {"name": "none"}, "init": {"name": init}, **more}
        made = config(**options)
        data = build_data(made.dataset, made.augmentation, Batching(40, 0))
        return build_model(made, data, torch.device("cpu"))

    before, after = built("pytorch"), built("match_farkas")
    ratio = (after.stem.layer.weight / before.stem.layer.weight).detach()
    assert float(ratio.std()) < 1e-5
    assert float(ratio.mean()) > 1.01
    with pytest.raises(UserError, match="match_farkas is for networks without normalization"):
        built("match_farkas", normalization={"name": "batch"})
    with pytest.raises(UserError, match="match_farkas needs a plain network"):
        built("match_farkas", model={"name": "farkasnet34"})


def test_wandb_groups_the_seeds_of_a_cell_under_its_experiment(tmp_path, monkeypatch):
    from farkas_exp.config.identity import identify
    from farkas_exp.runs.wandb import WandbMirror

    seen = []
    start = WandbMirror.start

    def watched(settings, run_dir, run_id, name, group, tags, values):
        seen.append((name, group))
        return start(settings, run_dir, run_id, name, group, tags, values)

    monkeypatch.setattr(WandbMirror, "start", watched)
    made = [
        config(tmp_path, epochs=1, seed=seed, experiment=experiment) for seed, experiment in ((0, "table1"), (1, None))
    ]
    for each in made:
        execution.execute(each)
    cell = identify(made[0])
    assert seen == [(f"{cell.slug}-s0", f"table1/{cell.folder}"), (f"{cell.slug}-s1", cell.folder)]
