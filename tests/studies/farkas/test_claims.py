"""The claims on made runs: each verdict for a reason that can be read off the made numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from farkas_exp.runs import collect
from farkas_exp.studies.farkas.claims import CLAIMS, NOT_ENOUGH, NOT_SUPPORTED, SUPPORTED, Finding, check_claims
from farkas_exp.studies.farkas.claims_table import claims_tables
from farkas_exp.studies.farkas.paper import DEEP_MEAN, DEEP_PLAIN, DEEP_SUM, FIXUP_RATES, TABLES, PaperCell
from tests.made_runs import made_rows, make_run, settings
from tests.paper_cells import as_the_paper_says, cell_settings, make_cell, make_cifar


def verdicts(runs: Path) -> dict[str, Finding]:
    return {claim.key: finding for claim, finding in check_claims(collect(runs))}


def one_claim(runs: Path, key: str) -> Finding:
    ((_, finding),) = check_claims(collect(runs), [claim for claim in CLAIMS if claim.key == key])
    return finding


def is_cell(wanted: PaperCell, model: str, normalization: str = "none") -> bool:
    return (wanted.model, wanted.row.normalization) == (model, normalization)


def test_without_runs_nothing_is_decided_and_all_claims_are_folded(tmp_path: Path) -> None:
    make_run(tmp_path, settings("mlp"))
    found = verdicts(tmp_path)
    assert list(found) == list("abcdefghijk")
    assert {finding.verdict for finding in found.values()} == {NOT_ENOUGH}
    assert all(finding.interval is None for finding in found.values())
    (folded,) = claims_tables(check_claims(collect(tmp_path)))
    assert folded.folded
    assert len(folded.rows) == 11


def test_a_and_b_supported(tmp_path: Path) -> None:
    make_cifar(tmp_path, as_the_paper_says, normalizations=("batch", "none"))
    found = verdicts(tmp_path)
    a, b = found["a"], found["b"]
    assert (a.verdict, b.verdict) == (SUPPORTED, SUPPORTED)
    assert a.interval.estimate == pytest.approx(3.0, abs=0.1)
    assert a.p < 0.001
    assert (a.runs, b.runs) == (42, 42)
    assert "7 of 7 cells" in a.evidence
    assert b.interval.confidence == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("fails", "verdict"), [("resnet101", SUPPORTED), ("farkasnet101", NOT_SUPPORTED)], ids=["plain", "Farkas"]
)
def test_a_network_that_fails_everywhere_decides(tmp_path: Path, fails: str, verdict: str) -> None:
    make_cifar(tmp_path, lambda c, s: None if is_cell(c, fails) else as_the_paper_says(c, s))
    found = one_claim(tmp_path, "a")
    assert found.verdict == verdict
    assert found.runs == 42
    counts = (found.failures.worse, found.failures.better)
    assert counts == ((6, 0) if fails == "resnet101" else (0, 6))
    assert found.failures.p == pytest.approx(stats.boschloo_exact([[6, 0], [15, 21]]).pvalue)


def test_one_failed_run_of_the_plain_network_does_not_turn_a_round(tmp_path: Path) -> None:
    def errors(c: PaperCell, seed: int) -> float | None:
        return None if is_cell(c, "resnet50") and seed == 0 else as_the_paper_says(c, seed)

    make_cifar(tmp_path, errors)
    found = one_claim(tmp_path, "a")
    assert found.interval.low < 0, "one failed run in a cell is a spread that no interval bears"
    assert found.verdict == SUPPORTED, "but every run of the FarkasNet is better"


def test_one_failed_run_of_the_farkas_network_loses_its_cell(tmp_path: Path) -> None:
    def errors(c: PaperCell, seed: int) -> float | None:
        return None if is_cell(c, "farkasnet50") and seed == 0 else as_the_paper_says(c, seed)

    make_cifar(tmp_path, errors)
    assert one_claim(tmp_path, "a").verdict == NOT_SUPPORTED


def test_failures_alone_decide_where_every_cell_has_one_run(tmp_path: Path) -> None:
    for fails, verdict in (("resnet", SUPPORTED), ("farkasnet", NOT_SUPPORTED)):
        make_cifar(tmp_path / fails, lambda c, s: None if c.row.family == fails else 12.0, seeds=1)  # noqa: B023
        assert one_claim(tmp_path / fails, "a").verdict == verdict


def test_failed_runs_enter_at_chance_among_the_classes_of_their_table(tmp_path: Path) -> None:
    make_cifar(tmp_path, lambda c, s: None if c.row.family == "resnet" and s == 0 else as_the_paper_says(c, s))
    found = one_claim(tmp_path, "a")
    chance = (4 * 90 + 3 * 99) / 7
    assert found.interval.estimate == pytest.approx((chance + 2 * 15) / 3 - 12, abs=0.1)
    assert found.failures.text == "Failed: 7 of 21 ResNet; 0 of 21 FarkasNet (p = 0.003)"


def test_a_run_that_ends_at_chance_has_failed_whatever_its_state_says(tmp_path: Path) -> None:
    make_cifar(tmp_path, lambda c, s: 88.5 if c.row.family == "resnet" else 12.0, tables=("table1",))
    found = one_claim(tmp_path, "a")
    assert (found.failures.worse, found.failures.better) == (12, 0)


def test_the_network_that_fails_more_often_does_not_win_by_its_survivors(tmp_path: Path) -> None:
    make_cifar(tmp_path, lambda c, s: 15.0 if c.row.family == "resnet" else 12.0 if s == 2 else None)
    found = one_claim(tmp_path, "a")
    assert found.verdict == NOT_SUPPORTED
    assert found.interval.estimate < -40


def test_a_is_not_supported_where_one_table_contradicts(tmp_path: Path) -> None:
    def errors(c: PaperCell, seed: int) -> float | None:
        return 20.0 if c.row.family == "farkasnet" and c in TABLES["table2"].cells else as_the_paper_says(c, seed)

    make_cifar(tmp_path, errors)
    assert one_claim(tmp_path, "a").verdict == NOT_SUPPORTED


def test_a_is_not_supported_by_three_seeds_of_noise(tmp_path: Path) -> None:
    make_cifar(tmp_path, lambda c, seed: 15.0 + (3.0 * (seed - 1) if c.row.family == "resnet" else 0.0))
    assert one_claim(tmp_path, "a").verdict == NOT_SUPPORTED


def test_a_needs_the_lower_mean_in_every_cell_not_only_on_average(tmp_path: Path) -> None:
    make_cifar(tmp_path, lambda c, s: 11.9 if is_cell(c, "resnet34") else as_the_paper_says(c, s))
    found = one_claim(tmp_path, "a")
    assert found.interval.low > 0
    assert found.verdict == NOT_SUPPORTED


def test_a_is_refuted_by_one_cell_before_the_others_are_there(tmp_path: Path) -> None:
    for wanted in TABLES["table1"].pair("18 layers", "none"):
        for seed in range(3):
            make_cell(tmp_path, wanted, "table1", seed, {"resnet": 12.0, "farkasnet": 15.0}[wanted.row.family])
    assert one_claim(tmp_path, "a").verdict == NOT_SUPPORTED


def test_a_needs_every_cell(tmp_path: Path) -> None:
    make_cifar(tmp_path, as_the_paper_says, tables=("table1",))
    found = one_claim(tmp_path, "a")
    assert found.verdict == NOT_ENOUGH
    assert "4 of 4 cells" in found.evidence


@pytest.mark.parametrize(
    ("gaps", "within"), [({"resnet34": 5.0, "resnet50": -5.0}, 3), ({"resnet34": 5.0}, 5), ({"resnet50": -5.0}, 5)]
)
def test_b_looks_at_each_cell_not_at_the_average_in_which_gaps_cancel(
    tmp_path: Path, gaps: Mapping[str, float], within: int
) -> None:
    make_cifar(tmp_path, lambda c, s: 10.0 + gaps.get(c.model, 0.0), normalizations=("batch",))
    found = one_claim(tmp_path, "b")
    assert found.verdict == NOT_SUPPORTED
    assert f"within ±0.5 in {within} of 7 cells" in found.evidence
    assert abs(found.interval.estimate) == pytest.approx(5.0, abs=0.1)


def test_b_is_undecided_by_one_cell_at_the_margin(tmp_path: Path) -> None:
    def errors(c: PaperCell, seed: int) -> float:
        return 10.0 + (0.5 + 0.3 * (seed - 1) if c.model == "resnet34" else 0.0)

    make_cifar(tmp_path, errors, normalizations=("batch",))
    found = one_claim(tmp_path, "b")
    assert found.verdict == NOT_ENOUGH
    assert "largest in Table 1, 34 layers; shown to lie within ±0.5 in 5 of 7 cells" in found.evidence


@pytest.mark.parametrize(("gap", "verdict", "within"), [(0.0, SUPPORTED, 7), (1.1, NOT_ENOUGH, 5)])
def test_b_asks_for_equality_at_ninety_percent_and_for_a_gap_jointly(
    tmp_path: Path, gap: float, verdict: str, within: int
) -> None:
    """Three runs a network with a standard deviation of 0.25: 90 % reach 0.44, 95 % 0.57, 90 % in 7 cells 0.8."""
    for name in ("table1", "table2"):
        for wanted in TABLES[name].cells:
            step = 0.25 if wanted.column == "34 layers" else 0.01
            error = 10.0 + (gap if wanted.model == "resnet34" else 0.0)
            for seed in range(3 if wanted.row.normalization == "batch" else 0):
                make_run(tmp_path, cell_settings(wanted, name), seed=seed, test_error=error + step * seed)
    found = one_claim(tmp_path, "b")
    assert found.verdict == verdict
    assert f"within ±0.5 in {within} of 7 cells" in found.evidence


def test_b_fails_with_a_network_that_fails_more_often(tmp_path: Path) -> None:
    def errors(c: PaperCell, seed: int) -> float | None:
        return None if c.row.family == "resnet" and seed == 0 else 10.0

    make_cifar(tmp_path, errors, normalizations=("batch",))
    assert one_claim(tmp_path, "b").verdict == NOT_SUPPORTED


@pytest.mark.parametrize(("seeds", "verdict"), [(3, NOT_SUPPORTED), (2, NOT_ENOUGH)])
def test_b_is_not_shown_by_networks_that_never_train(tmp_path: Path, seeds: int, verdict: str) -> None:
    make_cifar(tmp_path, lambda c, s: None, normalizations=("batch",), seeds=seeds)
    found = one_claim(tmp_path, "b")
    assert found.verdict == verdict
    assert "within ±0.5 in 0 of 7 cells" in found.evidence


def test_equal_errors_of_a_few_runs_are_no_certainty(tmp_path: Path) -> None:
    """On 360 test images 0.56 points are two images: neither shown to be less than half a point nor to be more."""
    for name in ("table1", "table2"):
        for wanted in TABLES[name].cells:
            error = 0.83 if wanted.row.family == "resnet" else 0.28
            for seed in range(3 if wanted.row.normalization == "batch" else 0):
                make_run(tmp_path, cell_settings(wanted, name), seed=seed, test_error=error)
    found = one_claim(tmp_path, "b")
    assert found.verdict == NOT_ENOUGH
    reach = stats.t.ppf(0.95, 4) * 0.55 * (2 / 3) ** 0.5
    assert (found.interval.low, found.interval.high) == pytest.approx((0.55 - reach, 0.55 + reach))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("a", "+0.45 to +11.12 points, above 0 in 7 of 7 cells"),
        ("b", "within ±0.5 in 6; largest in Table 2, 34 layers; average +0.04"),
        ("g", "+9.87 in Table 1, 101 layers; +11.12 in Table 2, 50 layers"),
        ("h", "7.49 − 7.12 = +0.37"),
        ("j", "25.64 − 23.70 = +1.94"),
    ],
)
def test_what_the_papers_own_cells_would_give(key: str, said: str) -> None:
    assert said in next(claim.paper for claim in CLAIMS if claim.key == key)


def test_the_same_runs_do_not_count_for_two_tables_and_their_setting_is_said(tmp_path: Path) -> None:
    make_cifar(tmp_path, as_the_paper_says, tables=("table1",), dataset__name="digits", epochs=3)
    found = one_claim(tmp_path, "a")
    assert found.runs == 24
    assert "dataset digits (paper: cifar10)" in found.setting
    assert "table2" not in found.setting, "it has none of these runs"
    table = claims_tables(check_claims(collect(tmp_path)))[0]
    assert table.rows[0][1].lines == (NOT_ENOUGH, "not in the paper's setting")


@pytest.mark.parametrize("state", ["finished", "interrupted"])
@pytest.mark.parametrize(("gain", "verdict"), [(11.0, SUPPORTED), (9.0, NOT_SUPPORTED)])
def test_c_compares_the_first_epoch_also_of_runs_under_way(
    tmp_path: Path, gain: float, verdict: str, state: str
) -> None:
    for index, wanted in enumerate(TABLES["table3"].cells):
        rows = made_rows(30, 25.0)
        rows[0]["test_error"] = 80.0 - (gain if wanted.row.family == "farkasnet" else 0.0) + 0.1 * (index % 2)
        make_run(tmp_path, cell_settings(wanted, "table3"), state=state, epoch=5, test_error=25.0, rows=rows)
    found = one_claim(tmp_path, "c")
    assert found.verdict == verdict
    assert found.runs == 6
    assert found.interval.estimate == pytest.approx(gain, abs=0.15)


@pytest.mark.parametrize(
    ("small", "medium", "large", "verdict"),
    [
        ((8.0, 8.1, 8.2), (None,) * 3, (None,) * 3, SUPPORTED),
        ((8.0, 8.1, 8.2), (10.0, 10.1, 10.2), (None,) * 3, SUPPORTED),
        ((8.0, 8.1, 8.2), (8.2, 8.3, 8.4), (None,) * 3, NOT_SUPPORTED),
        ((8.0, 8.1, 8.2), (7.0, 7.1, 7.2), (None,) * 3, NOT_SUPPORTED),
        ((8.0, 8.1, 8.2), (None, None, 8.1), (None,) * 3, NOT_ENOUGH),
        ((8.0, 8.1, 8.2), (8.1, 9.0, 9.9), (None,) * 3, NOT_ENOUGH),
        ((8.0, 8.1, 8.2), (9.0, 9.2, 9.4), (None,) * 3, NOT_ENOUGH),
        ((8.0, 8.1), (None,) * 2, (None,) * 2, NOT_ENOUGH),
        ((8.0, 8.1, 8.2), (), (None,) * 3, NOT_ENOUGH),
    ],
    ids=[
        "fail",
        "lose by 2",
        "lose by 0.2",
        "win",
        "fail sometimes",
        "about 1",
        "certainly, by about 1",
        "two runs",
        "no medium",
    ],
)
def test_d_asks_that_the_larger_rates_fail_or_lose_by_a_margin(
    tmp_path: Path, small: Any, medium: Any, large: Any, verdict: str
) -> None:
    for wanted, errors in zip(FIXUP_RATES.cells, (small, medium, large), strict=True):
        for seed, error in enumerate(errors):
            state = "finished" if error is not None else "failed"
            make_run(tmp_path, cell_settings(wanted), seed=seed, state=state, test_error=error or 90.0)
    found = one_claim(tmp_path, "d")
    assert found.verdict == verdict
    if medium and medium[0] == 10.0:
        assert found.interval.estimate == pytest.approx(2.0), "of the better of the larger rates"


TRAINING = {"t": ("finished", 9.0), "f": ("failed", 90.0), "c": ("finished", 89.5)}
"""Trained, failed, and ended at chance without being stopped."""


@pytest.mark.parametrize(("key", "other"), [("e", DEEP_PLAIN), ("k", DEEP_SUM)])
@pytest.mark.parametrize(
    ("wanted", "others", "verdict"),
    [
        ("ttt", "fff", SUPPORTED), ("ttt", "ccc", SUPPORTED), ("tt", "ff", NOT_ENOUGH), ("ttt", "ftf", NOT_SUPPORTED),
        ("tft", "fff", NOT_SUPPORTED), ("ccc", "fff", NOT_SUPPORTED), ("ttt", "", NOT_ENOUGH),
        ("ttttttt", "fffffft", NOT_SUPPORTED),
    ],
)  # fmt: skip
def test_e_and_k_count_who_trains(
    tmp_path: Path, key: str, other: PaperCell, wanted: str, others: str, verdict: str
) -> None:
    for arm, outcomes in ((DEEP_MEAN, wanted), (other, others)):
        for seed, outcome in enumerate(outcomes):
            state, error = TRAINING[outcome]
            make_run(tmp_path, cell_settings(arm), seed=seed, state=state, test_error=error)
    found = one_claim(tmp_path, key)
    assert found.verdict == verdict
    if verdict == SUPPORTED:
        assert found.failures.p == pytest.approx(1 / 32)
        assert found.interval.estimate == 1.0, "the share that trained"


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [("tft", SUPPORTED), ("tct", SUPPORTED), ("fff", NOT_SUPPORTED), ("t" * 9, NOT_ENOUGH), ("t" * 10, NOT_SUPPORTED)],
)
def test_f_asks_for_failures_beside_successes(tmp_path: Path, outcomes: str, verdict: str) -> None:
    wanted = TABLES["table2"].pair("50 layers", "none")[0]
    for seed, outcome in enumerate(outcomes):
        state, error = TRAINING[outcome]
        make_run(tmp_path, cell_settings(wanted, "table2"), seed=seed, state=state, test_error=error and 1.1 * error)
    found = one_claim(tmp_path, "f")
    assert found.verdict == verdict
    if outcomes == "tct":
        assert found.evidence == "ResNet50, no BN: 2 of 3 trained (9.90 %)", "without what ended at chance"
    if outcomes == "tft":
        first, *_ = claims_tables(check_claims(collect(tmp_path)))
        assert first.rows[0][2].lines == ("33% [1%, 91%]",), "a share, not points"


@pytest.mark.parametrize(
    ("gains", "tables", "verdict"),
    [
        ({"resnet101": 10.0}, ("table1",), SUPPORTED),
        ({}, ("table1", "table2"), NOT_SUPPORTED),
        ({}, ("table1",), NOT_ENOUGH),
    ],
    ids=["one cell of 10", "3 in all", "3 in four"],
)
def test_g_asks_for_one_cell_with_a_large_gain(
    tmp_path: Path, gains: Mapping[str, float], tables: tuple[str, ...], verdict: str
) -> None:
    make_cifar(
        tmp_path, lambda c, s: 12.0 + gains.get(c.model, 3.0 if c.row.family == "resnet" else 0.0), tables=tables
    )
    found = one_claim(tmp_path, "g")
    assert found.verdict == verdict
    assert found.interval.estimate == pytest.approx(max([3.0, *gains.values()]), abs=0.1)


PAIRS = {
    "h": ("table4", "fixup34", "farkasnet34"),
    "i": ("table4", "farkasnet34", "fixup34"),
    "j": ("table3", "resnet50_imagenet", "farkasnet50_imagenet"),
}
"""The claims that one network is better than another: the table, the worse and the better one."""


@pytest.mark.parametrize("key", PAIRS)
@pytest.mark.parametrize(
    ("worse", "better", "verdict"),
    [
        ((9.0, 9.1, 9.2), (7.0, 7.1, 7.2), SUPPORTED),
        ((7.0, 7.1, 7.2), (9.0, 9.1, 9.2), NOT_SUPPORTED),
        ((9.0, 9.1, 9.2), (9.0, 9.1, 9.2), NOT_SUPPORTED),
        ((9.0,), (7.0,), NOT_ENOUGH),
        ((9.0, 9.1, 9.2), (None,) * 3, NOT_SUPPORTED),
        ((None,) * 3, (7.0, 7.1, 7.2), SUPPORTED),
    ],
    ids=["better", "worse", "equal", "one run", "fails", "the other fails"],
)
def test_h_i_and_j_compare_two_networks(tmp_path: Path, key: str, worse: Any, better: Any, verdict: str) -> None:
    table, *models = PAIRS[key]
    for model, errors in zip(models, (worse, better), strict=True):
        wanted = next(c for c in TABLES[table].cells if c.model == model)
        for seed, error in enumerate(errors):
            made = cell_settings(wanted, table, **({} if table == "table3" else {"epochs": 10}))
            rows = [{"epoch": e + 1, "test_error": (error or 90.0) if e < 3 or key != "i" else 5.0} for e in range(10)]
            state = "finished" if error is not None else "failed"
            make_run(tmp_path, made, seed=seed, state=state, test_error=error or 90.0, rows=rows)
    assert one_claim(tmp_path, key).verdict == verdict


def test_i_looks_at_the_epochs_before_the_rate_falls_not_at_the_end(tmp_path: Path) -> None:
    for wanted in TABLES["table4"].cells[2:]:
        early, last = (20.0, 9.0) if wanted.row.family == "fixup" else (40.0, 7.0)
        for seed in range(3):
            rows = [{"epoch": e + 1, "test_error": early + 0.1 * seed if e < 3 else last} for e in range(10)]
            make_run(tmp_path, cell_settings(wanted, "table4", epochs=10), seed=seed, test_error=last, rows=rows)
    found = verdicts(tmp_path)
    assert (found["h"].verdict, found["i"].verdict) == (SUPPORTED, SUPPORTED)
    assert found["i"].interval.estimate == pytest.approx(20.0)


def test_every_claim_says_what_it_is_where_it_stands_and_when_it_holds() -> None:
    assert [claim.key for claim in CLAIMS] == list("abcdefghijk")
    assert all(" " in text for claim in CLAIMS for text in (claim.statement, claim.source, claim.rule))
