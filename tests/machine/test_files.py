"""One way to write a file: whole or not at all, and never through a link."""

import errno
import os
import threading

import pytest

from farkas_exp import runs
from farkas_exp.launch import execution, outcomes
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.files import appending, cut_torn_line, replacing, scratch_folder, write_text
from farkas_exp.runs import open_run
from tests.configs import config


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    write_text(path, "before")

    def fail():
        with replacing(path) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a"]


def test_an_error_of_the_disk_names_the_file_and_not_its_temporary_one(tmp_path):
    path = tmp_path / "a"
    for place, number in ((path, errno.ENOSPC), (tmp_path / "none" / "a", errno.ENOENT)):
        with pytest.raises(OSError, match=str(place)) as raised, replacing(place):
            raise OSError(errno.ENOSPC, "No space left on device")  # as of a write
        assert raised.value.errno == number
    with pytest.raises(FileNotFoundError) as other, replacing(path):
        (tmp_path / "b").read_text()
    assert other.value.filename == str(tmp_path / "b")


def test_the_file_before_stays_where_it_is_kept(tmp_path):
    path, kept = tmp_path / "a", tmp_path / "b"
    for text in ("first", "second"):
        with replacing(path, keep=kept) as file:
            file.write(text.encode())
    assert (path.read_text(), kept.read_text()) == ("second", "first")


def test_two_writers_of_one_path_in_one_process_do_not_share_a_temporary_file(tmp_path):
    path, barrier = tmp_path / "figure.png", threading.Barrier(2)

    def write(text):
        with replacing(path) as file:
            barrier.wait(240)
            file.write(text)
            barrier.wait(240)

    writers = [threading.Thread(target=write, args=(text,)) for text in (b"x" * 1000, b"y" * 1000)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert path.read_bytes() in (b"x" * 1000, b"y" * 1000)
    assert os.listdir(tmp_path) == ["figure.png"]


def test_a_temporary_name_fits_where_the_name_does(tmp_path):
    path = tmp_path / ("é" * 120 + ".json")
    write_text(path, "x")
    assert path.read_text() == "x"


def test_a_link_is_replaced_and_never_written_through(tmp_path):
    mine, link = tmp_path / "mine", tmp_path / "state.json"
    mine.write_text("mine")
    link.symlink_to(mine)
    write_text(link, "{}")
    assert mine.read_text() == "mine"
    assert not link.is_symlink()


@pytest.mark.parametrize("target", ["there", "missing"])
def test_what_grows_is_never_opened_through_a_link(tmp_path, target):
    mine, link = tmp_path / "there", tmp_path / "log.txt"
    mine.write_text("no line end")
    link.symlink_to(tmp_path / target)
    for opening in (appending, cut_torn_line):
        with pytest.raises(OSError, match="symbolic link"):
            opening(link)
    assert mine.read_text() == "no line end"
    assert sorted(os.listdir(tmp_path)) == ["log.txt", "there"]


def test_a_pipe_in_the_place_of_a_file_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "log.txt")
    for opening in (appending, cut_torn_line):
        with pytest.raises(OSError, match="no regular file"):
            opening(tmp_path / "log.txt")


def test_a_scratch_folder_goes_with_its_block(tmp_path):
    with scratch_folder(tmp_path, ".x-") as folder:
        (folder / "a").write_text("a")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["lock", "log.txt", "metrics.jsonl", "diagnostics.jsonl"])
def test_links_in_a_run_directory_are_refused_in_one_line_and_the_users_file_stays(tmp_path, name):
    made = config(tmp_path / "runs", epochs=1, diagnostics={"epochs": [1]})
    run, mine = open_run(made), tmp_path / "mine"
    run.path.mkdir(parents=True)
    mine.write_text("mine")
    (run.path / name).symlink_to(mine)
    with pytest.raises(UserError) as refused:
        execution.execute(made)
    assert f"{run.path / name}: it is a symbolic link" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert mine.read_text() == "mine"
    (run.path / name).unlink()
    assert execution.execute(made).status == runs.FINISHED


def test_a_link_in_the_folder_of_a_sweep_is_not_written_through(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "job_0.json").symlink_to(mine)
    outcomes.record_outcome(tmp_path / "sweep", 0, [], outcomes.Outcome(runs.FINISHED, "a"))
    assert mine.read_text() == "mine"
    assert [outcome.path for outcome in outcomes.read_outcomes(tmp_path / "sweep")] == ["a"]
