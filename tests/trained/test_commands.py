"""`farkas-exp evaluate` and `export` on the command line."""

import sys

import pytest

from farkas_exp import __main__, __version__, load, runs
from farkas_exp.launch.execution import execute
from farkas_exp.runs import read_json
from farkas_exp.trained import evaluate, export
from tests.configs import config
from tests.stopping import stop_after
from tests.trained.conftest import folder_of_digits, trained


def test_evaluate_prints_the_figures_beside_those_of_the_record(path, capsys):
    assert evaluate.main([str(path), "device=cpu"]) == 0
    error = read_json(path / "result.json")["validation_error"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}, after 1 epoch:"
    assert f"  validation error: {error!r} %  (recorded: {error!r})" in lines


def test_evaluate_on_other_images_has_nothing_to_compare_with(path, capsys):
    assert evaluate.main([str(path), "dataset.validation=0"]) == 0
    seen = capsys.readouterr().out
    assert "\n  test error: " in seen
    assert "recorded" not in seen


def test_evaluate_on_another_data_set(path, tmp_path, capsys):
    folder_of_digits(tmp_path / "photographs")
    root = str(tmp_path / "photographs")
    assert evaluate.main([str(path), "dataset=image_folder", f"dataset.root={root}"]) == 0
    error = load(path).evaluate("image_folder", root=root)["test_error"]
    assert f"  test error: {error!r} %" in capsys.readouterr().out.splitlines()


def test_weights_within_an_epoch_say_so(tmp_path, monkeypatch, capsys):
    stop_after(7, monkeypatch)  # of five steps an epoch
    made = config(tmp_path)
    assert execute(made).status == runs.INTERRUPTED
    path = runs.open_run(made).path
    assert evaluate.main([str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{path}, after 1 epoch and 2 steps:"


def test_weights_before_the_epoch_of_a_failure_are_not_those_of_its_record(tmp_path, capsys):
    still = {"model": {"name": "resnet18"}, "init": {"name": "zero"}, "lr": {"value": 1e-9}}
    path = trained(tmp_path, epochs=3, failure={"epochs": 2}, **still)
    assert read_json(path / "result.json")["epochs"] == 2
    assert evaluate.main([str(path)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{path}, after 1 epoch:\n")
    assert "recorded" not in shown


def test_a_run_directory_may_have_an_equals_sign_or_be_in_the_home(path, tmp_path, monkeypatch, capsys):
    (tmp_path / "lr=0.1").symlink_to(path.parent)
    monkeypatch.setenv("HOME", str(tmp_path))
    for word in (str(tmp_path / "lr=0.1" / path.name), f"~/lr=0.1/{path.name}"):
        assert evaluate.main([word, "device=cpu"]) == 0
        assert "recorded" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("main", "arguments", "expected"),
    [
        (evaluate.main, [], "evaluate: expected one run directory, got none"),
        (evaluate.main, ["a", "b"], "evaluate: expected one run directory, got a b"),
        (evaluate.main, ["RUN", "datasets=digits"], "datasets: unknown 'datasets'; did you mean 'dataset'?"),
        (evaluate.main, ["RUN", "dataset.noise=[0"], "dataset.noise=[0: not KEY=VALUE"),
        (evaluate.main, ["RUN", "dataset.noise=0,1"], "dataset.noise=0,1: one value at a time"),
        (evaluate.main, ["/nowhere"], "/nowhere: no such folder"),
        (
            evaluate.main,
            ["RUN", "device=gpu"],
            "device: unknown 'gpu'; did you mean 'cpu'? choose from: auto, cpu, cuda",
        ),
        (evaluate.main, ["RUN", "dataset=digits", "dataset=moons"], "dataset: given twice"),
        (evaluate.main, ["RUN", "dataset="], "dataset: a value is missing"),
        (evaluate.main, ["~no_such_user/run"], "run: '~no_such_user/run': there is no such home here"),
        (export.main, ["RUN", "format=pt2", "out=/tmp"], "out: /tmp is a folder"),
        (export.main, ["RUN", "format=pt2", "format=onnx"], "format: given twice"),
        (export.main, ["RUN"], "export: expected one run directory and format=..."),
        (export.main, ["RUN", "format=pt2", "out=/nowhere/network"], "out: no folder /nowhere"),
        (export.main, ["RUN", "format=keras"], "format: unknown 'keras'; choose from: onnx, pt2"),
        (export.main, ["RUN", "form=onnx"], "form: unknown 'form'; did you mean 'format'?"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(main, arguments, expected, path, capsys):
    assert main([str(path) if argument == "RUN" else argument for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {expected}")
    assert error.count("\n") == 1


def test_the_first_word_of_the_command_line_chooses(monkeypatch, capsys):
    monkeypatch.setattr("farkas_exp.machine.signals.take_over", lambda: None)  # other tests share this process
    for word in __main__.COMMANDS:
        monkeypatch.setattr(sys, "argv", ["farkas-exp", word, "--help"])
        assert __main__.main() == 0
        assert capsys.readouterr().out.startswith(f"python -m farkas_exp {word} ")


def test_a_word_that_is_no_command_and_the_version(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["farkas-exp", "prun", "apply=true"])
    assert __main__.main() == 2
    expected = "error: prun: neither KEY=VALUE nor a command (compare, evaluate, export, prune)\n"
    assert capsys.readouterr().err == expected
    monkeypatch.setattr(sys, "argv", ["farkas-exp", "--version"])
    assert __main__.main() == 0
    assert capsys.readouterr().out == f"farkas_exp {__version__}\n"
