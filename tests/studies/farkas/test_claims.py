"""The claims on made runs: each of the three verdicts, for a reason that can be read off the made numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farkas_exp.report.command import main
from farkas_exp.runs import collect
from farkas_exp.studies.farkas.claims import NOT_ENOUGH, NOT_SUPPORTED, SUPPORTED, Finding, check_claims, claims_table
from farkas_exp.studies.farkas.paper import FIGURE5, FIXUP_RATES, TABLES
from tests.made_runs import made_rows, make_run, settings
from tests.studies.farkas.test_paper import cell_settings

Errors = Callable[[str, str, str, int], float | None]
"""(table, family, normalization, seed) → test error; None for a failed run."""


def make_cifar(
    runs: Path, errors: Errors, tables: tuple[str, ...] = ("table1", "table2"), **more: Any
) -> None:  # fmt: skip
    for name in tables:
        for wanted in TABLES[name].cells:
            for seed in range(3):
                error = errors(name, wanted.row.family, wanted.row.normalization, seed)
                config = cell_settings(wanted, name, **more)
                if error is None:
                    make_run(runs, config, seed=seed, state="failed", epoch=5, test_error=90.0, reason="chance")
                else:
                    noise = 0.01 * ((7 * seed + wanted.model.count("1")) % 5)
                    make_run(runs, config, seed=seed, test_error=error + noise)


def verdicts(runs: Path) -> dict[str, Finding]:
    return {claim.key: finding for claim, finding in check_claims(collect(runs))}


def test_without_runs_nothing_is_decided(tmp_path: Path) -> None:
    make_run(tmp_path, settings("mlp"))
    found = verdicts(tmp_path)
    assert list(found) == list("abcdef")
    assert {finding.verdict for finding in found.values()} == {NOT_ENOUGH}
    assert all(finding.interval is None for finding in found.values())


def test_a_and_b_supported(tmp_path: Path) -> None:
    make_cifar(tmp_path, lambda t, f, norm, s: 10.0 if norm == "batch" else {"resnet": 15.0, "farkasnet": 12.0}[f])
    found = verdicts(tmp_path)
    a, b = found["a"], found["b"]
    assert (a.verdict, b.verdict) == (SUPPORTED, SUPPORTED)
    assert a.interval is not None
    assert a.interval.estimate == pytest.approx(3.0, abs=0.02)
    assert a.p is not None
    assert a.p < 0.001
    assert (a.pairs, b.pairs) == (21, 21)
    assert "7 of 7 cells" in a.evidence
    assert b.interval is not None
    assert b.interval.confidence == pytest.approx(0.9)


def test_a_is_not_supported_where_one_cell_contradicts(tmp_path: Path) -> None:
    def errors(table: str, family: str, norm: str, seed: int) -> float:
        return 20.0 if family == "farkasnet" and table == "table2" else 15.0 if family == "resnet" else 12.0

    make_cifar(tmp_path, errors)
    assert verdicts(tmp_path)["a"].verdict == NOT_SUPPORTED


def test_a_is_not_supported_by_three_seeds_of_noise(tmp_path: Path) -> None:
    make_cifar(tmp_path, lambda t, family, n, seed: 15.0 + (3.0 * (seed - 1) if family == "resnet" else 0.0))
    assert verdicts(tmp_path)["a"].verdict == NOT_SUPPORTED


def test_a_needs_the_lower_mean_in_every_cell_not_only_on_average(tmp_path: Path) -> None:
    for name in ("table1", "table2"):
        for wanted in TABLES[name].cells:
            even = name == "table1" and wanted.column == "34 layers"
            for seed, error in enumerate((12.0, 12.1, 12.2)):
                gain = {"resnet": (0.1 * seed - 0.15 if even else 3.0)}.get(wanted.row.family, 0.0)
                make_run(tmp_path, cell_settings(wanted, name), seed=seed, test_error=error + gain)
    found = verdicts(tmp_path)["a"]
    assert found.interval is not None
    assert found.interval.low > 0
    assert found.verdict == NOT_SUPPORTED


def test_a_is_refuted_by_one_cell_before_the_others_are_there(tmp_path: Path) -> None:
    for wanted in TABLES["table1"].cells:
        if wanted.column == "18 layers":
            for seed, error in enumerate((12.0, 12.1, 12.2)):
                worse = 3.0 if wanted.row.family == "farkasnet" else 0.01 * seed
                make_run(tmp_path, cell_settings(wanted), seed=seed, test_error=error + worse)
    assert verdicts(tmp_path)["a"].verdict == NOT_SUPPORTED


def test_a_needs_every_cell(tmp_path: Path) -> None:
    make_cifar(tmp_path, lambda t, family, n, s: 15.0 if family == "resnet" else 12.0, tables=("table1",))
    found = verdicts(tmp_path)["a"]
    assert found.verdict == NOT_ENOUGH
    assert "4 of 7 cells" in found.evidence


def test_a_failed_run_counts_as_chance_among_the_classes_of_its_data(tmp_path: Path) -> None:
    def errors(table: str, family: str, norm: str, seed: int) -> float | None:
        return None if family == "resnet" and seed == 0 else 15.0 if family == "resnet" else 12.0

    make_cifar(tmp_path, errors)
    found = verdicts(tmp_path)["a"]
    assert found.pairs == 21
    assert "failed runs, at chance: 7 ResNet, 0 FarkasNet" in found.evidence
    assert found.interval is not None
    chance = (4 * 90 + 3 * 99) / 7
    assert found.interval.estimate == pytest.approx((chance + 2 * 15) / 3 - 12, abs=0.05)
    assert found.verdict == SUPPORTED


def test_the_network_that_fails_more_often_does_not_win_by_its_survivors(tmp_path: Path) -> None:
    def errors(table: str, family: str, norm: str, seed: int) -> float | None:
        return 15.0 if family == "resnet" else 12.0 if seed == 2 else None

    make_cifar(tmp_path, errors)
    found = verdicts(tmp_path)["a"]
    assert found.verdict == NOT_SUPPORTED
    assert found.interval is not None
    assert found.interval.estimate < -40


def test_b_is_not_supported_by_a_clear_gap_and_undecided_at_the_margin(tmp_path: Path) -> None:
    make_cifar(tmp_path / "gap", lambda t, family, n, s: 10.0 if family == "resnet" else 12.0)
    make_cifar(tmp_path / "edge", lambda t, family, n, s: 10.0 + (0.5 + 0.3 * (s - 1) if family == "resnet" else 0.0))
    assert verdicts(tmp_path / "gap")["b"].verdict == NOT_SUPPORTED
    assert verdicts(tmp_path / "edge")["b"].verdict == NOT_ENOUGH


def test_the_same_runs_do_not_count_for_two_tables_and_their_setting_is_said(tmp_path: Path) -> None:
    errors: Errors = lambda t, family, n, s: 15.0 if family == "resnet" else 12.0  # noqa: E731
    make_cifar(tmp_path, errors, tables=("table1",), dataset__name="digits", epochs=3)
    found = verdicts(tmp_path)["a"]
    assert found.pairs == 12
    assert "dataset digits (paper: cifar10)" in found.setting
    assert "table2" not in found.setting, "it has none of these runs"
    table = claims_table(check_claims(collect(tmp_path)))
    assert table.rows[0][1].lines == (NOT_ENOUGH, "not in the paper's setting")


@pytest.mark.parametrize(("gain", "verdict"), [(20.0, SUPPORTED), (2.0, NOT_SUPPORTED)])
def test_c_compares_the_first_epoch(tmp_path: Path, gain: float, verdict: str) -> None:
    for index, wanted in enumerate(TABLES["table3"].cells):
        first = 80.0 - (gain if wanted.row.family == "farkasnet" else 0.0) + 0.1 * (index % 2)
        rows = made_rows(30, 25.0)
        rows[0]["test_error"] = first
        make_run(tmp_path, cell_settings(wanted, "table3"), test_error=25.0, rows=rows)
    found = verdicts(tmp_path)["c"]
    assert found.verdict == verdict
    assert found.pairs == 3
    assert found.interval is not None
    assert found.interval.estimate == pytest.approx(gain, abs=0.15)


@pytest.mark.parametrize(
    ("errors", "seeds", "verdict"),
    [((8.0, None, None), 3, SUPPORTED), ((8.0, 7.0, None), 3, NOT_SUPPORTED), ((8.0, None, None), 1, NOT_ENOUGH)],
)
def test_d_compares_fixup_at_larger_rates(
    tmp_path: Path, errors: tuple[float | None, ...], seeds: int, verdict: str
) -> None:
    for wanted, error in zip(FIXUP_RATES.cells, errors, strict=True):
        for seed in range(seeds):
            state = "finished" if error is not None else "failed"
            make_run(tmp_path, cell_settings(wanted), seed=seed, state=state, test_error=(error or 90.0) + 0.1 * seed)
    assert verdicts(tmp_path)["d"].verdict == verdict


@pytest.mark.parametrize(
    ("farkas", "plain", "verdict"),
    [("ttt", "fff", SUPPORTED), ("tt", "ff", NOT_ENOUGH), ("ttt", "ftf", NOT_SUPPORTED), ("tft", "fff", NOT_SUPPORTED)],
)
def test_e_counts_who_trains(tmp_path: Path, farkas: str, plain: str, verdict: str) -> None:
    for wanted, outcomes in zip(FIGURE5.cells, (farkas, plain), strict=True):
        for seed, trained in enumerate(outcomes):
            state = "finished" if trained == "t" else "failed"
            make_run(tmp_path, cell_settings(wanted), seed=seed, state=state, test_error=9.0)
    found = verdicts(tmp_path)["e"]
    assert found.verdict == verdict
    if verdict == SUPPORTED:
        assert found.p == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [("tft", SUPPORTED), ("fff", NOT_SUPPORTED), ("t" * 3, NOT_ENOUGH), ("t" * 12, NOT_SUPPORTED)],
)
def test_f_asks_for_failures_beside_successes(tmp_path: Path, outcomes: str, verdict: str) -> None:
    wanted = next(c for c in TABLES["table2"].cells if c.model == "resnet50" and c.row.normalization == "none")
    for seed, trained in enumerate(outcomes):
        make_run(tmp_path, cell_settings(wanted, "table2"), seed=seed, state="finished" if trained == "t" else "failed")
    assert verdicts(tmp_path)["f"].verdict == verdict


def test_the_command_prints_and_writes_the_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_cifar(tmp_path, lambda t, f, n, s: 10.0 if n == "batch" else {"resnet": 15.0, "farkasnet": 12.0}[f], epochs=2)
    assert main(["claims", f"runs_dir={tmp_path}", "format=md,csv,tex,html"]) == 0
    out = capsys.readouterr().out
    assert "(a) Without batch norm" in out
    assert SUPPORTED in out
    assert (tmp_path / "report" / "claims.csv").read_text().splitlines()[1].startswith("a,")
