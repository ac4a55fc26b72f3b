"""How the claims' verdicts are shown: as a table with a fold, as files, and as lines below a table."""

from html import unescape
from pathlib import Path

import pytest

from farkas_exp.report.command import main
from farkas_exp.report.statistics import Interval
from farkas_exp.studies.farkas.claims import CLAIMS, NOT_ENOUGH, NOT_SUPPORTED, SUPPORTED, Finding
from farkas_exp.studies.farkas.claims_table import claims_tables, verdict_lines
from farkas_exp.studies.farkas.comparison import Failures
from tests.markup import check_latex
from tests.paper_cells import as_the_paper_says, make_cifar


def test_the_command_prints_and_writes_the_verdicts_with_the_claims_without_runs_in_a_fold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_cifar(tmp_path, as_the_paper_says, epochs=2)
    assert main(["claims", f"runs_dir={tmp_path}", "format=md,csv,tex,html"]) == 0
    out = capsys.readouterr().out
    assert "(a) Without batch norm" in out
    assert SUPPORTED in out
    folded = "Claims that no runs here are about: (b), (c), (d), (e), (h), (i), (j), (k)"
    assert folded in out
    assert "FixUp needs the small" not in out
    report = tmp_path / "report"
    assert (report / "claims.csv").read_text().splitlines()[1].startswith("a,")
    for suffix in ("md", "html"):
        text = unescape((report / f"claims.{suffix}").read_text())
        shown, in_fold = text.split(f"<details><summary>{folded}</summary>")
        assert "FixUp needs the small" not in shown
        assert "FixUp needs the small" in in_fold
        assert "Not the paper's setting" in shown
        assert "Not the paper's setting" not in in_fold.split("</details>")[0], "without runs there is no setting"
        assert text.count("<details>") == text.count("</details>") == (1 if suffix == "md" else 2)  # and the runs
    latex = (report / "claims.tex").read_text()
    check_latex(latex)
    assert "FixUp needs the small" not in latex
    assert r"\begin{tabular}{p{0.3\linewidth}rrrrr}" in latex, "a claim is longer than a line"


def test_a_table_ends_on_a_line_for_each_decided_claim_and_one_for_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_cifar(tmp_path, as_the_paper_says, normalizations=("batch", "none"), epochs=2)
    assert main(["table1", f"runs_dir={tmp_path}", "format=none"]) == 0
    *_, a, b, g, others = capsys.readouterr().out.splitlines()
    statements = {claim.key: claim.statement for claim in CLAIMS}
    assert a == f"Claim (a) supported, not in the paper's setting: {statements['a']}"
    assert b == f"Claim (b) supported, not in the paper's setting: {statements['b']}"
    assert g.startswith("Claim (g) not supported, not in the paper's setting: ")
    assert others == "Claims of the paper without enough runs: 8 of 11."


def test_a_row_and_a_record_hold_the_figures_of_the_finding() -> None:
    failures = Failures(("A", "B"), 2, 5, 1, 4)
    found = Finding(SUPPORTED, "", Interval(2.0, 1.0, 4.0, 0.9), 0.01, failures, runs=9, setting="epochs 2")
    (table,) = claims_tables([(CLAIMS[0], found)])
    assert [each.lines for each in table.rows[0][1:]] == [
        (SUPPORTED, "not in the paper's setting"), ("+2.00 [+1.00, +4.00]",), ("0.01",),
        ("2/5, 1/4", f"p {failures.p:.3g}"), ("9",),
    ]  # fmt: skip
    figures = {
        "estimate": 2.0, "low": 1.0, "high": 4.0, "confidence": 0.9, "p": 0.01, "runs": 9, "failed_worse": 2,
        "runs_worse": 5, "failed_better": 1, "runs_better": 4, "p_failed": failures.p,
    }  # fmt: skip
    assert figures.items() <= table.records[0].items()


def test_lines_of_claims_in_the_papers_setting_and_of_none_decided() -> None:
    first, second = CLAIMS[:2]
    decided, open_ = Finding(NOT_SUPPORTED, "", runs=6), Finding(NOT_ENOUGH, "")
    assert verdict_lines([(first, decided)]) == (f"Claim (a) not supported: {first.statement}",)
    assert verdict_lines([(first, open_), (second, open_)]) == ("Claims of the paper without enough runs: 2 of 2.",)
