"""What runs have measured, kept in one small file, and runs made of it again."""

import json
import subprocess
import sys
from contextlib import nullcontext

import pytest

from farkas_exp.runs import RunDirectory, read_json, survey, write_json
from farkas_exp.runs.query import fingerprint, ranked_error
from scripts.records import main
from tests.made_runs import make_run, settings
from tests.paths import ROOT

SIXTH = 1 / 6
ROWS = [{"epoch": 1, "lr": 3.2e-06, "train_loss": 0.3, "train_error": 35.061728, "test_loss": 0.5,
         "test_error": 70.123456, "epoch_seconds": 3.0, "extra": None}]  # fmt: skip


def records(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture
def kept(tmp_path):
    """A folder of three runs, finished, failed and interrupted, and the file of them."""
    sixth = settings("farkasnet18", epochs=1, init={"name": "kaiming", "last_scale": SIXTH})
    made = make_run(tmp_path / "runs", sixth, test_error=70.123456, rows=ROWS)
    layers = [{"name": "a", "active": {"free": 0.123456, "appended": 0.0}, "dead_points": 0.25, "units": 3},
              {"name": "b", "active": {"free": 0.5}, "dead_points": 0.0, "units": 3}]  # fmt: skip
    measured = [{"epoch": epoch, "layers": layers} for epoch in (0, 1)]
    (made / "diagnostics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in measured))
    make_run(tmp_path / "runs", settings("resnet18"), seed=3, state="failed", reason="loss is not finite", rows=[])
    make_run(tmp_path / "runs", settings("resnet34", epochs=5), state="interrupted", rows=ROWS)
    assert records("keep", tmp_path / "runs", tmp_path / "kept.jsonl") == 0
    return tmp_path / "kept.jsonl"


def test_a_line_is_a_run_with_its_figures_by_epoch_and_no_path(kept, tmp_path):
    assert str(tmp_path) not in kept.read_text()
    farkas, plain, interrupted = map(json.loads, kept.read_text().splitlines())
    assert (farkas["seed"], farkas["state"], farkas["result"]["test_error"]) == (0, "finished", 70.1235)
    assert farkas["arm"].startswith("FarkasNet18")
    assert farkas["config"]["init"] == {"name": "kaiming", "last_scale": SIXTH}, "settings are not rounded"
    assert farkas["by_epoch"] == {
        "epoch": [1], "lr": [3.2e-06], "train_loss": [0.3], "train_error": [35.0617], "test_loss": [0.5],
        "test_error": [70.1235], "extra": [None],
    }  # fmt: skip
    assert farkas["activity"] == {
        "epoch": [0, 1],
        "layers": [
            {"name": "a", "dead_points": [0.25, 0.25], "active": {"free": [0.1235] * 2, "appended": [0.0] * 2}},
            {"name": "b", "dead_points": [0.0, 0.0], "active": {"free": [0.5, 0.5]}},
        ],
    }
    assert (plain["seed"], plain["state"], plain["result"]["reason"]) == (3, "failed", "loss is not finite")
    assert (interrupted["state"], interrupted["result"]) == ("interrupted", None)


def test_restored_runs_are_the_runs_that_were_kept(kept, tmp_path, capsys):
    assert records("restore", kept, tmp_path / "again") == 0
    assert records("keep", tmp_path / "again", tmp_path / "twice.jsonl") == 0
    assert (tmp_path / "twice.jsonl").read_text() == kept.read_text()
    first, again = (
        {(r.identity, r.seed): r for r in survey(str(tmp_path / name)).records} for name in ("runs", "again")
    )
    assert first.keys() == again.keys()
    for key, run in first.items():
        assert (again[key].state, again[key].epoch, again[key].damage) == (run.state, run.epoch, "")
    assert records("restore", kept, tmp_path / "again") == 0
    assert "0 runs made in" in capsys.readouterr().out


def test_a_run_that_is_there_stays(kept, tmp_path):
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.json*")}
    assert records("restore", kept, tmp_path / "runs") == 0
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.json*")} == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"last_scale": 0.1', '"last_scale": 0.2', "its settings have the identity"),
        ('"by_epoch"', '"by_epochs"', "its by_epoch is None"),
        ('"test_error": 70.1235', '"test_error": 71', "contradict each other"),
        ('"test_error": 70.1235', '"test_error": 170', "result.json is damaged"),
        ('"state": "finished"', '"state": "failed", "result": null', "its state, epoch, data and result"),
        ('"dead_points"', '"dead"', "KeyError: 'dead_points'"),
        ('"last_scale"', '"last_scales"', "init.last_scales"),
        ('"state"', '"state', "one line of JSON"),
    ],
)
def test_a_line_that_was_changed_is_named(old, new, message, kept, tmp_path, capsys):
    kept.write_text(kept.read_text().replace(old, new, 1))
    assert records("restore", kept, tmp_path / "again") == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {kept}, line 1: ")
    assert message in shown
    assert shown.count("\n") == 1
    assert not list((tmp_path / "again").rglob("run.json"))


def test_a_run_is_restored_whole_or_not_at_all(kept, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("scripts.records.write_result", stop)
        with pytest.raises(KeyboardInterrupt):
            records("restore", kept, tmp_path / "again")
    assert not list((tmp_path / "again").iterdir())
    (made,) = (tmp_path / "runs").glob("farkas*/seed_0")
    (tmp_path / "again" / made.relative_to(tmp_path / "runs")).mkdir(parents=True)
    assert records("restore", kept, tmp_path / "again") == 0, "an empty folder is not in the way"
    (tmp_path / "again" / made.relative_to(tmp_path / "runs") / "run.json").unlink()
    assert records("restore", kept, tmp_path / "again") == 2
    assert "is there, without a run.json; move it away" in capsys.readouterr().err


@pytest.mark.parametrize("is_there", [False, True])
def test_another_outcome_of_a_run_that_is_there_is_named(kept, tmp_path, capsys, is_there):
    (path,) = (tmp_path / "runs").glob("farkas*/seed_0/result.json")
    result = read_json(path)
    path.unlink()
    if is_there:
        write_json(path, result | {"test_error": 7.0})
    assert records("restore", kept, tmp_path / "runs") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"0 runs made in {tmp_path / 'runs'}, 3 were there\n")
    assert f"1 of those that were there have another outcome than in the file, such as {path.parent}" in shown


def test_no_file_loses_an_outcome(kept, tmp_path, capsys):
    before = kept.read_text()
    for path in (tmp_path / "runs").glob("farkas*/seed_0/result.json"):
        path.unlink()
    assert records("keep", tmp_path / "runs", kept) == 2
    assert "holds 1 outcome that" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert records("keep", tmp_path / "empty", tmp_path / "new.jsonl") == 2
    other = tmp_path / "other.jsonl"
    other.write_text("[1, 2]\n")
    for wrong in (other, tmp_path / "runs", tmp_path / "README.md", tmp_path / "none" / "kept.jsonl"):
        assert records("keep", tmp_path / "runs", wrong) == 2
    assert capsys.readouterr().err.count("\n") == 5
    assert (kept.read_text(), other.read_text()) == (before, "[1, 2]\n")


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        ("farkas*/seed_0/diagnostics.jsonl", "holds 2 measurements that"),
        ("resnet34*/seed_0/run.json", "holds 1 epoch that"),
        ("farkas*/seed_0/metrics.jsonl", "holds 1 epoch that"),
        ("farkas*/seed_0/run.json", "holds 1 outcome and 1 epoch and 2 measurements that"),
    ],
)
def test_no_file_loses_what_was_measured(gone, expected, kept, tmp_path, capsys):
    before = kept.read_text()
    (path,) = (tmp_path / "runs").glob(gone)
    content = path.read_text()
    path.unlink()
    assert records("keep", tmp_path / "runs", kept) == 2
    assert expected in capsys.readouterr().err
    assert kept.read_text() == before
    path.write_text(content)
    assert records("keep", tmp_path / "runs", kept) == 0
    assert kept.read_text() == before


def test_a_run_that_began_anew_may_have_fewer_epochs(kept, tmp_path):
    for path in (tmp_path / "runs").glob("resnet34*/seed_0/metrics.jsonl"):
        path.unlink()
    assert records("keep", tmp_path / "runs", kept) == 0


def test_on_how_many_images_was_measured_is_kept(kept, tmp_path):
    (path,) = (tmp_path / "runs").glob("farkas*/seed_0/diagnostics.jsonl")
    asked = {"lanczos_steps": 80, "ntk_images": 25}
    settings = [{"images": images, **asked} for images in (64, 128)]
    rows = [json.loads(line) | {"measures": ["activity"]} for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps(row | {"settings": own}) + "\n" for row, own in zip(rows, settings, strict=True))
    )
    assert records("keep", tmp_path / "runs", kept) == 0
    assert json.loads(kept.read_text().splitlines()[0])["activity"]["images"] == [64, 128]
    assert records("restore", kept, tmp_path / "again") == 0
    (made,) = (tmp_path / "again").glob("farkas*/seed_0/diagnostics.jsonl")
    assert [json.loads(line)["settings"] for line in made.read_text().splitlines()] == settings
    assert records("keep", tmp_path / "again", tmp_path / "twice.jsonl") == 0
    assert (tmp_path / "twice.jsonl").read_text() == kept.read_text()


def test_a_measurement_without_layers_hides_none_of_the_later_ones(kept, tmp_path):
    (path,) = (tmp_path / "runs").glob("farkas*/seed_0/diagnostics.jsonl")
    before, after = path.read_text().splitlines()
    path.write_text(json.dumps(json.loads(before) | {"layers": []}) + "\n" + after + "\n")
    assert records("keep", tmp_path / "runs", tmp_path / "new.jsonl") == 0
    activity = json.loads((tmp_path / "new.jsonl").read_text().splitlines()[0])["activity"]
    assert (activity["epoch"], [layer["dead_points"] for layer in activity["layers"]]) == ([1], [[0.25], [0.0]])


def test_what_could_not_be_restored_is_not_kept_in_silence(kept, tmp_path, capsys):
    (path,) = (tmp_path / "runs").glob("resnet34*/seed_0/run.json")
    record = json.loads(path.read_text())
    record["config"]["epochs"] = 7  # without a checksum
    path.write_text(json.dumps(record))
    measured = json.dumps({"epoch": 0, "measures": ["activity", "hessian"], "settings": {}, "layers": []})
    for folder in (tmp_path / "runs").glob("resnet18*/seed_3"):
        (folder / "diagnostics.jsonl").write_text(measured + "\n")
    for seed, row in enumerate(({"measures": [[1]]}, {"epoch": 0, "layers": [{"name": "a", "active": [1]}]})):
        damaged = make_run(tmp_path / "runs", settings("resnet50"), seed=seed)
        (damaged / "diagnostics.jsonl").write_text(json.dumps(row) + "\n")
    assert records("keep", tmp_path / "runs", tmp_path / "new.jsonl") == 0
    shown = capsys.readouterr().out
    assert "2 runs in" in shown
    assert f"{path.parent} (it could not be restored: {path.parent.parent.name}: its settings have" in shown
    assert "3 not among the runs" in shown
    assert f"{damaged} (it could not be restored: no run (AttributeError: 'list'" in shown
    assert "measurements that are not kept: hessian of 1 run" in shown


def test_a_failed_run_ranks_at_chance_among_its_own_classes_once_it_is_restored(tmp_path):
    folder = settings(dataset__name="image_folder", dataset__root="/pictures/cats", augmentation__crop_padding=0)
    made = make_run(tmp_path / "runs", folder, state="failed", reason="loss is not finite", rows=[])
    data = {"name": "cats", "train": 8, "test": 2, "classes": 4, "fingerprint": "f", "class_names": list("abcd")}
    (made / "environment.json").write_text(json.dumps({"data": data, "starts": []}))
    assert records("keep", tmp_path / "runs", tmp_path / "kept.jsonl") == 0
    assert "/pictures" not in (tmp_path / "kept.jsonl").read_text()
    assert records("restore", tmp_path / "kept.jsonl", tmp_path / "again") == 0
    (again,) = survey(tmp_path / "again").records
    assert (ranked_error(again), fingerprint(again)) == (75.0, "f")


@pytest.mark.parametrize("under_way", [False, True])
def test_an_unfinished_run_is_restored_with_the_error_of_its_last_epoch(tmp_path, under_way):
    rows = [{"epoch": epoch, "test_error": error} for epoch, error in ((1, 60.0), (2, 40.0))]
    made = make_run(tmp_path / "runs", settings("resnet34", epochs=5), state="running", epoch=2, rows=rows)
    with RunDirectory(made).locked() if under_way else nullcontext():
        assert records("keep", tmp_path / "runs", tmp_path / "kept.jsonl") == 0
    assert ('"running"' in (tmp_path / "kept.jsonl").read_text()) == under_way
    assert records("restore", tmp_path / "kept.jsonl", tmp_path / "again") == 0
    (again,) = survey(tmp_path / "again").records
    assert (again.state, again.epoch, again.progress["test_error"]) == ("interrupted", 2, 40.0)


def test_runs_of_an_older_version_are_kept(tmp_path):
    old = ROOT / "tests" / "fixtures" / "runs_0_1"
    assert records("keep", old, tmp_path / "old.jsonl") == 0
    assert records("restore", tmp_path / "old.jsonl", tmp_path / "again") == 0
    first, again = (
        {(run.identity, run.seed): (run.state, run.epoch, run.result and run.result["status"]) for run in runs}
        for runs in (survey(old).records, survey(tmp_path / "again").records)
    )
    assert first == again


def test_a_run_twice_in_a_file_is_refused(kept, tmp_path, capsys):
    kept.write_text(kept.read_text() + kept.read_text())
    for command in (("restore", kept, tmp_path / "again"), ("compare", kept, kept)):
        assert records(*command) == 2
        assert "line 4: farkasnet18-" in capsys.readouterr().err


def test_the_same_runs_of_two_files_are_compared(kept, tmp_path, capsys):
    first = json.loads(kept.read_text().splitlines()[0])
    made = {"one": [63.0, 60.0, None], "two": [60.0, 61.0, 90.0]}
    for name, errors in made.items():
        lines = [
            {
                **first,
                "seed": seed,
                "result": {"status": "failed" if error is None else "finished", "test_error": error},
            }
            for seed, error in enumerate(errors)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert records("compare", tmp_path / "one.jsonl", tmp_path / "two.jsonl") == 0
    shown = capsys.readouterr().out
    assert "| 0 | 63.00 | 60.00 | -3.00 |" in shown
    assert "| 1 | 60.00 | 61.00 | +1.00 |" in shown
    assert "| 2 | failed | 90.00 | – |" in shown
    assert "2 differences: mean -1.00, standard deviation 2.83, largest 3.00 points." in shown
    assert shown.rstrip().endswith("1.58."), "the root of (9 + 1) / 2 / 2"


def test_a_comparison_names_what_it_leaves_out(kept, tmp_path, capsys):
    farkas, plain, _ = map(json.loads, kept.read_text().splitlines())
    other = tmp_path / "other" / "kept.jsonl"
    other.parent.mkdir()
    farkas |= {"arm": "a|b"}

    def on(files, pixels, **more):
        return {**plain, "data": files, "data_set": {"fingerprint": pixels}, **more}

    ours = farkas, on({"train": "1"}, None), on({}, "a", seed=4), on({}, None, seed=5)
    theirs = (
        farkas,
        on({"train": "2"}, None),
        on({}, "b", seed=4),
        on({"train": "1"}, "b", seed=5),
        on({}, None, seed=9),
    )
    for file, lines in ((kept, ours), (other, theirs)):
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert records("compare", kept, other) == 0
    shown = capsys.readouterr().out
    assert f"| run | seed | {kept} | {other} |".replace("_", r"\_") in shown, "two files of one name"
    assert "other/kept.jsonl: 1 ended run." in shown
    assert "On different data, not compared: 2 runs." in shown
    assert r"| a\|b | 0 |" in shown
    assert "| 5 | failed |" in shown, "nothing that both know of the data differs"


@pytest.mark.parametrize(
    "result", [{}, {"status": "done"}, {"status": "finished"}, {"status": "finished", "test_error": "a"}]
)
def test_a_damaged_outcome_is_not_compared(result, kept, tmp_path, capsys):
    line = json.loads(kept.read_text().splitlines()[0])
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text(json.dumps({**line, "result": {**result, "of": 1}}) + "\n")
    assert records("compare", kept, wrong) == 2
    assert capsys.readouterr().err.startswith(f"error: {wrong}: the result of farkasnet18-")


def test_what_cannot_be_read_or_written_is_one_line(tmp_path, capsys):
    assert records("keep", tmp_path / "none", tmp_path / "kept.jsonl") == 2
    assert records("restore", tmp_path / "none", tmp_path / "runs") == 2
    assert records("compare", tmp_path / "none", tmp_path / "none") == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_what_is_left_out_is_named(tmp_path, capsys):
    make_run(tmp_path, settings())
    (make_run(tmp_path, settings(), seed=1) / "run.json").write_text("{")
    assert records("keep", tmp_path, tmp_path / "kept.jsonl") == 0
    assert "1 not among the runs: " in capsys.readouterr().out


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_the_files_in_results_make_runs(tmp_path, every):
    files = sorted((ROOT / "results").glob("*.jsonl"))
    assert files
    for file in files:
        lines = file.read_text().splitlines()[::every]
        some = tmp_path / file.name
        some.write_text("".join(f"{line}\n" for line in lines))
        assert records("restore", some, tmp_path / file.stem) == 0
        made = survey(str(tmp_path / file.stem))
        assert len(made.records) == len(lines)
        assert not [run.damage for run in made.records if run.damage]
        commits = [
            start["commit"] for run in made.records for start in read_json(run.path / "environment.json")["starts"]
        ]
        assert all(commits)


STOPPED = """
import builtins, os, runpy, signal, sys
imported = builtins.__import__
def stopped(name, *rest, **more):
    if name.startswith(("farkas_exp.config", "farkas_exp.data")):
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    return imported(name, *rest, **more)
builtins.__import__ = stopped
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize("script", ["records", "make_image_folder"])
def test_a_script_that_is_stopped_while_it_starts_says_nothing(script):
    command = [sys.executable, "-c", STOPPED, str(ROOT / "scripts" / f"{script}.py")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert (ended.returncode, ended.stdout, ended.stderr) == (75, "", "")
