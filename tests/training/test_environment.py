"""The environment of a run: an entry for each start, and a word where one differs from the one before."""

import pytest
import torch

from farkas_exp import runs
from farkas_exp.launch import execution
from farkas_exp.machine.cores import cores
from farkas_exp.runs import open_run, read_json, read_starts
from farkas_exp.training import environment
from tests.configs import config
from tests.stopping import stop_after

TINY = {
    "model": {"name": "mlp", "depth": 1, "width": 6, "blocks": None, "widths": None},
    "augmentation": {"flip": False},
    "dataset": {"train_limit": 80},
}


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def stopped(made, monkeypatch, steps=3):
    with monkeypatch.context() as patched:
        stop_after(steps, patched)
        assert execution.execute(made).status == runs.INTERRUPTED


def test_each_start_has_an_entry_and_other_threads_are_a_warning(tmp_path, monkeypatch, threads, capsys):
    made = config(tmp_path, **TINY)
    threads(1)
    stopped(made, monkeypatch)
    assert "unbroken run" not in capsys.readouterr().err
    threads(2)
    assert execution.execute(made).status == runs.FINISHED
    starts = read_starts(open_run(made))
    assert [(start["epoch"], start["step"], start["threads"]) for start in starts] == [(0, 0, 1), (1, 1, 2)]
    assert read_json(open_run(made).environment)["data"]["train"] == 80
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "unbroken run" in line]
    assert "threads 2 (before: 1)" in line
    assert "threads 2 (before: 1)" in open_run(made).log.read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda patched: patched.setattr(torch, "__version__", "2.99"), "torch 2.99"),
        (lambda patched: patched.setattr(environment, "_git_commit", lambda: "abc"), "commit abc"),
        (lambda patched: patched.setattr(environment, "processor", lambda: "Z80"), f"device Z80, {cores()} cores"),
    ],
)
def test_whatever_moves_the_last_digits_is_named(tmp_path, monkeypatch, capsys, change, words):
    made = config(tmp_path, **TINY)
    stopped(made, monkeypatch)
    with monkeypatch.context() as patched:
        change(patched)
        assert execution.execute(made).status == runs.FINISHED
    assert f"of an unbroken run: {words} (before: " in capsys.readouterr().err


@pytest.mark.parametrize(("before", "moves"), [("default", True), ("graph", False), ("none (no graph: why)", False)])
def test_a_run_that_goes_on_without_the_compiler_says_so(tmp_path, monkeypatch, capsys, before, moves):
    made = config(tmp_path, **TINY)
    stopped(made, monkeypatch)
    environment.correct_mode(open_run(made), before)
    assert execution.execute(made).status == runs.FINISHED
    shown = capsys.readouterr().err
    assert ("of an unbroken run: compile none (before: default)" in shown) == moves
    assert ("unbroken run" in shown) == moves


def test_a_start_like_the_one_before_or_from_the_beginning_is_no_warning(tmp_path, monkeypatch, threads, capsys):
    made = config(tmp_path, **TINY)
    stopped(made, monkeypatch)
    for file in (open_run(made).checkpoint, open_run(made).previous_checkpoint):
        file.unlink()  # so that the next one begins anew
    threads(1 if torch.get_num_threads() > 1 else 2)
    stopped(made, monkeypatch)
    assert execution.execute(made).status == runs.FINISHED
    assert "unbroken run" not in capsys.readouterr().err
    assert len(read_starts(open_run(made))) == 3


def test_the_one_entry_of_an_older_version_is_the_start_before(tmp_path, monkeypatch, capsys):
    made = config(tmp_path, **TINY)
    stopped(made, monkeypatch)
    run = open_run(made)
    found = read_json(run.environment)
    runs.write_json(run.environment, {**found["starts"][0], "threads": 99, "data": found["data"]})
    assert execution.execute(made).status == runs.FINISHED
    assert "(before: 99)" in capsys.readouterr().err
    assert [start["threads"] for start in read_starts(run)] == [99, torch.get_num_threads()]
    assert read_json(run.environment)["data"] == found["data"]
