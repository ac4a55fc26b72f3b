"""The claims as tables: those that there are runs for, and a closed one of the others."""

from collections.abc import Sequence
from dataclasses import replace

from farkas_exp.report.tables import Cell, Table, cell
from farkas_exp.studies.farkas.claims import NOT_ENOUGH, Claim, Finding
from farkas_exp.studies.farkas.paper_table import signed


def claims_tables(findings: Sequence[tuple[Claim, Finding]]) -> tuple[Table, ...]:
    """The claims that have runs, with verdicts and the figures behind them, and a folded table of those without.

    The records of the first table are those of all claims.
    """
    shown = [each for each in findings if each[1].runs]
    others = [each for each in findings if not each[1].runs]
    keys = ", ".join(f"({claim.key})" for claim, _ in others)
    tables = [_table(shown, "The paper's claims on these runs", "claims")] if shown else []
    tables += [_table(others, f"Claims that no runs here are about: {keys}", "claims_open", True)] if others else []
    records = tuple(_record(*each) for each in findings)
    return (replace(tables[0], records=records, name="claims"), *tables[1:])


def verdict_lines(findings: Sequence[tuple[Claim, Finding]]) -> tuple[str, ...]:
    """A line for each claim that is decided, and one for the number of the others."""
    decided = [each for each in findings if each[1].verdict != NOT_ENOUGH]
    lines = []
    for claim, finding in decided:
        where = ", not in the paper's setting" if finding.setting else ""
        lines.append(f"Claim ({claim.key}) {finding.verdict}{where}: {claim.statement}")
    left = len(findings) - len(decided)
    return (*lines, *[f"Claims of the paper without enough runs: {left} of {len(findings)}."] * bool(left))


_LEGEND = (
    "Intervals: Welch and Satterthwaite's, of 95 % where nothing else is said (in a cell, 93 to 99 of 100 hold, by the"
    " number of runs: docs/experiments.md), or exact ones of a share."
    " p: permutations within the cells, failed runs at chance. Failed: runs of either network that did not train, with"
    " the p value of both failing as often (Boschloo's exact test)."
)


def _table(findings: Sequence[tuple[Claim, Finding]], title: str, name: str, folded: bool = False) -> Table:
    rows = tuple(_row(*each) for each in findings)
    notes = (*((_LEGEND,) if not folded else ()), *(_note(*each) for each in findings))
    columns = ("claim", "verdict", "estimate [interval]", "p", "failed", "runs")
    if folded:
        columns, rows = columns[:1], tuple(row[:1] for row in rows)
    return Table(title, columns, rows, notes, name=name, folded=folded)


def _row(claim: Claim, finding: Finding) -> tuple[Cell, ...]:
    interval, failures = finding.interval, finding.failures
    number = "{:.0%}".format if finding.share else signed
    span = f"{number(interval.estimate)} [{number(interval.low)}, {number(interval.high)}]" if interval else "–"
    p = "–" if finding.p is None else f"{finding.p:.3g}"
    failed = ("–",)
    if failures:
        failed = (f"{failures.worse}/{failures.worse_runs}, {failures.better}/{failures.better_runs}",)
        failed += (f"p {failures.p:.3g}",) * bool(failures.worse or failures.better)
    lines = (finding.verdict, "not in the paper's setting") if finding.setting else (finding.verdict,)
    verdict = cell(*lines, strong=finding.verdict != NOT_ENOUGH)
    statement = cell(f"({claim.key}) {claim.statement}")
    return (statement, verdict, cell(span), cell(p), cell(*failed), cell(str(finding.runs)))


def _note(claim: Claim, finding: Finding) -> str:
    parts = [f"({claim.key}) {claim.source}."]
    parts += [f"{finding.evidence}."] if finding.runs else []
    parts += [f"{finding.failures.text}."] if finding.failures and finding.failures.text else []
    parts += [f"Not the paper's setting: {finding.setting}."] if finding.runs and finding.setting else []
    parts += [claim.rule]
    parts += [f"The paper's own: {claim.paper}."] if claim.paper else []
    return " ".join(parts)


def _record(claim: Claim, finding: Finding) -> dict[str, object]:
    interval, failures = finding.interval, finding.failures
    return {
        "claim": claim.key, "statement": claim.statement, "verdict": finding.verdict,
        "estimate": interval and interval.estimate, "low": interval and interval.low,
        "high": interval and interval.high, "confidence": interval and interval.confidence, "p": finding.p,
        "runs": finding.runs, "failed_worse": failures and failures.worse,
        "runs_worse": failures and failures.worse_runs, "failed_better": failures and failures.better,
        "runs_better": failures and failures.better_runs, "p_failed": failures and failures.p,
        "evidence": finding.evidence, "setting": finding.setting, "paper": claim.paper,
    }  # fmt: skip
