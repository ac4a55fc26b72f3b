"""The commands beside training print to whatever their standard output is, and their exit status is their own."""

import io
import os
import sys

import pytest

from farkas_exp.machine.output import plural
from farkas_exp.report import command
from farkas_exp.runs import best, status
from farkas_exp.studies import __main__ as studies
from tests.made_runs import make_run, settings

HELD_OUT = {"validation_error": 12.0, "best_validation_error": 11.0}


@pytest.fixture
def folder(tmp_path):
    for seed in range(2):
        make_run(tmp_path, settings(dataset__validation=0.1), seed=seed, result=HELD_OUT)
    return tmp_path


def commands(folder):
    runs_dir = f"runs_dir={folder}"
    return {
        "status": lambda: status.main([runs_dir]),
        "status of nothing": lambda: status.main(["state=λ"]),
        "best": lambda: best.main([runs_dir]),
        "report": lambda: command.main(["arms", runs_dir, "format=md"]),
        "studies": lambda: studies.main(["list"]),
        "studies of nothing": lambda: studies.main(["λ"]),
    }


NAMES = list(commands(None))


@pytest.fixture
def closed_pipe():
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w", encoding="utf-8") as stream:
        yield stream


@pytest.mark.parametrize("name", NAMES)
def test_a_command_whose_output_nobody_reads_ends_as_ever(folder, name, closed_pipe, monkeypatch):
    monkeypatch.setattr(sys, "stdout", closed_pipe)
    assert commands(folder)[name]() == (2 if "nothing" in name else 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_command_prints_on_an_ascii_terminal(folder, name, monkeypatch):
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert commands(folder)[name]() == (2 if "nothing" in name else 0)
    said = err if "nothing" in name else out
    assert said.buffer.getvalue()


def test_counted_things_are_one_or_several():
    assert [plural(count, "run") for count in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
