"""The progress display: plain, live, silent; and the log file in every mode."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from farkas_exp.runs.console import Progress, duration, epoch_line, is_shown


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def row(epoch: int, **more: Any) -> dict[str, Any]:
    figures = {"lr": 0.1, "train_loss": 1.5, "train_error": 40.0, "test_loss": 1.4, "test_error": 38.25}
    return {"epoch": epoch, **figures, "images_per_second": 1234.4, "epoch_seconds": 2.0, **more}


def test_plain_output_is_thinned_but_the_log_has_every_epoch(tmp_path: Path) -> None:
    out = io.StringIO()
    progress = Progress("auto", "resnet18 seed 0", 200, tmp_path / "log.txt", stream=out)
    for epoch in range(1, 201):
        progress.epoch(row(epoch))
    progress.close("finished")
    lines = out.getvalue().splitlines()
    shown = [int(found.group(1)) for line in lines if (found := re.search(r"epoch (\d+)/200", line))]
    assert shown == [1, 2, 3, *range(10, 201, 10)]
    assert all(line.startswith("[resnet18 seed 0] ") for line in lines)
    assert lines[-1] == "[resnet18 seed 0] finished"
    log = (tmp_path / "log.txt").read_text().splitlines()
    assert [f"epoch {epoch}/200" in line for epoch, line in enumerate(log[:-1], 1)] == [True] * 200
    assert log[-1].endswith(" finished")


def test_short_runs_show_every_epoch_and_any_run_its_last() -> None:
    assert all(is_shown(epoch, 20) for epoch in range(1, 21))
    assert is_shown(47, 47)
    assert not is_shown(46, 47)


def test_a_line_has_what_the_row_has_and_says_what_is_not_finite() -> None:
    line = epoch_line(row(3, train_loss=float("nan"), test_loss=None), 10, eta=65.0)
    assert line.startswith("epoch 3/10  lr 0.1  train loss not finite  error 40.00 %  test loss not finite")
    assert "test error 38.25 %" in line
    assert "top-5" not in line
    assert "test error 38.25 %  test error top5 7.50 %" in epoch_line(row(3, test_error_top5=7.5), 10)
    assert "1,234 images/s" in line
    assert line.endswith("ETA 1:05")
    assert "ETA" not in epoch_line(row(10), 10, eta=0.0)
    assert epoch_line({"epoch": 1}, 2) == "epoch 1/2"


def test_eta_is_the_rest_at_the_speed_of_this_process() -> None:
    clock = Clock()
    progress = Progress("none", "t", 100, None, done=40, clock=clock)
    clock.now = 1000.0  # set-up, and the first step, which compiles
    progress.step(1, 10)
    assert progress.eta_seconds() is None
    clock.now += 2.0 * 9.9
    progress.epoch(row(50))
    assert progress.eta_seconds() == pytest.approx(50 * 2.0)


def test_live_line_shows_epoch_figures_and_eta_and_is_throttled() -> None:
    clock, out = Clock(), Terminal()
    progress = Progress("auto", "farkasnet18 seed 1", 10, None, stream=out, clock=clock)
    clock.now = 4.0
    progress.epoch(row(1))
    size = len(out.getvalue())
    for done in range(1, 1000):
        progress.step(done, 2000)
    assert len(out.getvalue()) == size, "no redraw without time passing"
    clock.now = 5.0
    progress.step(1000, 2000)
    text = out.getvalue()
    assert len(text) > size
    assert "farkasnet18 seed 1" in text
    assert "epoch 2/10" in text
    assert "ETA" in text
    progress.message("checkpoint damaged")
    progress.close("finished: 38.25 %")
    assert "checkpoint damaged" in out.getvalue()
    assert "finished: 38.25 %" in out.getvalue()
    progress.close("again")


def test_none_prints_nothing_and_logs_all(tmp_path: Path) -> None:
    out = Terminal()
    progress = Progress("none", "t", 2, tmp_path / "log.txt", stream=out)
    progress.epoch(row(1))
    progress.message("resumed")
    progress.close("done")
    assert out.getvalue() == ""
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 3


def test_a_resumed_run_appends_to_its_log(tmp_path: Path) -> None:
    for epoch in (1, 2):
        progress = Progress("none", "t", 2, tmp_path / "log.txt", done=epoch - 1)
        progress.epoch(row(epoch))
        progress.close()
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize("mode", ["plain", "live"])
def test_a_terminal_that_goes_away_does_not_stop_the_run(tmp_path: Path, mode: Any) -> None:
    class Gone(Terminal):
        broken = False

        def write(self, text: str) -> int:
            if self.broken:
                raise BrokenPipeError
            return super().write(text)

    out, streams = Gone(), (sys.stdout, sys.stderr)
    progress = Progress(mode, "t", 5, tmp_path / "log.txt", stream=out)
    out.broken = True
    for epoch in range(1, 6):
        progress.step(1, 2)
        progress.epoch(row(epoch))
    progress.message("m")
    progress.close("done")
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 7
    assert (sys.stdout, sys.stderr) == streams


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (65, "1:05"), (3723, "1:02:03"), (float("inf"), "?")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
