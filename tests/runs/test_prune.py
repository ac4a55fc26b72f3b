"""`farkas-exp prune`: what is dropped of which runs, and what stays."""

import pytest
import torch

from farkas_exp.runs import RunDirectory, checkpoint, prune
from tests.made_runs import make_run, settings

SAVED = {
    "run": "x", "state": {"epoch": 3}, "model": {"w": torch.zeros(100)}, "methods": {},
    "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(1000)}}}, "rng": torch.zeros(10, dtype=torch.uint8),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for model, state in (("resnet18", "finished"), ("resnet34", "failed"), ("resnet50", "interrupted")):
        checkpoint.save(RunDirectory(make_run(tmp_path, settings(model, epochs=3), state=state)), SAVED)
    return tmp_path


def of(folder, model):
    (path,) = folder.glob(f"{model}-*/seed_0")
    return RunDirectory(path)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


@pytest.mark.parametrize("drop", ["optimizer", "checkpoints"])
def test_a_look_touches_nothing(folder, drop, capsys):
    before = contents(folder)
    assert prune.main([f"runs_dir={folder}", f"drop={drop}"]) == 0
    assert contents(folder) == before
    last = capsys.readouterr().out.splitlines()[-1]
    assert "could be freed in 2 of 3 runs; 1 without a result is left alone" in last
    assert f"to delete it, add apply=true (drop={drop})" in last


def test_the_optimizer_goes_and_the_weights_stay(folder, capsys):
    run = of(folder, "resnet18")
    assert prune.main([f"runs_dir={folder}"]) == 0
    assert f"4.0 kB  {run.path}" in capsys.readouterr().out
    before = contents(folder)
    assert prune.main([f"runs_dir={folder}", "apply=true"]) == 0
    saved = checkpoint.load(run)
    assert saved.keys() == {"schema", "run", "state", "model", "methods"}
    assert torch.equal(saved["model"]["w"], SAVED["model"]["w"])
    changed = {path.name for path, content in contents(folder).items() if before.get(path) != content}
    assert changed == {"checkpoint.pt"}
    assert "optimizer" in checkpoint.load(of(folder, "resnet50"))
    capsys.readouterr()
    assert prune.main([f"runs_dir={folder}", "apply=true"]) == 0
    assert capsys.readouterr().out.startswith("0 bytes freed in 0 of 3 runs")


def test_checkpoints_go_and_all_records_stay(folder):
    before = contents(folder)
    assert prune.main([f"runs_dir={folder}", "drop=checkpoints", "apply=true", "model=resnet18,resnet50"]) == 0
    gone = before.keys() - contents(folder).keys()
    assert gone == {of(folder, "resnet18").checkpoint}


def test_a_run_that_a_process_works_on_is_left_to_it(folder, capsys):
    run = of(folder, "resnet34")
    with run.locked():
        assert prune.main([f"runs_dir={folder}", "drop=checkpoints", "apply=true"]) == 0
    assert run.checkpoint.exists()
    assert "this run is being trained by process" in capsys.readouterr().out


def test_an_earlier_checkpoint_does_not_take_the_place_of_a_damaged_one(folder, capsys):
    run = of(folder, "resnet18")
    checkpoint.save(run, {**SAVED, "state": {"epoch": 4}})
    run.checkpoint.write_bytes(b"torn")
    before = contents(folder)[run.checkpoint], contents(folder)[run.previous_checkpoint]
    assert prune.main([f"runs_dir={folder}", "apply=true", "model=resnet18"]) == 0
    assert "truncated, or no checkpoint" in capsys.readouterr().out
    assert (run.checkpoint.read_bytes(), run.previous_checkpoint.read_bytes()) == before


@pytest.mark.parametrize(
    ("argument", "expected"),
    [("drop=all", "drop: unknown 'all'"), ("aply=true", "aply: unknown 'aply'; did you mean 'apply'?")],
)
def test_a_mistake_is_one_line(folder, argument, expected, capsys):
    assert prune.main([f"runs_dir={folder}", argument]) == 2
    assert capsys.readouterr().err.startswith(f"error: {expected}")
