"""`farkas-exp compare`: what differs between runs, and their curves."""

import string

import pytest

from farkas_exp.report import compare
from farkas_exp.runs import RunDirectory, record_at, write_json
from tests.made_runs import make_run, settings


def made(folder, model="resnet18", seed=0, state="finished", start=None, **overrides):
    path = make_run(folder, settings(model, epochs=3, **overrides), seed=seed, state=state)
    write_json(RunDirectory(path).environment, {"data": {"fingerprint": "f"}, "starts": [start or {}]})
    return path


def rows(table):
    return {row[0].lines[0]: [cell.lines[0] for cell in row[1:]] for row in table.rows}


def test_what_differs_and_nothing_else(tmp_path):
    one = made(tmp_path, optimizer__momentum=0.5, device="cpu", start={"torch": "2.6", "host": "here"})
    other = made(tmp_path, "farkasnet18", seed=1, aggregation__margin=0.1, start={"torch": "2.7", "host": "here"})
    differ, _ = compare.report([record_at(one), record_at(other)]).tables
    assert rows(differ) == {
        "model": ["resnet18", "farkasnet18"], "optimizer.momentum": ["0.5", "0.9"], "seed": ["0", "1"],
        "aggregation.margin": ["–", "0.1"], "torch": ["2.6", "2.7"], "device": ["cpu", "auto"],
    }  # fmt: skip
    assert differ.notes == (f"A: {one}", f"B: {other}")


def test_a_machine_is_named_and_not_what_was_asked_for(tmp_path):
    one = made(tmp_path, device="cpu", compile="none", start={"device": "Z80", "compile": "none"})
    other = made(tmp_path, seed=1, start={"device": "H100", "compile": "graph"})
    differ, _ = compare.report([record_at(one), record_at(other)]).tables
    assert rows(differ) == {"seed": ["0", "1"], "device": ["Z80", "H100"], "compile": ["none", "graph"]}


def test_a_run_that_went_on_elsewhere_names_both_machines(tmp_path):
    one, other = made(tmp_path / "a", start={"device": "Z80"}), made(tmp_path / "b")
    begun = ("lost", 0, 0), ("H100", 0, 0), ("lost", 2, 3), ("Z80", 1, 0)
    starts = [{"device": device, "epoch": epoch, "step": step} for device, epoch, step in begun]
    write_json(RunDirectory(other).environment, {"data": {"fingerprint": "f"}, "starts": starts})
    differ, _ = compare.report([record_at(one), record_at(other)]).tables
    assert rows(differ) == {"device": ["Z80", "H100, then Z80"]}


def test_two_of_the_same_settings_differ_in_nothing(tmp_path):
    one, other = made(tmp_path / "a"), made(tmp_path / "b")
    differ, outcome = compare.report([record_at(one), record_at(other)]).tables
    assert differ.title == "Nothing differs"
    assert rows(outcome)["test error"] == ["10", "10"]


def test_failed_and_unfinished_runs_have_their_curves(tmp_path, monkeypatch):
    paths = [made(tmp_path), made(tmp_path, seed=1, state="failed"), made(tmp_path, seed=2, state="interrupted")]
    figure = compare.curves(dict(zip("ABC", map(record_at, paths), strict=True)))
    error, loss = figure.axes
    assert [len(line.get_xdata()) for line in error.get_lines()] == [3, 3, 3]
    assert len(loss.get_lines()) == 3
    assert [line.get_label()[:2] for line in loss.get_lines()] == ["A:", "B:", "C:"]


def test_the_command_prints_and_writes_beside_the_runs(tmp_path, capsys):
    paths = [str(made(tmp_path)), str(made(tmp_path, seed=1))]
    assert compare.main([*paths, "format=md"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "report" / "compare.md")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["RUN"], "compare: expected 2 to 26 run directories, got 1"),
        (["RUN", "/nowhere"], "/nowhere: no such folder"),
        (["RUN", "RUN", "fromat=png"], "fromat: unknown 'fromat'; did you mean 'format'?"),
        (["RUN", "RUN", "format=gif"], "format: unknown 'gif'"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, expected, capsys):
    run = str(made(tmp_path))
    assert compare.main([run if argument == "RUN" else argument for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {expected}")
    assert error.count("\n") == 1


def test_curves_on_different_sets_say_on_which(tmp_path):
    runs = [record_at(made(tmp_path)), record_at(made(tmp_path, dataset__validation=0.1))]
    labels = [line.get_label() for line in compare.curves(dict(zip("AB", runs, strict=True))).axes[0].get_lines()]
    assert [label.rpartition(", ")[2] for label in labels] == ["test error)", "validation error)"]


def test_no_two_curves_look_the_same(tmp_path):
    run = record_at(made(tmp_path))
    lines = compare.curves(dict.fromkeys(string.ascii_uppercase, run)).axes[0].get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == compare.MOST


def test_none_is_the_only_format_and_home_is_home(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = [str(made(tmp_path / "r=1")), str(made(tmp_path / "r=1", seed=1)).replace(str(tmp_path), "~")]
    assert compare.main([*paths, "format=none,md"]) == 2
    assert capsys.readouterr().err == "error: format: none goes with no other, got 'none,md'\n"
    assert compare.main([*paths, "format=md", "format=md"]) == 2
    assert capsys.readouterr().err == "error: format: given twice\n"
    assert compare.main([*paths, "format=md,md", "out=~/new"]) == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["compare.md"]


def test_damaged_files_are_named_and_their_rows_left_out(tmp_path):
    path = make_run(tmp_path, settings(epochs=2), rows=[{"epoch": 1, "test_error": 50.0}, {"test_error": 7.0}])
    (path / "result.json").write_text("{")
    runs = [record_at(path), record_at(made(tmp_path))]
    differ, _ = compare.report(runs).tables
    assert differ.notes[0] == f"A: {path} (result.json is damaged; the run counts as not done)"
    assert list(compare.curves({"A": runs[0]}).axes[0].get_lines()[0].get_xdata()) == [1]
