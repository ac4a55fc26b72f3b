"""A report says in one line where its runs were not trained alike, and which rows mix that."""

from pathlib import Path
from typing import Any

import pytest

from farkas_exp.report import command
from farkas_exp.report.environments import NAMED, environment_note
from farkas_exp.runs import RunDirectory, collect, write_json
from tests.made_runs import make_run, settings

NOW = {"epoch": 0, "step": 0, "farkas_exp": "0.2.0", "torch": "2.15.0+cpu", "device_type": "cpu", "world_size": 1}


def started(runs_dir: Path, *starts: Any, model: str = "resnet18", seed: int = 0, **made: Any) -> None:
    path = make_run(runs_dir, settings(model, epochs=3), seed=seed, **made)
    write_json(RunDirectory(path).environment, {"starts": [NOW | start for start in starts]})


def note(runs_dir: Path) -> str:
    return environment_note(collect(runs_dir))


def test_nothing_is_said_of_runs_that_were_trained_alike(tmp_path: Path) -> None:
    started(tmp_path, {})
    started(tmp_path, {"torch": "2.15.0+cu132", "threads": 8, "host": "elsewhere"}, seed=1)
    started(tmp_path, {"farkas_exp": "0.1.0"}, seed=2, state="running", epoch=1)  # in no mean
    assert note(tmp_path) == ""


def test_versions_devices_and_processes_are_counted_and_the_rows_that_mix_them_named(tmp_path: Path) -> None:
    started(tmp_path, {})
    started(tmp_path, {"farkas_exp": "0.1.0", "device_type": "cuda", "world_size": 2}, seed=1)
    started(tmp_path, {"torch": "2.6.0", "plugins": {"shiny": "12345678"}}, model="resnet34")
    started(tmp_path, {"plugins": {"shiny": "9abcdef0"}}, model="resnet50")
    assert note(tmp_path) == (
        "Not trained alike: device cpu (3 runs), cuda (1 run); farkas_exp 0.1.0 (1 run), 0.2.0 (3 runs);"
        " processes 1 (3 runs), 2 (1 run); shiny 12345678 (1 run), 9abcdef0 (1 run);"
        " torch 2.15.0 (3 runs), 2.6.0 (1 run). Mixed within: ResNet18, no BN."
    )


def test_only_the_starts_whose_epochs_count_are_compared(tmp_path: Path) -> None:
    again = {"torch": "2.7.0", "epoch": 2, "step": 3}, {"torch": "2.7.1", "epoch": 1, "step": 5}
    started(tmp_path, {"torch": "2.6.0"}, *again, {"epoch": 1, "step": 4})
    assert "torch 2.15.0 (1 run), 2.6.0 (1 run). Mixed within: ResNet18" in note(tmp_path)
    started(tmp_path, {"torch": "2.6.0"}, {"epoch": 2}, {})  # failed, and trained afresh
    assert note(tmp_path) == ""


def test_of_many_mixed_rows_the_rest_is_counted(tmp_path: Path) -> None:
    models = ("resnet18", "resnet34", "resnet50", "resnet101", "fixup34")
    for model in models:
        started(tmp_path, {}, model=model)
        started(tmp_path, {"farkas_exp": "0.1.0"}, model=model, seed=1)
    assert note(tmp_path).endswith(f"; {len(models) - NAMED} more.")


@pytest.mark.parametrize("damaged", ["{", "[]", '{"starts": 7}', '{"starts": [7, {"torch": ["2"], "epoch": "x"}]}'])
def test_a_damaged_environment_costs_neither_the_report_nor_its_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damaged: str
) -> None:
    started(tmp_path, {})
    started(tmp_path, {"torch": "2.6.0\x1b[2J"}, seed=1)
    RunDirectory(make_run(tmp_path, settings(epochs=3), seed=2)).environment.write_text(damaged)
    make_run(tmp_path, settings(epochs=3), seed=3)
    assert command.main([f"runs_dir={tmp_path}", "format=md"]) == 0
    shown = capsys.readouterr().out
    assert "Not trained alike: torch 2.15.0 (1 run), 2.6.0\\x1b[2J (1 run)." in shown
    assert "Not trained alike" in (tmp_path / "report" / "arms.md").read_text()
