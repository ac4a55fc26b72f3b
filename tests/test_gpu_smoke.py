"""The smoke list: what works is said to work, what fails is shown, and the others go on."""

import sys
from types import SimpleNamespace

import pytest

from tests.composing import composed
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


@pytest.mark.parametrize("way", smoke.WAYS, ids=lambda way: way.name)
def test_every_way_gives_commands_that_compose_for_a_gpu_too(way, tmp_path, monkeypatch):
    """With stand-ins for the processes, which the slow test below has."""
    asked = []

    def start(command, **options):
        if "farkas_exp" in command:
            asked.append(command[command.index("farkas_exp") + 1 :])
            place = next(argument.partition("=")[2] for argument in command if argument.startswith("runs_dir="))
            for seed in range(4 if "-m" in asked[-1] else 1):
                run = tmp_path / place / "a_run" / f"seed_{seed}"
                run.mkdir(parents=True, exist_ok=True)
                (run / "metrics.jsonl").write_text('{"epoch": 1, "train_loss": 2.0}\n')
        return SimpleNamespace(stdout="", stderr="", returncode=0, send_signal=asked.append, wait=lambda seconds: 75)

    stand_ins = {"run": start, "Popen": start, "DEVNULL": None, "TimeoutExpired": TimeoutError}
    monkeypatch.setattr(smoke, "subprocess", SimpleNamespace(**stand_ins))
    assert smoke.attempt(way, "cuda", tmp_path)[0] == ""
    commands = [each for each in asked if isinstance(each, list)]
    assert commands
    for command in commands:
        made = composed(*[argument for argument in command if argument not in ("-m", "seed=0,1,2,3")])
        assert (made.device, made.epochs >= 2) == ("cuda", True)


@pytest.mark.slow
def test_every_way_works_on_a_cpu_as_far_as_it_goes(capsys, monkeypatch):
    monkeypatch.setattr(smoke, "SECONDS", 600)  # a busy machine compiles for minutes
    assert smoke.main(["--device", "cpu", "--at-once", "2"]) == 0, capsys.readouterr().out
