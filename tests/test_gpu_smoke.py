"""The smoke list: what works is said to work, what fails is shown, and the others go on."""

import sys

import pytest

from tests.paths import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import gpu_smoke as smoke


def test_what_fails_is_shown_and_the_others_go_on(monkeypatch, capsys):
    def fails(trial):
        raise smoke.Broken("exit status 1\n    error: no room")

    def crashes(trial):
        raise ZeroDivisionError("division by zero")

    ways = [smoke.Way("first", fails), smoke.Way("second", crashes), smoke.Way("third", lambda trial: None)]
    monkeypatch.setattr(smoke, "WAYS", [*ways, smoke.Way("fourth", lambda trial: None, needs_gpu=True)])
    assert smoke.main(["--device", "cpu"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in printed] == [
        ["FAILED", "first"], ["error:", "no"], ["FAILED", "second"], ["works", "third"], ["left", "out"],
    ]  # fmt: skip
    assert "ZeroDivisionError: division by zero" in printed[2]
    assert smoke.main(["--device", "cpu", "--only", "third"]) == 0


def test_a_run_that_ends_with_another_status_is_broken_and_its_last_lines_are_kept(tmp_path):
    with pytest.raises(smoke.Broken, match=r"exit status 2\n(?s:.*)epochs: 0 is out of range"):
        smoke.Trial("cpu", tmp_path).train("epochs=0")


@pytest.mark.slow
def test_every_way_works_on_a_cpu_as_far_as_it_goes(capsys, monkeypatch):
    monkeypatch.setattr(smoke, "SECONDS", 600)  # a busy machine compiles for minutes
    assert smoke.main(["--device", "cpu", "--at-once", "2"]) == 0, capsys.readouterr().out
