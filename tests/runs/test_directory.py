import json
import multiprocessing
import os
import socket

import pytest
import yaml

from farkas_exp import runs
from farkas_exp.config.identity import identify
from farkas_exp.machine.errors import UserError
from farkas_exp.runs.jsonfiles import LARGEST_JSON, sealed
from tests.configs import config


def make_run(tmp_path, seed=0, state=None, result=None):
    run = runs.open_run(config(tmp_path, seed=seed))
    run.path.mkdir(parents=True)
    runs.write_record(run, config(tmp_path, seed=seed))
    if state:
        runs.write_state(run, state, epoch=2, epochs=3, test_error=50.0)
    if result:
        runs.write_json(run.result, {"status": result, "epochs": 3, "test_error": 10.0})
    return run


def hold_lock(path, ready, release):
    with runs.RunDirectory(path).locked():
        ready.set()
        release.wait(240)


def test_record_holds_identity_seed_and_config(tmp_path):
    run = make_run(tmp_path)
    record = runs.read_run(run.path)
    assert (record.identity, record.seed, record.state) == (identify(config(tmp_path)).hash, 0, runs.EMPTY)
    assert record.config == yaml.safe_load(run.config.read_text())
    assert record.epochs == 3


def test_the_wandb_id_stays_the_same_when_a_run_is_continued(tmp_path):
    run = make_run(tmp_path)
    first = json.loads(run.record.read_text())["wandb_id"]
    assert runs.write_record(run, config(tmp_path))["wandb_id"] == first


def test_a_foreign_or_damaged_record_is_refused_and_kept(tmp_path):
    run = make_run(tmp_path)
    for text in ("{", '{"identity": "other", "seed": 0}'):
        run.record.write_text(text)
        with pytest.raises(UserError, match="not the record of this run"):
            runs.write_record(run, config(tmp_path))
        assert run.record.read_text() == text


@pytest.mark.parametrize("result", [runs.FINISHED, runs.FAILED])
def test_a_result_decides_the_state(tmp_path, result):
    record = runs.read_run(make_run(tmp_path, state=runs.RUNNING, result=result).path)
    assert (record.state, record.epoch) == (result, 3)


def test_a_running_state_without_a_living_process_is_an_interrupted_run(tmp_path):
    run = make_run(tmp_path, state=runs.RUNNING)
    assert runs.read_run(run.path).state == runs.INTERRUPTED
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=hold_lock, args=(run.path, ready, release))
    holder.start()
    try:
        assert ready.wait(240)
        assert runs.read_run(run.path).state == runs.RUNNING
        with pytest.raises(runs.RunBusy, match=f"being trained by process {holder.pid} on"), run.locked():
            pass
    finally:
        release.set()
        holder.join()
    with run.locked():  # the lock died with its process
        assert run.is_locked()
    assert runs.read_run(run.path).state == runs.INTERRUPTED


def test_collect_passes_over_what_is_no_run_and_sorts(tmp_path):
    for seed in (10, 2, 1):
        make_run(tmp_path, seed=seed, result=runs.FINISHED)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "seed_0").mkdir()
    (tmp_path / "folder" / "seed_1").write_text("a file")
    assert [record.seed for record in runs.collect(tmp_path)] == [1, 2, 10]
    with pytest.raises(UserError, match="no folder"):
        runs.collect(tmp_path / "nowhere")


def test_rows_are_read_up_to_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert runs.read_rows(path) == [{"epoch": 1}, {"epoch": 2}]
    path.write_text('{"epoch": 1}\n{"epoch": 2}')
    assert runs.read_rows(path) == [{"epoch": 1}]


HOSTILE = {
    "deep": "[" * 100_000 + "]" * 100_000,
    "quite deep": '{"a":' * 100 + "1" + "}" * 100,
    "not UTF-8": b'{"a": "\xff"}',
    "binary": bytes(range(256)),
    "empty": "",
    "torn": '{"a": 1',
    "large": " " * (LARGEST_JSON + 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_json_is_none(tmp_path, name):
    content = HOSTILE[name]
    path = tmp_path / "file.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert runs.read_json(path) is None
    path.write_bytes(path.read_bytes() + b"\n")
    assert runs.read_rows(path) == []


def test_numbers_are_finite_or_none(tmp_path):
    path = tmp_path / "file.json"
    path.write_text(
        f'{{"nan": NaN, "inf": -Infinity, "long": {"7" * 400}, "longest": {"7" * 5000}, "e": 1e999, "n": 3}}'
    )
    assert runs.read_json(path) == {"nan": None, "inf": None, "long": None, "longest": None, "e": None, "n": 3}


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "link to itself", "socket", "endless"])
def test_a_reader_never_waits(tmp_path, kind):
    path = tmp_path / "result.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(path.relative_to(path.parent)) if len(os.fspath(path)) > 100 else os.fspath(path))
    else:
        with open(path, "wb") as handle:
            handle.truncate(2**36)
    assert runs.read_json(path) is None
    assert runs.read_rows(path) == []


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("file", ["run.json", "result.json", "state.json", "lock", "metrics.jsonl", "environment.json"])
def test_a_run_with_a_strange_file_is_read_as_far_as_it_goes_and_named(tmp_path, kind, file):
    run = make_run(tmp_path, state=runs.RUNNING, result=runs.FINISHED)
    (run.path / file).unlink(missing_ok=True)
    {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda path: os.symlink("/dev/zero", path)}[kind](run.path / file)
    found = runs.survey(tmp_path)
    assert len(found.records) == (file != "run.json")
    assert [each.path for each in found.unreadable] == [run.path] * (file in ("run.json", "result.json"))
    assert all(record.metrics() == [] for record in found.records)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 99}, {"seed": "0"}, {"seed": True}, {"seed": 1e30}, {"config": []}, {"identity": None},
        {"config": {"model": "mlp"}}, {"config": {"epochs": "x" * 100}}, {"config": {"model": {"name": 5}}},
        {"config": {"lr": {"value": "0.1"}}}, {"config": {"phases": {"schedule": {}}}},
    ],
)  # fmt: skip
def test_a_record_that_is_none_is_named_and_not_read(tmp_path, change):
    run = make_run(tmp_path, result=runs.FINISHED)
    runs.write_json(run.record, sealed(runs.read_json(run.record) | change))
    found = runs.survey(tmp_path)
    assert (found.records, len(found.unreadable)) == ([], 1)
    assert "run.json is damaged, or of another version" in str(found.unreadable[0])


@pytest.mark.parametrize(
    "result", ['{"status": "finished", "test_error": -1}', '{"status": "finished", "test_error": 1e300}', "[]",
               '{"status": "finished", "test_error": "3"}', '{"status": "done"}', '{"status": ["finished"]}', "7"],
)  # fmt: skip
def test_a_result_that_cannot_be_one_is_named_and_the_run_is_not_done(tmp_path, result):
    run = make_run(tmp_path, state=runs.FINISHED)
    run.result.write_text(result)
    found = runs.survey(tmp_path)
    assert [record.state for record in found.records] == [runs.INTERRUPTED]
    assert [str(each) for each in found.unreadable] == [
        f"{run.path} (result.json is damaged; the run counts as not done)"
    ]


def test_what_cannot_be_looked_into_is_named_and_hides_nothing_else(tmp_path, monkeypatch):
    make_run(tmp_path, result=runs.FINISHED)
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    (tmp_path / "nowhere").symlink_to(tmp_path / "taken_away")
    (tmp_path / "a-0" / "seed_0").mkdir(parents=True)
    (tmp_path / "a-0" / "seed_1").symlink_to("seed_1")
    (tmp_path / "secret").mkdir()

    def guarding(function):
        def guarded(path):
            if os.fspath(path).endswith("secret"):
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return function(path)

        return guarded

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, guarding(getattr(os, name)))
    found = runs.survey(tmp_path)
    assert [record.state for record in found.records] == [runs.FINISHED]
    assert [each.path.name for each in found.unreadable] == ["seed_1", "itself", "nowhere", "secret"]
