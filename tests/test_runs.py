import json
import math
import multiprocessing
import os

import pytest
import yaml
from configs import config

from farkas_exp import runs
from farkas_exp.errors import UserError
from farkas_exp.identity import identify


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
        release.wait(30)


def test_record_holds_identity_seed_and_config(tmp_path):
    run = make_run(tmp_path)
    record = runs.read_run(run.path)
    assert record is not None
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
    assert record is not None
    assert (record.state, record.epoch) == (result, 3)


def test_a_running_state_without_a_living_process_is_an_interrupted_run(tmp_path):
    run = make_run(tmp_path, state=runs.RUNNING)
    assert runs.read_run(run.path).state == runs.INTERRUPTED
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=hold_lock, args=(run.path, ready, release))
    holder.start()
    try:
        assert ready.wait(30)
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
    assert [record.seed for record in runs.collect(tmp_path)] == [1, 2, 10]
    with pytest.raises(UserError, match="no folder"):
        runs.collect(tmp_path / "nowhere")


def test_rows_are_read_up_to_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert runs.read_rows(path) == [{"epoch": 1}, {"epoch": 2}]
    path.write_text('{"epoch": 1}\n{"epoch": 2}')
    assert runs.read_rows(path) == [{"epoch": 1}]


def test_a_write_is_whole_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    runs.write_json(path, {"a": 1, "nan": math.nan, "deep": [math.inf]})
    assert json.loads(path.read_text()) == {"a": 1, "nan": None, "deep": [None]}

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        runs.write_json(path, {"a": 2})
    assert json.loads(path.read_text())["a"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]
