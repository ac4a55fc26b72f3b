"""The claims of the paper's text, each tested on our runs.

A claim is tested on differences paired by depth and seed where that can be done, with an interval and, where it makes
sense, a seeded randomization test. The verdict is one of three: supported, not supported, not enough runs. What
counts as which is said in each claim's `rule`; a failed run counts as chance among the classes of its data.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from farkas_exp.report.arms import Arm
from farkas_exp.report.statistics import (
    Interval,
    binomial_interval,
    fisher_exact_greater,
    paired_differences,
    permutation_test,
    sign_flip_test,
    stratified_t_interval,
    t_interval,
)
from farkas_exp.report.tables import Table, cell
from farkas_exp.runs import RunRecord
from farkas_exp.runs.query import chance_error, number, ranked_error
from farkas_exp.studies.farkas import paper
from farkas_exp.studies.farkas.filling import Filled, describe_setting, fill
from farkas_exp.studies.farkas.paper import TABLES, PaperCell, PaperTable
from farkas_exp.studies.farkas.paper_table import cell_arm, signed

SUPPORTED, NOT_SUPPORTED, NOT_ENOUGH = "supported", "not supported", "not enough runs"
LEVEL = 0.05 + 1e-9  # a p value of exactly 1/20, as of 3 against 3 runs, may be rounded up
HALF_POINT = 0.5
FIRST_EPOCH_GAIN = 10.0
"""Claim (c) says "roughly 20" points; at least half of that is asked for."""
PAIRS_WANTED = 3


@dataclass(frozen=True)
class Finding:
    """What our runs say about one claim: the verdict, the figures behind it, and from which setting they are."""

    verdict: str
    evidence: str
    interval: Interval | None = None
    p: float | None = None
    pairs: int = 0
    setting: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim in the paper's sense, where it stands, the rule of the verdict, and its test."""

    key: str
    statement: str
    source: str
    rule: str
    test: Callable[[Sequence[RunRecord], int], Finding]


def check_claims(records: Sequence[RunRecord], seed: int = 0) -> list[tuple[Claim, Finding]]:
    """Test every claim on the runs; the same runs and seed give the same findings."""
    return [(claim, claim.test(records, seed)) for claim in CLAIMS]


@dataclass(frozen=True)
class Pairing:
    """The paired differences in test error of one depth, by seed, and the failed runs of either side."""

    table: str
    differences: Mapping[int, float]
    failed: tuple[int, int]


def _pairings(
    filled: Filled, normalization: str, score: Callable[[Arm], Mapping[int, float]], used: set[str]
) -> list[Pairing]:
    """ResNet − FarkasNet for each depth of a table. Runs that are in `used` already do not count again."""
    table, found = filled.table, []
    for column in table.columns:
        arms = []
        for family in ("resnet", "farkasnet"):
            row = next(r for r in table.rows if r.family == family and r.normalization == normalization)
            wanted = table.cell(row, column)
            assert wanted is not None
            arms.append(cell_arm(wanted, filled))
        paths = {str(run.path) for arm in arms for run in arm.runs}
        if paths & used:
            continue
        used |= paths
        plain, farkas = arms
        differences = paired_differences(score(plain), score(farkas))
        found.append(Pairing(table.name, differences, (len(plain.failed), len(farkas.failed))))
    return found


def _first_errors(arm: Arm) -> dict[int, float]:
    """The test error after the first epoch, of every run that has one; chance for one that failed before its end."""
    found = {}
    for run in arm.runs:
        value = next((number(row.get("test_error")) for row in run.metrics() if row.get("epoch") == 1), np.nan)
        if np.isfinite(value):
            found[run.seed] = value
        elif run in arm.failed:
            found[run.seed] = chance_error(run)
    return found


def _cifar_pairings(records: Sequence[RunRecord], normalization: str) -> tuple[list[Pairing], str]:
    used: set[str] = set()
    filled = [fill(TABLES[name], records) for name in ("table1", "table2")]
    pairings = [p for each in filled for p in _pairings(each, normalization, _scores, used)]
    paired = {p.table for p in pairings if p.differences}
    return pairings, _settings([each for each in filled if each.table.name in paired])


def _farkas_wins_without_norm(records: Sequence[RunRecord], seed: int) -> Finding:
    pairings, where = _cifar_pairings(records, "none")
    strata = [list(p.differences.values()) for p in pairings if p.differences]
    if not strata:
        return Finding(NOT_ENOUGH, f"no pair yet{_failures(pairings)}", setting=where)
    everything = [value for stratum in strata for value in stratum]
    p = sign_flip_test(everything, alternative="greater", seed=seed)
    interval = _stratified(strata)
    means = [float(np.mean(stratum)) for stratum in strata]
    losing = [s for s in strata if len(s) > 1 and t_interval(s).high < 0]
    evidence = (
        f"ResNet − FarkasNet: {_span(means)} points over {len(strata)} of {_cifar_cells()} cells; "
        f"FarkasNet is better in {sum(mean > 0 for mean in means)}{_failures(pairings)}"
    )
    complete = len(strata) == _cifar_cells()
    if losing:
        verdict = NOT_SUPPORTED
    elif complete and interval is not None and min(means) > 0 and interval.low > 0 and p <= LEVEL:
        verdict = SUPPORTED
    elif complete and min(map(len, strata)) >= PAIRS_WANTED:
        verdict = NOT_SUPPORTED
    else:
        verdict = NOT_ENOUGH
    return Finding(verdict, evidence, interval, p, len(everything), where)


def _equal_with_norm(records: Sequence[RunRecord], seed: int) -> Finding:
    pairings, where = _cifar_pairings(records, "batch")
    strata = [list(p.differences.values()) for p in pairings if p.differences]
    interval = _stratified(strata, confidence=1 - 2 * LEVEL)  # two one-sided tests (Schuirmann 1987)
    if interval is None:
        return Finding(NOT_ENOUGH, f"fewer than two pairs{_failures(pairings)}", setting=where)
    means = [float(np.mean(stratum)) for stratum in strata]
    evidence = f"ResNet − FarkasNet: {_span(means)} points over {len(strata)} of {_cifar_cells()} cells"
    if interval.low > HALF_POINT or interval.high < -HALF_POINT:
        verdict = NOT_SUPPORTED
    elif len(strata) == _cifar_cells() and interval.low > -HALF_POINT and interval.high < HALF_POINT:
        verdict = SUPPORTED
    else:
        verdict = NOT_ENOUGH
    pairs = sum(map(len, strata))
    return Finding(verdict, evidence + _failures(pairings), interval, None, pairs, where)


def _first_epoch(records: Sequence[RunRecord], seed: int) -> Finding:
    filled = fill(TABLES["table3"], records)
    pairings = _pairings(filled, "batch", _first_errors, set())
    values = [value for p in pairings for value in p.differences.values()]
    where = _settings([filled])
    if len(values) < 2:
        return Finding(NOT_ENOUGH, f"ImageNet runs in pairs: {len(values)}", pairs=len(values), setting=where)
    interval = t_interval(values)
    p = sign_flip_test(values, alternative="greater", seed=seed)
    evidence = f"ResNet − FarkasNet after one epoch: {_span(values)} points of top-1 error"
    verdict = NOT_ENOUGH
    if interval.low >= FIRST_EPOCH_GAIN:
        verdict = SUPPORTED
    elif interval.high < FIRST_EPOCH_GAIN:
        verdict = NOT_SUPPORTED
    return Finding(verdict, evidence, interval, p, len(values), where)


def _fixup_needs_small_rate(records: Sequence[RunRecord], seed: int) -> Finding:
    filled = fill(paper.FIXUP_RATES, records)
    small, *larger = [cell_arm(wanted, filled) for wanted in paper.FIXUP_RATES.cells]
    scores = {arm.label: _scores(arm) for arm in (small, *larger)}
    text = "; ".join(f"{arm.label}: {_trained(arm)}" for arm in (small, *larger))
    normalized = fill(paper.FIXUP_RATES_NORMALIZED, records)
    for wanted in paper.FIXUP_RATES_NORMALIZED.cells:
        if normalized.runs.get(wanted):
            text += f"; normalized inputs, {wanted.label}: {_trained(cell_arm(wanted, normalized))}"
    base, where = scores[small.label], _settings([filled])
    gaps = {arm.label: paired_differences(scores[arm.label], base) for arm in larger}
    if any(len(gap) < 2 for gap in gaps.values()):
        return Finding(NOT_ENOUGH, text, setting=where)
    closest = min(gaps, key=lambda label: float(np.mean(list(gaps[label].values()))))
    values = list(gaps[closest].values())
    interval = t_interval(values)
    p = permutation_test(list(scores[closest].values()), list(base.values()), alternative="greater", seed=seed)
    verdict = SUPPORTED if interval.low > 0 else NOT_SUPPORTED if len(values) >= PAIRS_WANTED else NOT_ENOUGH
    return Finding(verdict, text, interval, p, len(values), where)


def _deep_with_large_rate(records: Sequence[RunRecord], seed: int) -> Finding:
    filled = fill(paper.FIGURE5, records)
    farkas, plain = [cell_arm(wanted, filled) for wanted in paper.FIGURE5.cells]
    n_farkas, n_plain = (len(arm.finished) + len(arm.failed) for arm in (farkas, plain))
    text, where = f"FarkasNet101: {_trained(farkas)}; ResNet101: {_trained(plain)}", _settings([filled])
    if not n_farkas or not n_plain:
        return Finding(NOT_ENOUGH, text, setting=where)
    p = fisher_exact_greater(len(farkas.finished), n_farkas, len(plain.finished), n_plain)
    verdict = NOT_SUPPORTED if farkas.failed or plain.finished else SUPPORTED if p <= LEVEL else NOT_ENOUGH
    interval = binomial_interval(len(farkas.finished), n_farkas)
    return Finding(verdict, text, interval, p, min(n_farkas, n_plain), where)


def _plain_fails_sometimes(records: Sequence[RunRecord], seed: int) -> Finding:
    table = TABLES["table2"]
    filled = fill(table, records)
    arm = cell_arm(_cell_of(table, "resnet50", "none"), filled)
    n, text, where = len(arm.finished) + len(arm.failed), f"ResNet50, no BN: {_trained(arm)}", _settings([filled])
    if not n:
        return Finding(NOT_ENOUGH, text)
    interval = binomial_interval(len(arm.failed), n)
    if arm.failed and arm.finished:
        verdict = SUPPORTED
    elif n >= PAIRS_WANTED and (arm.failed or interval.high < 1 / 3):
        verdict = NOT_SUPPORTED
    else:
        verdict = NOT_ENOUGH
    return Finding(verdict, text, interval, None, n, where)


def _cell_of(table: PaperTable, model: str, normalization: str) -> PaperCell:
    return next(c for c in table.cells if c.model == model and c.row.normalization == normalization)


def _scores(arm: Arm) -> dict[int, float]:
    """The last test error by seed; chance for a run that failed to train."""
    return {run.seed: ranked_error(run) for run in (*arm.finished, *arm.failed)}


def _trained(arm: Arm) -> str:
    total = len(arm.finished) + len(arm.failed)
    if not total:
        return "no runs"
    summary = arm.summary("test_error")
    return f"{len(arm.finished)} of {total} trained" + (f" ({summary.mean:.2f} %)" if summary else "")


def _stratified(strata: Sequence[Sequence[float]], confidence: float = 0.95) -> Interval | None:
    return stratified_t_interval(strata, confidence) if any(len(s) > 1 for s in strata) else None


def _failures(pairings: Sequence[Pairing]) -> str:
    plain, farkas = (sum(p.failed[side] for p in pairings) for side in (0, 1))
    return f"; failed runs, at chance: {plain} ResNet, {farkas} FarkasNet" if plain or farkas else ""


def _span(values: Sequence[float]) -> str:
    return signed(values[0]) if len(values) == 1 else f"{signed(min(values))} to {signed(max(values))}"


def _cifar_cells() -> int:
    return sum(len(TABLES[name].columns) for name in ("table1", "table2"))


def _settings(filled: Sequence[Filled]) -> str:
    """Where the settings are not the paper's, table by table."""
    return "; ".join(f"{f.table.name}: {describe_setting(f.deviations, f.table)}" for f in filled if f.deviations)


CLAIMS = (
    Claim(
        "a",
        "Without batch norm a FarkasNet has a lower test error than the ResNet in every cell of Tables 1 and 2.",
        "Section 4, Tables 1 and 2",
        "Supported: lower mean in all 7 cells, and over the cells the 95 % interval is above 0 with p ≤ 0.05 (sign "
        "flips). Not supported: the ResNet is better in a cell (interval below 0), or every cell has 3 pairs and the "
        "rest does not hold.",
        _farkas_wins_without_norm,
    ),
    Claim(
        "b",
        "With batch norm the two are within about half a point.",
        "Section 4, Tables 1 and 2",
        "Supported: over all 7 cells the 90 % interval lies within ±0.5 (two one-sided tests at 5 %). Not supported: "
        "it lies outside.",
        _equal_with_norm,
    ),
    Claim(
        "c",
        "After the first ImageNet epoch the top-1 error of a FarkasNet is about 20 points lower.",
        "Section 4, Figure 2",
        "Supported: the 95 % interval over depths and seeds is above 10 points. Not supported: it is below.",
        _first_epoch,
    ),
    Claim(
        "d",
        "Without input normalization FixUp needs the small learning rate.",
        "Section 4, best practice",
        "Supported: at the better of the larger rates the error, failed runs at chance, is higher (95 % interval above "
        "0, paired by seed). Not supported: it is not, with 3 pairs.",
        _fixup_needs_small_rate,
    ),
    Claim(
        "e",
        "FarkasNet101 (mean, no BN, default init) trains at the large learning rate, where ResNet101 fails.",
        "Section 4, Figure 5",
        "Supported: every FarkasNet trains and every ResNet fails, p ≤ 0.05 (Fisher's exact test). Not supported: a "
        "FarkasNet fails or a ResNet trains. Interval: share of FarkasNets that train.",
        _deep_with_large_rate,
    ),
    Claim(
        "f",
        "ResNet50 without batch norm sometimes fails to train on CIFAR-100.",
        "Table 2, footnote 1",
        "Supported: some fail and some train. Not supported: all fail, or none with an upper bound below 1/3. "
        "Interval: share of failures.",
        _plain_fails_sometimes,
    ),
)


def claims_table(findings: Sequence[tuple[Claim, Finding]]) -> Table:
    """The claims, the verdicts and the figures behind them."""
    rows, notes, records = [], [], []
    for claim, finding in findings:
        interval = finding.interval
        span = f"{signed(interval.estimate)} [{signed(interval.low)}, {signed(interval.high)}]" if interval else "–"
        p = "–" if finding.p is None else f"{finding.p:.3g}"
        lines = (finding.verdict, "not in the paper's setting") if finding.setting else (finding.verdict,)
        verdict = cell(*lines, strong=finding.verdict != NOT_ENOUGH)
        rows.append((cell(f"({claim.key}) {claim.statement}"), verdict, cell(span), cell(p), cell(str(finding.pairs))))
        where = f" Not the paper's setting: {finding.setting}." if finding.setting else ""
        notes.append(f"({claim.key}) {claim.source}. {finding.evidence}.{where} {claim.rule}")
        records.append(
            {
                "claim": claim.key, "statement": claim.statement, "verdict": finding.verdict,
                "estimate": interval.estimate if interval else None, "low": interval.low if interval else None,
                "high": interval.high if interval else None, "confidence": interval.confidence if interval else None,
                "p": finding.p, "pairs": finding.pairs, "evidence": finding.evidence, "setting": finding.setting,
            }
        )  # fmt: skip
    columns = ("claim", "verdict", "estimate [interval]", "p", "pairs")
    return Table("The paper's claims on these runs", columns, tuple(rows), tuple(notes), tuple(records), "claims")
