"""The list of runs: states, filters, formats, damaged folders, and that it stays readable while runs are written."""

import io
import json
import shutil
import threading
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from farkas_exp import runs
from farkas_exp.runs import RunDirectory, status, write_state
from tests.made_runs import make_run, settings


@pytest.fixture
def folder(tmp_path):
    make_run(tmp_path, settings(epochs=10), seed=0, test_error=12.5)
    make_run(
        tmp_path, settings(epochs=10), seed=1, state="failed", epoch=3, test_error=90.0, reason="loss is not finite"
    )
    path = make_run(tmp_path, settings("farkasnet18", epochs=10), seed=0, state="running", epoch=4, test_error=20.0)
    write_state(RunDirectory(path), "running", epoch=4, epochs=10, test_error=20.0, eta_seconds=100.0)
    make_run(tmp_path, settings("farkasnet18", epochs=10), seed=1, state="interrupted", epoch=2)
    path = make_run(tmp_path, settings("farkasnet18", epochs=10), seed=2, state="crashed", epoch=1)
    write_state(RunDirectory(path), "crashed", epoch=1, epochs=10, test_error=None, error="ZeroDivisionError: x")
    return tmp_path


def running(folder):
    (record,) = [r for r in runs.collect(folder) if r.config["model"]["name"] == "farkasnet18" and r.seed == 0]
    return RunDirectory(record.path)


def listed(capsys, *arguments):
    assert status.main([*arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_every_run_with_state_epoch_error_eta_and_host(folder, capsys, monkeypatch):
    now = runs.read_json(running(folder).state)["updated"] + 3
    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: now))
    with running(folder).locked():
        lines = listed(capsys, f"runs_dir={folder}")
    assert " ".join(lines[0].split()) == "state epoch test error % validation error % ETA host updated settings run"
    assert [line.split()[0] for line in lines[1:-1]] == ["running", "interrupted", "crashed", "failed", "finished"]
    live = lines[1].split()
    assert live[1:4] == ["4/10", "20.00", "1:37"]
    assert live[5:7] == ["0:03", "ago"]
    assert lines[1].endswith("/seed_0")
    assert "(ZeroDivisionError: x)" in lines[3]
    assert "(loss is not finite)" in lines[4]
    assert lines[-1] == "5 runs: 1 running, 1 interrupted, 1 crashed, 1 failed, 1 finished"


def test_a_run_whose_process_died_is_interrupted_and_has_no_eta(folder, capsys):
    lines = listed(capsys, f"runs_dir={folder}", "state=interrupted")
    assert lines[-1] == "2 runs: 2 interrupted"
    assert "1:40" not in "".join(lines)


def test_filters_choose_by_state_and_by_any_key_of_the_configuration(folder, capsys):
    assert listed(capsys, f"runs_dir={folder}", "state=finished,failed")[-1] == "2 runs: 1 failed, 1 finished"
    assert listed(capsys, f"runs_dir={folder}", "model=farkasnet18", "seed=1")[-1] == "1 run: 1 interrupted"
    assert listed(capsys, f"runs_dir={folder}", "lr=0.5") == ["0 runs"]


def test_json_holds_the_same(folder, capsys):
    out = json.loads("\n".join(listed(capsys, f"runs_dir={folder}", "format=json", "state=failed")))
    assert out["count"] == {"failed": 1}
    (run,) = out["runs"]
    assert (run["state"], run["epoch"], run["epochs"], run["test_error"]) == ("failed", 3, 10, 90.0)
    assert run["note"] == "loss is not finite"


@pytest.mark.parametrize("content", [None, "", "{", "[]"])
def test_a_damaged_run_is_listed_as_such_and_an_empty_folder_is_not(folder, capsys, content):
    run = running(folder)
    run.record.unlink()
    if content is not None:
        run.record.write_text(content)
    (folder / "other-0" / "seed_0").mkdir(parents=True)
    lines = listed(capsys, f"runs_dir={folder}", "state=damaged")
    assert lines[-1] == "1 run: 1 damaged"
    assert "run.json" in lines[1]


def test_damaged_runs_are_listed_and_counted_whatever_is_asked_for(folder, capsys):
    running(folder).record.write_text("{")
    done = next(record.path for record in runs.collect(folder) if record.state == "finished")
    (done / "result.json").write_text('{"status": "finished", "test_error": -3}')
    for filters in (["state=failed"], ["model=resnet18", "state=failed"]):
        lines = listed(capsys, f"runs_dir={folder}", *filters)
        assert lines[-1] == "3 runs: 2 damaged, 1 failed"
        assert sum("result.json is damaged; the run counts as not done" in line for line in lines) == 1
    document = json.loads("\n".join(listed(capsys, f"runs_dir={folder}", "format=json", "state=failed")))
    assert document["count"] == {"damaged": 2, "failed": 1}


def test_a_run_counts_once_with_its_result_though_its_last_state_is_older(folder, capsys):
    """A kill right after the result: the state is one epoch behind. A damaged result is listed as that alone."""
    (done,) = [r for r in runs.collect(folder) if r.state == "finished"]
    write_state(RunDirectory(done.path), "running", epoch=9, epochs=10, test_error=30.0)
    lines = listed(capsys, f"runs_dir={folder}", "state=finished")
    assert lines[1].split()[:3] == ["finished", "10/10", "12.50"]
    RunDirectory(done.path).result.write_text("{")
    assert listed(capsys, f"runs_dir={folder}")[-1].startswith("5 runs: 2 interrupted, 1 crashed, 1 damaged, 1 failed")


def test_a_copy_of_a_run_is_no_further_run(folder, capsys):
    path = running(folder).path
    shutil.copytree(path, folder / "copied" / "seed_0")
    for filters in ([], ["state=running"]):
        lines = listed(capsys, f"runs_dir={folder}", *filters)
        (copied,) = [line for line in lines if line.startswith("copy")]
        assert f"copied/seed_0  (the same run as {path}, counted once)" in copied
    assert listed(capsys, f"runs_dir={folder}")[-1] == "6 runs: 2 interrupted, 1 crashed, 1 copy, 1 failed, 1 finished"


def test_text_of_a_record_is_printed_without_its_control_characters(folder, capsys):
    path = next(record.path for record in runs.collect(folder) if record.state == "crashed")
    error = "\x1b[2J\x1b]0;owned\x07bad [red]\nvalue[/red] \u202e [text] \ud800"
    write_state(RunDirectory(path), "crashed", epoch=1, epochs=10, error=error, host="\x1b[31mhost")
    lines = listed(capsys, f"runs_dir={folder}", "state=crashed")
    shown = lines[1]
    assert len(lines) == 3
    assert r"\x1b[2J\x1b]0;owned\x07bad [red]\nvalue[/red] \u202e [text] \ud800" in shown
    assert "\x1b" not in shown


def test_the_live_table_shows_brackets_as_they_are(folder):
    path = next(record.path for record in runs.collect(folder) if record.state == "crashed")
    write_state(RunDirectory(path), "crashed", epoch=1, epochs=10, error="[text] [/nothing]")
    lines = status.Watcher(folder, ["crashed"]).look()
    console = Console(width=240, record=True, file=io.StringIO())
    console.print(status.table(lines, "[/runs]", 20))
    shown = console.export_text()
    assert "[text] [/nothing]" in shown
    assert "[/runs]" in shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_terminal_can_show_any_text(folder, encoding, monkeypatch):
    path = make_run(folder, settings(epochs=10), seed=7, state="crashed")
    write_state(RunDirectory(path), "crashed", epoch=1, epochs=10, error="λ → ∞")
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", out)
    assert status.main([f"runs_dir={folder}"]) == 0
    out.flush()
    assert ("λ → ∞" if encoding == "utf-8" else "? ? ?") in out.buffer.getvalue().decode(encoding)


def test_an_absurd_forecast_is_none(folder, capsys):
    run = running(folder)
    with run.locked():
        for eta in (1e300, 10**30):
            write_state(run, "running", epoch=4, epochs=10, eta_seconds=eta)
            assert listed(capsys, f"runs_dir={folder}", "state=running")[1].split()[2] != "0" * 20
            assert len(listed(capsys, f"runs_dir={folder}", "state=running")[1]) < 200


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("runs_dir=/nowhere", "runs_dir: no folder /nowhere"),
        ("runs_dir=/dev/null", "runs_dir: no folder /dev/null"),
        ("state=runing", "state: unknown 'runing'; did you mean 'running'?"),
        ("sate=running", "sate: unknown 'sate'; did you mean 'state'?"),
        ("format=xml", "format: unknown 'xml'"),
        ("watch=yes", "watch: unknown 'yes'"),
        ("watch=true", "watch: true needs a terminal"),
        ("every=0", "every: '0' is out of range"),
        ("every=soon", "every: 'soon' is out of range"),
        ("runs", "runs: unknown 'runs'; did you mean 'runs_dir'?"),
        ("state=", "state: a value is missing"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(folder, monkeypatch, capsys, argument, words):
    monkeypatch.chdir(folder)
    (folder / "runs").mkdir()
    assert status.main([argument]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert line.startswith("error: ")


def test_what_has_not_changed_is_not_read_again(folder, monkeypatch):
    watcher = status.Watcher(folder)
    first = watcher.look()
    read = []
    original = runs.read_run
    monkeypatch.setattr(runs, "read_run", lambda path: read.append(path) or original(path))
    assert [line.run for line in watcher.look()] == [line.run for line in first]
    assert len(read) == 2  # those that may have died or begun: the "running" one and the interrupted one
    done = make_run(folder, settings(epochs=10), seed=1, test_error=11.0)
    assert [line for line in watcher.look() if line.state == "finished"][1].run == f"{done.parent.name}/seed_1"


def test_the_live_table_fits_the_terminal_and_counts_the_rest(folder):
    lines = status.Watcher(folder).look()
    console = Console(width=140, height=9, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(status.table(lines, "runs", 9))
    shown = console.export_text().splitlines()
    assert len(shown) <= 9
    assert "5 runs: 2 interrupted, 1 crashed, 1 failed, 1 finished" in " ".join(shown)
    assert "(the last 3 are not shown)" in " ".join(shown)


def test_it_is_readable_while_runs_are_written(tmp_path):
    """A writer replaces files and appends rows as fast as it can; no look fails, none sees half a file."""
    path = make_run(tmp_path, settings(epochs=1000), state="running", epoch=1)
    run, stop, looks = RunDirectory(path), threading.Event(), 0

    def write():
        epoch = 0
        while not stop.is_set():
            epoch += 1
            write_state(run, "running", epoch=epoch, epochs=1000, test_error=50.0)

    with run.locked():
        writer = threading.Thread(target=write)
        writer.start()
        try:
            watcher, last = status.Watcher(tmp_path), 0
            while writer.is_alive() and (looks < 50 or last < 50):
                (line,) = watcher.look()
                assert line.state == "running"
                assert line.epoch >= last
                last, looks = line.epoch, looks + 1
        finally:
            stop.set()
            writer.join()
    assert looks >= 50
    assert last >= 50


@pytest.mark.slow
def test_a_thousand_runs_are_listed_in_a_second(tmp_path):
    config = settings()
    for number in range(1000):
        make_run(tmp_path, {**config, "lr": {"value": 0.001 * (1 + number // 10)}}, seed=number % 10, rows=[])
    begin = time.process_time()
    assert len(status.Watcher(tmp_path).look()) == 1000
    assert time.process_time() - begin < 1.5  # a tenth of ten thousand


def test_the_settings_that_differ_are_shown_as_they_are_given(tmp_path, capsys):
    for momentum in (0.5, 0.9):
        make_run(tmp_path, settings(epochs=10, optimizer__momentum=momentum, lr__value=momentum))
    lines = listed(capsys, f"runs_dir={tmp_path}")
    assert sorted(line.split()[3:5] for line in lines[1:3]) == [
        [f"lr={momentum}", f"optimizer.momentum={momentum}"] for momentum in (0.5, 0.9)
    ]
    assert listed(capsys, f"runs_dir={tmp_path}", "optimizer.momentum=0.5")[-1] == "1 run: 1 finished"
    document = json.loads("\n".join(listed(capsys, f"runs_dir={tmp_path}", "format=json", "lr=0.5")))
    assert document["runs"][0]["settings"] == {}
    document = json.loads("\n".join(listed(capsys, f"runs_dir={tmp_path}", "format=json")))
    assert {run["settings"]["lr"] for run in document["runs"]} == {0.5, 0.9}
    console = Console(width=240, record=True, file=io.StringIO())
    console.print(status.table(status.Watcher(tmp_path).look(), "runs", 20))
    assert "lr=0.5 optimizer.momentum=0.5" in console.export_text()
