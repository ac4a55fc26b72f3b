import os
import pickle

import pytest
import torch

from farkas_exp.machine.errors import UserError
from farkas_exp.runs import RunDirectory, checkpoint
from farkas_exp.runs.record import name_of


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path)


def test_the_newest_is_loaded_and_the_one_before_it_is_kept(run):
    assert checkpoint.load(run) is None
    checkpoint.save(run, {"value": torch.tensor(1.0)})
    checkpoint.save(run, {"value": torch.tensor(2.0)})
    assert checkpoint.load(run)["value"] == 2.0
    run.checkpoint.unlink()  # killed between the two renames of a save
    assert checkpoint.load(run)["value"] == 1.0


@pytest.mark.parametrize("keep", [0, 1, 100, -2000, None])
def test_a_checkpoint_that_cannot_be_used_is_named_in_one_line_and_the_previous_one_used(run, keep):
    """Truncated, or (None) a file of torch that holds no mapping."""
    for value in (1, 2):
        checkpoint.save(run, {"value": torch.full((1000,), value)})
    if keep is None:
        torch.save(torch.ones(2), run.checkpoint)
    else:
        run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:keep])
    lines = []
    assert checkpoint.load(run, lines.append)["value"][0] == 1
    run.previous_checkpoint.write_bytes(b"")
    assert checkpoint.load(run, lines.append) is None
    named = [run.checkpoint, run.checkpoint, run.previous_checkpoint]
    assert [line.split(": ")[0] for line in lines] == [str(path) for path in named]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_write_leaves_the_last_good_one_and_no_stray_file(run, monkeypatch, call):
    checkpoint.save(run, {"value": 1})

    def full_disk(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(run, {"value": 2})
    monkeypatch.undo()
    assert checkpoint.load(run)["value"] == 1
    assert {path.name for path in run.path.iterdir()} <= {"checkpoint.pt", "checkpoint.previous.pt"}


def test_a_full_disk_is_told_as_what_it_is_whatever_torch_makes_of_it(run, monkeypatch):
    def save(state, handle):
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise RuntimeError("[enforce fail at inline_container.cc] unexpected pos")  # noqa: B904 - as torch does

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(run, {"value": 2})


def test_loading_executes_no_code(run, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"schema": checkpoint.SCHEMA, "value": Evil()}, run.checkpoint)
    assert checkpoint.load(run) is None
    run.checkpoint.write_bytes(pickle.dumps(Evil()))
    assert checkpoint.load(run) is None
    assert not (tmp_path / "executed").exists()


def test_another_format_is_refused_not_guessed(run):
    torch.save({"schema": 99}, run.checkpoint)
    with pytest.raises(UserError, match="checkpoint format 99, expected 1"):
        checkpoint.load(run)


def test_stray_files_of_a_killed_save_are_removed(run):
    (run.path / ".checkpoint.pt.123.tmp").write_text("half")
    (run.path / "result.json").write_text("whole")
    checkpoint.remove_stray_files(run)
    assert [path.name for path in run.path.iterdir()] == ["result.json"]


def test_the_tensors_come_back_on_the_cpu_wherever_they_were(run, monkeypatch):
    checkpoint.save(run, {"value": 1})
    seen, load = [], torch.load
    monkeypatch.setattr(
        torch, "load", lambda *a, **options: seen.append(options["map_location"]) or load(*a, **options)
    )
    assert checkpoint.load(run)["value"] == 1
    assert seen == ["cpu"]


RECORD = {"identity": "abc", "seed": 3}


def test_a_run_goes_on_from_its_own_checkpoint_only(run, capsys):
    assert checkpoint.load_of(run, RECORD) is None
    checkpoint.save(run, {"run": name_of(RECORD), "value": 1})
    assert checkpoint.load_of(run, RECORD)["value"] == 1
    assert capsys.readouterr().err == ""
    for other in ({**RECORD, "identity": "abd"}, {**RECORD, "seed": 4}):
        with pytest.raises(UserError, match=r"a checkpoint of another run \(abc seed 3\); move it away"):
            checkpoint.load_of(run, other)
    checkpoint.save(run, {"run": name_of(RECORD), "value": 2})
    run.checkpoint.write_bytes(b"half")
    assert checkpoint.load_of(run, RECORD)["value"] == 1
    assert capsys.readouterr().err.startswith(f"warning: {run.checkpoint}: ")
    checkpoint.save(run, {"value": 3})
    with pytest.raises(UserError, match=r"another run \(None\)"):
        checkpoint.load_of(run, RECORD)


@pytest.mark.parametrize("kind", [RuntimeError, KeyError, ValueError, TypeError])
@pytest.mark.parametrize("words", ["size mismatch\nfor a hundred layers", None])
def test_a_checkpoint_that_does_not_fit_is_one_line_with_the_reason_or_its_kind(run, kind, words):
    def misfit():
        raise kind(words) if words else kind

    reason = "['s]" if words else kind.__name__
    with pytest.raises(
        UserError, match=rf"^[^\n]*: does not fit this version's network \({reason}[^\n]*; move [^\n]*$"
    ):
        checkpoint.restoring(run, misfit)
    assert checkpoint.restoring(run, lambda: 7) == 7
