"""What a sweep says while it runs."""

import re
from multiprocessing import forkserver

from farkas_exp import runs
from farkas_exp.launch.cli import main
from farkas_exp.launch.outcomes import (
    BUSY,
    DISK,
    LOST,
    OUTCOMES,
    PASSED_OVER,
    REFUSED,
    SKIPPED,
    Outcome,
    record_outcome,
)
from farkas_exp.launch.summary import best_line, summarize
from farkas_exp.launch.sweep import Sweep
from farkas_exp.launch.tally import Tally
from tests.small_command import TINY


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_the_line_counts_what_ended_and_estimates_from_what_was_trained():
    tally = Tally(48, clock := Clock())
    assert tally.begin([SKIPPED] * 4) == "4 of 48 runs done"
    clock.now += 60
    assert tally.add([runs.FINISHED]) == "5 of 48 runs done, ETA 43:00"
    clock.now += 60
    assert tally.add([runs.FAILED]) == "6 of 48 runs done, 1 failed to train, ETA 42:00"
    clock.now += 60
    assert tally.add([LOST]) == "7 of 48 runs done, 1 failed to train, 1 without outcome, ETA 41:00"


def test_a_sweep_tells_apart_all_but_what_is_done_and_names_what_needs_a_hand(capsys):
    told = {status: meaning for status, meaning in OUTCOMES.items() if status != PASSED_OVER}
    assert set(told) == {*runs.DONE, runs.INTERRUPTED, runs.CRASHED, SKIPPED, BUSY, LOST, DISK, REFUSED}
    line = Tally(99).add([status for status in OUTCOMES if status != PASSED_OVER])
    assert line.startswith(
        "9 of 99 runs done, 1 failed to train, 1 interrupted, 1 busy elsewhere, 1 without outcome, 1 crashed,"
        " 1 file error, 1 refused"
    )
    status = summarize([Outcome(status, f"<{status}>") for status in OUTCOMES], 1.0, [])
    out = capsys.readouterr().out
    named = re.findall(r"<(.*)>", out)
    assert out.startswith("\n9 runs in 1.0 s: "), "one was passed over"
    assert (status, named) == (1, [BUSY, LOST, runs.CRASHED, DISK, REFUSED])


def test_runs_that_go_on_count_as_half_done():
    tally = Tally(9, clock := Clock())
    tally.begin([])
    clock.now += 100
    assert tally.add([runs.FINISHED], running=2) == "1 of 9 runs done, ETA 5:50"  # 2 of 9 in 100 s


def test_runs_that_an_arm_is_not_for_are_no_runs_and_the_end_is_left_to_the_summary():
    tally = Tally(3)
    assert tally.begin([PASSED_OVER]) == "0 of 2 runs done"
    assert tally.add([runs.FINISHED]).startswith("1 of 2 runs done, ETA 0:00")
    assert tally.add([runs.FINISHED]) is None
    assert Tally(1).begin([]) is None
    assert Tally(None).begin([SKIPPED]) is None


def test_a_sweep_says_how_far_it_is_and_names_runs_by_what_differs(tmp_path, capfd):
    given = ["-m", *TINY, "progress=plain", "lr.value=0.1,0.2", "seed=0,1", f"runs_dir={tmp_path}"]
    assert main([*given, "seed=0", "lr.value=0.1"]) == 0
    assert " of " not in capfd.readouterr().out  # one run is no sweep
    assert main(given) == 0
    out = capfd.readouterr().out
    assert re.findall(r"^\d of 4 runs done", out, flags=re.M) == [f"{n} of 4 runs done" for n in (1, 2, 3)]
    assert "1 of 4 runs done\n" in out
    assert re.search(r"^2 of 4 runs done, ETA [\d:]+$", out, re.M)
    assert "[2/4 lr.value=0.1 seed=1] epoch 1/1" in out
    assert "[4/4 lr.value=0.2 seed=1] epoch 1/1" in out


def test_runs_side_by_side_are_counted_too(tmp_path, capfd):
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # one of an earlier test writes where that one did
    given = ["hydra/launcher=local_parallel", "hydra.launcher.n_jobs=2", "seed=0,1,2", f"runs_dir={tmp_path}"]
    assert main(["-m", *TINY, "progress=plain", *given]) == 0
    out = capfd.readouterr().out
    assert re.findall(r"^(\d) of 3 runs done", out, flags=re.M) == ["0", "1", "2"]
    assert "[3/3 seed=2] epoch 1/1" in out


def test_the_best_of_a_search_is_that_of_a_setting_not_of_a_lucky_seed(tmp_path):
    assert best_line(tmp_path) is None
    errors = {
        ("lr=0.1", "seed=0"): 1.0,
        ("lr=0.1", "seed=1"): 9.0,
        ("lr=0.2", "seed=0"): 4.0,
        ("lr=0.2", "seed=1"): 5.0,
    }
    for number, (words, error) in enumerate(errors.items()):
        record_outcome(tmp_path, number, words, Outcome(runs.FINISHED, f"runs/{number}", ""), error)
    assert best_line(tmp_path) == "Best error on held-out images: 4.50 % with lr=0.2 (mean of 2 seeds)"
    record_outcome(tmp_path, 4, ["lr=0.3", "seed=0"], Outcome(runs.FINISHED, "runs/4", ""), 2.0)
    assert best_line(tmp_path) == "Best error on held-out images: 2.00 % with lr=0.3 (in runs/4)"
    record_outcome(tmp_path, 5, ["lr=0.4", "seed=0"], Outcome(runs.FINISHED, "runs/5", ""), 0.0)
    assert best_line(tmp_path) == "Best error on held-out images: 0.00 % with lr=0.4 (in runs/5)"


def test_the_best_of_seeds_alone_names_no_setting(tmp_path):
    for seed in (0, 1):
        record_outcome(tmp_path, seed, [f"seed={seed}"], Outcome(runs.FINISHED, f"runs/{seed}", ""), 4.0 + seed)
    assert best_line(tmp_path) == "Best error on held-out images: 4.50 % (mean of 2 seeds)"


def test_the_place_of_a_run_counts_those_that_no_arm_is_for(tmp_path):
    sweep = Sweep(tmp_path, tmp_path, varied=frozenset({"seed"}), tally=Tally(12))
    sweep.tally.begin([PASSED_OVER] * 3)
    assert sweep.title(9, ["model=mlp", "seed=2"]) == "10/12 seed=2"
    assert sweep.tally.line() == "0 of 9 runs done"
