"""A held-out error is never called a test error: not in the files, on the console, in W&B, or in a table."""

import json

import pytest

from farkas_exp.launch import execution, outcomes, planned
from farkas_exp.machine.files import write_text
from farkas_exp.runs import open_run, read_json, read_rows, read_run, status
from farkas_exp.runs.wandb import WandbMirror
from farkas_exp.training.session import train
from tests.configs import config
from tests.made_runs import make_run, settings

SMALL = {
    "model": {"name": "mlp", "depth": 1, "width": 8, "blocks": None, "widths": None},
    "augmentation": {"flip": False},
}


@pytest.mark.parametrize(("validation", "name", "other"), [(0.2, "validation", "test"), (0.0, "test", "validation")])
def test_every_record_names_the_set_that_was_evaluated(tmp_path, capsys, monkeypatch, validation, name, other):
    mirrored = []
    monkeypatch.setattr(WandbMirror, "log", lambda self, row: mirrored.append(row))
    monkeypatch.setattr(WandbMirror, "finish", lambda self, exit_code, summary: mirrored.append(summary))
    made = config(tmp_path, epochs=2, dataset={"validation": validation}, progress="plain", **SMALL)
    assert made.dataset.evaluated_on == name
    outcome = execution.execute(made)
    run = open_run(made)
    record = read_run(run.path)
    assert record.evaluated_on == name
    assert {f"{name}_error", f"{name}_loss", f"best_{name}_error"} <= set(record.result)
    assert record.result[record.key("error")] == read_rows(run.metrics)[-1][f"{name}_error"]
    assert f"{name} error" in outcome.note
    assert f"{name} error" in execution.execute(made).note  # skipped
    said = [capsys.readouterr().out, run.log.read_text(), outcome.note, json.dumps(mirrored)]
    said += [file.read_text() for file in (run.metrics, run.state, run.result)]
    assert len(mirrored) == 3
    for text in said:
        assert f"{name}_error" in text or f"{name} error" in text
        assert f"{other}_" not in text
        assert f"{other} error" not in text


def test_a_validation_error_at_chance_fails_the_run_under_its_own_name(tmp_path):
    made = config(
        tmp_path, epochs=1, dataset={"validation": 0.2}, failure={"epochs": 1}, init={"name": "zero"}, **SMALL
    )
    assert (
        execution.execute(made).note
        == "failed to train (validation error at chance or worse in 1 epochs) after 1 epochs"
    )


def test_records_of_older_versions_are_read_under_the_right_name(tmp_path, capsys):
    held_out = make_run(tmp_path, settings(dataset__validation=0.1), test_error=12.5)  # files say test_error
    make_run(tmp_path, settings(), test_error=20.0)
    assert "test_error" in read_json(held_out / "result.json")
    assert (
        planned.objective(config(tmp_path, dataset={"validation": 0.1}), outcomes.Outcome("finished", str(held_out)))
        == 12.5
    )
    status.main([f"runs_dir={tmp_path}", "format=json"])
    lines = json.loads(capsys.readouterr().out)["runs"]
    assert {(line["test_error"], line["validation_error"]) for line in lines} == {(20.0, None), (None, 12.5)}


def test_the_objective_of_a_search_is_the_held_out_error_or_chance_and_never_a_test_error(tmp_path):
    held_out, tested = config(tmp_path, dataset={"validation": 0.1}), config(tmp_path)
    done, failed, begun = (
        make_run(tmp_path, settings(dataset__validation=0.1), seed=seed, state=state, test_error=error)
        for seed, (state, error) in enumerate((("finished", 12.5), ("failed", 95.0), ("interrupted", 1.0)))
    )
    cases = {("finished", done): 12.5, ("failed", failed): 90.0, ("interrupted", begun): None}
    cases |= {("skipped", done): 12.5, ("skipped", failed): 90.0, ("skipped", begun): None}
    for (status_of, path), wanted in cases.items():
        outcome = outcomes.Outcome(status_of, str(path))
        assert (planned.objective(held_out, outcome), planned.objective(tested, outcome)) == (wanted, None)


def test_a_run_of_an_older_version_goes_on_under_the_right_name(tmp_path):
    made = config(tmp_path, epochs=2, dataset={"validation": 0.2}, **SMALL)
    run = open_run(made)
    with run.locked():
        train(made, run)
    rows = [
        {key.replace("validation_", "test_"): value for key, value in row.items()} for row in read_rows(run.metrics)
    ]
    write_text(run.metrics, "".join(json.dumps(row) + "\n" for row in rows))
    run.result.unlink()  # stopped while it wrote its result
    with run.locked():
        result = train(made, run)
    assert result["best_validation_error"] == min(row["test_error"] for row in rows)
    assert result["validation_error"] == rows[-1]["test_error"]
