"""Records changed by hand, or copied from another run: no figure is shown under a setting that is not its own."""

import json
import shutil

import pytest

import farkas_exp
from farkas_exp import runs
from farkas_exp.launch import execution, outcomes
from farkas_exp.machine.errors import UserError
from farkas_exp.report import command, compare
from farkas_exp.runs import RunDirectory, best, faults, read_json, read_run, status, survey, write_json
from farkas_exp.runs.jsonfiles import sealed
from tests.configs import config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two finished runs of one experiment."""
    folder = tmp_path_factory.mktemp("trained")
    for seed in (0, 1):
        assert execution.execute(config(folder, seed=seed, epochs=2)).status == runs.FINISHED
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "runs")


def run_of(folder, seed=0):
    (path,) = folder.glob(f"*/seed_{seed}")
    return RunDirectory(path)


def change(path, *keys, value):
    content = read_json(path)
    group = content
    for key in keys[:-1]:
        group = group[key]
    group[keys[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("keys", "value"),
    [(("config", "lr", "value"), 0.7), (("seed",), 2), (("identity",), "0" * 12), (("config", "arm"), "other"),
     (("config", "dataset", "validation"), 0.1), (("data",), {"files": "others"}), (("checksum",), "0" * 12)],
)  # fmt: skip
def test_a_changed_record_is_named_by_every_reader_and_used_by_none(folder, capsys, keys, value):
    run = run_of(folder)
    change(run.record, *keys, value=value)
    named = f"{run.path} (run.json is damaged, or changed by hand)"
    found = survey(folder)
    assert [record.seed for record in found.records] == [1]
    assert [str(each) for each in found.unreadable] == [named]
    assert "run.json is damaged, or changed by hand" in repr(farkas_exp.runs(folder).unreadable)
    assert command.main([f"runs_dir={folder}", "format=none"]) == 0
    assert named in capsys.readouterr().out
    assert status.main([f"runs_dir={folder}"]) == 0
    assert "1 damaged" in capsys.readouterr().out
    assert best.main([f"runs_dir={folder}"]) == 2
    assert compare.main([str(run.path), str(run_of(folder, 1).path)]) == 2
    assert "run.json is damaged, or changed by hand" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"run\.json is damaged, or changed by hand"):
        farkas_exp.load(run.path)


def test_the_command_of_a_changed_record_refuses_and_touches_nothing(folder):
    run = run_of(folder)
    change(run.record, "config", "lr", "value", value=0.7)
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(UserError, match=r"run\.json: damaged, or not the record of this run"):
        execution.execute(config(folder, epochs=2))
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


@pytest.mark.parametrize("of_seed_1", [True, False])
def test_a_changed_result_or_that_of_another_run_is_named_and_made_again(folder, capsys, of_seed_1):
    run, made = run_of(folder), config(folder, epochs=2)
    before = read_json(run.result)
    if of_seed_1:
        shutil.copy(run_of(folder, 1).result, run.result)
    else:
        change(run.result, "test_error", value=1.0)
    found = survey(folder)
    (fault,) = found.unreadable
    assert fault.why == "result.json is damaged, changed by hand or another run's; the run counts as not done"
    assert [record.state for record in found.records] == [runs.INTERRUPTED, runs.FINISHED]
    assert farkas_exp.load(run.path).result == {}
    assert capsys.readouterr().err == f"warning: {fault.path}: {fault.why}\n"
    assert execution.execute(made).status == runs.FINISHED
    assert capsys.readouterr().err.count("counts as not done") == 1
    assert read_json(run.result) == before


@pytest.mark.parametrize("change", ["other run", "train_loss", "test_error", "too long"])
def test_metrics_that_are_not_those_of_the_result_are_named_and_not_drawn(folder, capsys, change):
    run, rows = run_of(folder), run_of(folder).metrics.read_text().splitlines(keepends=True)
    if change == "other run":
        shutil.copy(run_of(folder, 1).metrics, run.metrics)
    else:
        extra = json.dumps(json.loads(rows[-1]) | ({"epoch": 3} if change == "too long" else {change: 0.0}))
        run.metrics.write_text("".join(rows if change == "too long" else rows[:-1]) + extra + "\n")
    (record,) = [record for record in survey(folder).records if record.seed == 0]
    assert (record.state, record.metrics()) == (runs.INTERRUPTED, [])
    assert command.main([f"runs_dir={folder}", "format=none"]) == 0
    assert f"{run.path} (metrics.jsonl and result.json contradict each other" in capsys.readouterr().out
    with pytest.raises(UserError, match=f"^{run.path}: metrics.jsonl and result.json contradict each other; restore"):
        execution.execute(config(folder, epochs=2))


@pytest.mark.parametrize("lost", ["all", "the first row", "the last row", "half of the last row"])
def test_of_a_run_that_has_lost_rows_of_its_metrics_only_the_result_counts(folder, lost):
    run = run_of(folder)
    first, last = run.metrics.read_text().splitlines(keepends=True)
    left = {
        "all": "",
        "the first row": last,
        "the last row": first,
        "half of the last row": first + last[: len(last) // 2],
    }
    run.metrics.write_text(left[lost])
    found = survey(folder)
    assert found.unreadable == []
    assert [(record.state, len(record.metrics())) for record in found.records] == [
        (runs.FINISHED, 0),
        (runs.FINISHED, 2),
    ]
    assert execution.execute(config(folder, epochs=2)).status == outcomes.SKIPPED
    run.metrics.unlink()
    record = read_run(run.path)
    assert (record.state, record.damage, record.metrics()) == (runs.FINISHED, "", [])


@pytest.mark.parametrize(
    ("change", "done"),
    [({}, True), ({"epochs": 3}, False), ({"epochs": 1}, False), ({"epochs": 1, "status": "failed"}, True),
     ({"epochs": 3, "status": "failed"}, False), ({"epochs": -1, "status": "failed"}, False)],
)  # fmt: skip
def test_a_result_of_an_older_version_has_as_many_epochs_as_its_run(folder, change, done):
    run = run_of(folder)
    older = {key: value for key, value in read_json(run.result).items() if key not in ("run", "checksum")}
    write_json(run.result, older | change)
    record = read_run(run.path)
    assert (record.state in runs.DONE, record.damage) == (done, "" if done else "result.json is damaged")


def test_what_seals_a_result_is_no_figure(folder):
    record = read_run(run_of(folder).path)
    assert not {"run", "checksum"} & set(record.result)


def test_a_result_or_record_written_while_it_is_looked_for_is_not_damaged(folder, monkeypatch):
    run = run_of(folder)
    content = run.result.read_text()
    run.result.unlink()

    def read_while_it_is_written(path):
        found = read_json(path)
        if path.endswith("state.json"):
            run.result.write_text(content)
        return found

    with monkeypatch.context() as patched:
        patched.setattr("farkas_exp.runs.record.read_json", read_while_it_is_written)
        found = read_run(run.path)
    assert found.damage == ""
    assert faults(run.path, None) == []


@pytest.mark.parametrize("epochs", [None, "2", []])
def test_a_seal_keeps_no_reader_from_a_strange_number_of_epochs(folder, epochs):
    run = run_of(folder)
    of_record, result = read_json(run.record), read_json(run.result)
    del of_record["config"]["epochs"], result["epochs"]
    write_json(run.record, sealed(of_record))
    write_json(run.result, sealed(result | ({} if epochs is None else {"epochs": epochs})))
    found = read_run(run.path)
    assert found.damage == "metrics.jsonl and result.json contradict each other"
