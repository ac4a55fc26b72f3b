"""Which methods the runs tell apart: ranks as ranges, on made errors; and the table of methods by initializations."""

import math
from pathlib import Path

import numpy as np
import pytest

from farkas_exp.report.methods import Arms
from farkas_exp.runs import collect
from farkas_exp.studies.without_normalization import crossed
from farkas_exp.studies.without_normalization.arms import CHOSEN
from farkas_exp.studies.without_normalization.comparison import report as compared
from farkas_exp.studies.without_normalization.ranking import ranks_figure, ranks_table, standings, step_of, told_apart
from tests.made_runs import make_run, settings


def by_seed(*errors: float) -> dict[int, float]:
    return dict(enumerate(errors))


def test_methods_that_the_runs_do_not_tell_apart_are_a_tie() -> None:
    found = standings(
        {
            "good": by_seed(1.0, 1.2, 0.9, 1.1, 1.0),
            "as good": by_seed(1.1, 1.0, 1.2, 0.9, 1.1),
            "bad": by_seed(30.1, 29.8, 30.4, 30.0, 29.9),
            "worse": by_seed(89.9, 90.2, 90.0, 89.8, 90.1),
        }
    )
    assert [each.name for each in found] == ["good", "as good", "bad", "worse"]
    assert [each.ranks for each in found] == ["1 – 2", "1 – 2", "3", "4"]
    assert found[0].behind is None
    assert found[1].behind.low < 0 < found[1].behind.high


def test_the_seeds_are_compared_in_pairs() -> None:
    """What differs from seed to seed more than from method to method is still told apart, seed by seed."""
    hard = [1.0, 20.0, 40.0, 60.0, 80.0]
    second = [x + y for x, y in zip(hard, (2.0, 2.1, 1.9, 2.0, 2.2), strict=True)]
    third = [x + y for x, y in zip(second, (0.1, -0.1, 0.1, -0.1, 0.1), strict=True)]
    found = standings({name: by_seed(*each) for name, each in (("1st", hard), ("2nd", second), ("3rd", third))})
    assert [each.ranks for each in found] == ["1", "2 – 3", "2 – 3"]


def test_equal_differences_of_a_few_runs_are_no_certainty() -> None:
    """Errors are counts of images: a method that is one image worse in both of two runs is not told apart."""
    found = standings({"first": by_seed(1.0, 1.5), "second": by_seed(1.5, 2.0)})
    assert [each.ranks for each in found] == ["1 – 2", "1 – 2"]
    assert found[1].behind.low == pytest.approx(0.5 - 12.706 * 0.5 / 2**0.5, abs=0.001), "as the test: t of one degree"
    assert step_of({"far": by_seed(80.0, 90.0), "near": by_seed(1.0, 1.25)}) == 0.25, "the smallest step of all"


def test_methods_with_other_seeds_are_ranked_by_those_they_have_in_common() -> None:
    """The better one seed by seed has the larger mean over its own: further seeds of it are at chance."""
    errors = {"better": by_seed(10.0, 11.0, 12.0, 90.0, 90.0), "worse": by_seed(30.0, 31.0, 32.0)}
    found = {each.name: each.ranks for each in standings(errors)}
    assert found == {"better": "1", "worse": "2"}
    assert "Not all methods have the same seeds" in ranks_table(errors, "ranks").notes[-1]
    assert len(ranks_table({name: by_seed(1.0, 2.0) for name in "ab"}, "ranks").notes) == 2
    few = {"twice": by_seed(20.0, 21.0), "often": by_seed(11.0, 12.0, 10.0, 12.0)}
    assert [(row[0].lines, row[4].lines) for row in ranks_table(few, "ranks").rows] == [
        (("often",), ("4",)), (("twice",), ("2",)),
    ], "by the mean, not by the sum"  # fmt: skip


def test_pairs_without_two_seeds_in_common_are_counted() -> None:
    errors = {"a": by_seed(10.0, 10.1, 10.2), "b": by_seed(50.0, 50.2, 50.1), "c": {2: 90.0, 7: 91.0, 8: 90.5}}
    note, *_, seeds = ranks_table(errors, "ranks").notes
    assert "Holm's correction for 1 pair; 2 more have fewer than two seeds in common;" in note
    assert seeds.startswith("Not all methods have the same seeds"), "as many, but others"
    assert [each.ranks for each in standings(errors)] == ["1 – 2", "2 – 3", "1 – 3"]


def test_two_methods_without_any_spread_are_told_apart() -> None:
    found = standings({"first": by_seed(10.0, 10.0, 10.0), "second": by_seed(50.0, 50.0, 50.0)})
    assert [each.ranks for each in found] == ["1", "2"]


def test_pairs_are_told_apart_at_five_percent() -> None:
    assert not told_apart({("a", "b"): [1.0, 2.0, 3.0]}, 0.1), "t = 3.46 of two degrees of freedom: p = 0.074"
    assert told_apart({("a", "b"): [1.5, 2.5, 3.5]}, 0.1), "t = 4.33: p = 0.049"


def test_one_run_tells_nothing_apart() -> None:
    found = standings({"first": by_seed(1.0), "second": by_seed(90.0), "none": {}})
    assert [(each.name, each.ranks) for each in found] == [("first", "1 – 2"), ("second", "1 – 2")]


def test_of_many_equal_methods_few_are_told_apart() -> None:
    """Twenty methods of one distribution, five runs each: an order among them is found in few of fifty trials."""
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(50):
        errors = {str(name): by_seed(*random.normal(5, 1, 5)) for name in range(20)}
        wrong += any(each.ranks != "1 – 20" for each in standings(errors))
    assert wrong <= 7  # 5 of 100 at most, and what chance adds to fifty trials


def test_the_table_and_the_picture_have_every_method() -> None:
    errors = {"plain": by_seed(90.0, 90.0), "Farkas sum": by_seed(1.0, 2.0)}
    table = ranks_table(errors, "ranks")
    assert [row[0].lines[0] for row in table.rows] == ["Farkas sum", "plain"]
    assert table.rows[1][3].lines[0].startswith("+88.50 [")
    axes = ranks_figure(errors, {"plain": "red", "Farkas sum": "blue"}).axes[0]
    assert [line.get_color() for line in axes.get_lines()] == ["blue", "black", "red", "black"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Farkas sum   [1]", "plain   [2]"]
    assert [label.get_text() for label in axes.get_xticklabels()][-3:] == ["10", "20", "50"], "plain numbers"


def pair(method: str, init: str, rate: float, validation: float) -> dict:
    scale = {"plain": 1.0, "BN": 0.5}[method]
    return settings(
        "resnet34", dataset__name="digits", epochs=4, lr__value=rate, dataset__validation=validation,
        init__name={"default": "pytorch", "He": "kaiming"}[init], init__last_scale=scale,
    )  # fmt: skip


ARMS = Arms({f"{m}, {i}": pair(m, i, 0.1, 0.0) for m in ("plain", "BN") for i in ("default", "He")}, CHOSEN)


def test_methods_and_initializations_are_crossed_each_pair_at_its_own_rate(tmp_path: Path) -> None:
    for init, best in (("default", 0.01), ("He", 0.1)):
        for rate in (0.01, 0.1):
            make_run(tmp_path, pair("plain", init, rate, 0.2), test_error=3.0 if rate == best else 50.0)
        for seed in (0, 1):
            make_run(tmp_path, pair("plain", init, best, 0.0), seed=seed, test_error=20.0 if init == "default" else 2.0)
    make_run(tmp_path, pair("plain", "He", 0.1, 0.0), seed=2, state="failed", result={"test_error": None})
    make_run(tmp_path, pair("BN", "He", 0.1, 0.2), test_error=3.0)
    make_run(tmp_path, pair("plain", "He", 0.1, 0.2), seed=1, test_error=4.0)
    make_run(tmp_path, pair("plain", "He", 0.01, 0.0), test_error=1.0)  # not its own rate
    report = crossed.report(collect(tmp_path), ARMS)
    notes = " ".join(report.tables[0].notes)
    assert "Setting: dataset digits, 4 epochs, batches of 128." in notes
    assert "lies at an end of its grid: plain, default; plain, He." in notes
    assert "Rates compared over unequal seeds, where a mean over fewer may be luck: plain, He." in notes
    assert report.tables[0].columns == ("method", "default", "He")
    rows = {row[0].lines[0]: row[1:] for row in report.tables[0].rows}
    assert rows["plain"][0].lines == ("20.00 ± 0.00", "lr 0.01, n = 2")
    assert rows["plain"][1].lines == (f"{(2 + 2 + 90) / 3:.2f} ± {88 / 3**0.5:.2f}", "lr 0.1, n = 3, 1 failed")
    assert [cell.lines for cell in rows["BN"]] == [("–",), ("–",)]
    assert [(each["n"], each["failed"]) for each in report.tables[0].records] == [(2, 0), (3, 1), (0, 0)]
    assert [table.name for table in report.tables[1:]] == ["initializations_ranks"]


def test_a_gain_is_over_the_first_method_with_the_same_initialization() -> None:
    errors = {
        "plain, default": by_seed(60.0, 70.0, 80.0, 74.0), "plain, He": by_seed(2.0, 3.0, 1.0, 2.5),
        "BN, default": by_seed(2.0, 12.2, 22.0, 16.0), "BN, He": by_seed(1.0, 4.0, 1.5),
        "GN, He": by_seed(1.0), "GN, default": {7: 1.0, 8: 2.0},
        "plain, LSUV": by_seed(1.0, 1.5), "BN, LSUV": by_seed(0.5, 1.0),
    }  # fmt: skip
    order = [f"{method}, {init}" for method in ("plain", "BN", "GN") for init in ("default", "He", "LSUV")]
    table = crossed.gains_table(errors, order)
    assert table.columns == ("method", "default", "He", "LSUV")
    bn, gn = table.rows
    assert (bn[1].lines[0], bn[1].marker) == ("+57.95", "*"), "far, and by the same with each seed"
    assert (bn[2].lines[0], bn[2].marker) == ("-0.17", ""), "seeds of both alone: 1, -1, -0.5"
    assert (bn[3].lines[0], bn[3].marker) == ("+0.50", ""), "one step between errors, twice, is no certainty"
    assert [each.lines for each in gn[1:]] == [("–",)] * 3, "fewer than two seeds in common"
    default, he, _ = table.records
    assert (default["n"], he["n"], default["told_apart"], he["told_apart"]) == (4, 3, True, False)
    half = 4.303 * math.sqrt(13 / 12 / 3)  # Student's t of 2 degrees of freedom, a variance of 13/12
    assert he["gain_low"] == pytest.approx(-1 / 6 - half, abs=1e-3)
    assert "correction for 3 pairs" in table.notes[0]


def test_the_comparison_says_whose_best_rate_lies_at_an_end(tmp_path: Path) -> None:
    make_run(tmp_path, pair("plain", "He", 0.1, 0.2), test_error=3.0)
    assert "at an end" not in " ".join(compared(collect(tmp_path), ARMS).tables[0].notes), "one rate is no grid"
    make_run(tmp_path, pair("plain", "He", 0.01, 0.2), test_error=5.0)
    notes = " ".join(compared(collect(tmp_path), ARMS).tables[0].notes)
    assert "The best rate lies at an end of its grid: plain, He. A" in notes
    make_run(tmp_path, pair("plain", "He", 1.0, 0.2), test_error=50.0)
    assert "at an end of its grid:" not in " ".join(compared(collect(tmp_path), ARMS).tables[0].notes)


@pytest.mark.parametrize(
    ("least", "scale", "first"),
    [(0.5, "symlog", (0, 0)), (1.0, "symlog", (0, 0)), (6.1, "symlog", (5, 5)), (40.0, "linear", (30, 40))],
)
def test_the_axis_fits_the_errors(least, scale, first):
    errors = {"plain": {0: least + 30, 1: least + 35}, "BN": {0: least, 1: least + 2}}
    axes = ranks_figure(errors, dict.fromkeys(errors, "red")).axes[0]
    assert axes.get_xscale() == scale
    assert first[0] <= axes.get_xlim()[0] <= first[1]
