"""The claims of the paper's text, each tested on our runs.

The verdict is one of three: supported, not supported, not enough runs. Each claim's `rule` says what counts as which,
and its `paper` what the paper's own numbers give. Failed runs count in the errors as chance, and their number is tested
separately (`comparison`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from farkas_exp.report.arms import Arm
from farkas_exp.report.statistics import Interval, binomial_interval
from farkas_exp.runs import RunRecord
from farkas_exp.runs.query import ranked_error
from farkas_exp.studies.farkas import paper
from farkas_exp.studies.farkas.comparison import (
    LEVEL,
    Comparison,
    Contrast,
    Failures,
    Score,
    contrast,
    early_error,
    failures,
    first_error,
    in_pairs,
    significant,
    trains,
    with_result,
)
from farkas_exp.studies.farkas.filling import Filled, describe_setting, fill
from farkas_exp.studies.farkas.paper import TABLES, PaperCell, PaperTable
from farkas_exp.studies.farkas.paper_table import cell_arm, signed

SUPPORTED, NOT_SUPPORTED, NOT_ENOUGH = "supported", "not supported", "not enough runs"
RUNS_WANTED = 3
HALF_POINT = 0.5
NEED = 1.0
"""Claim (d): by more points than this the larger rates have to lose."""
FIRST_EPOCH_GAIN, LARGEST_GAIN = 10.0, 5.0
"""Claims (c) and (g) say "roughly 20" points and "up to 10": at least half of that is asked for."""
CELLS = sum(len(TABLES[name].columns) for name in ("table1", "table2"))


Tables = Callable[[PaperTable], Filled]
"""Each table of the paper, filled with the same runs."""


@dataclass(frozen=True)
class Finding:
    """What our runs say about one claim: the verdict, the figures behind it, and the setting they come from.

    `p` belongs to the errors, that of `failures` to the number of failed runs; `runs` is the number of all that bear
    on the claim. `share`: the interval is one of a share of runs, not of points.
    """

    verdict: str
    evidence: str
    interval: Interval | None = None
    p: float | None = None
    failures: Failures | None = None
    runs: int = 0
    setting: str = ""
    share: bool = False


@dataclass(frozen=True)
class Claim:
    """A claim in the paper's sense, where it stands, the rule of the verdict, its test, and the paper's own numbers."""

    key: str
    statement: str
    source: str
    rule: str
    test: Callable[[Tables], Finding]
    paper: str = ""


def check_claims(records: Sequence[RunRecord], claims: Sequence[Claim] | None = None) -> list[tuple[Claim, Finding]]:
    """Test every claim, or these `claims`, on the runs; the same runs give the same findings."""
    tables = cache(lambda table: fill(table, records))
    return [(claim, claim.test(tables)) for claim in claims or CLAIMS]


def _cifar(tables: Tables, normalization: str) -> tuple[Comparison, str]:
    """ResNet against FarkasNet in the cells of Tables 1 and 2, and the settings of the tables that have any."""
    filled = [tables(TABLES[name]) for name in ("table1", "table2")]
    found = in_pairs(filled, normalization)
    there = {cell.where.partition(",")[0] for cell in found.cells}
    return found, _settings([each for each in filled if each.table.short in there])


def _finding(verdict: str, evidence: str, found: Comparison, where: str) -> Finding:
    return Finding(verdict, evidence, found.interval(), found.p, found.failures, found.runs, where)


def _verdict(holds: bool, fails: bool) -> str:
    return NOT_SUPPORTED if fails else SUPPORTED if holds else NOT_ENOUGH


def _better_everywhere(found: Comparison, wanted: int) -> str:
    """The verdict on a network being better in every one of the wanted cells."""
    if found.lost:
        return NOT_SUPPORTED
    if len(found.cells) == wanted and min(found.gains) > 0 and significant(found.p):
        return SUPPORTED
    return NOT_SUPPORTED if len(found.cells) == wanted and found.least_runs >= RUNS_WANTED else NOT_ENOUGH


def _farkas_wins_without_norm(tables: Tables) -> Finding:
    found, where = _cifar(tables, "none")
    return _finding(_better_everywhere(found, CELLS), _gains_text(found), found, where)


def _equal_with_norm(tables: Tables) -> Finding:
    found, where = _cifar(tables, "batch")
    bounds = [cell.interval(1 - 2 * LEVEL) for cell in found.cells]  # two one-sided tests (Schuirmann 1987)
    joint = found.joint_intervals(1 - 2 * LEVEL)
    within = sum(
        each is not None and each.low > -HALF_POINT and each.high < HALF_POINT and not cell.failures.always
        for each, cell in zip(bounds, found.cells, strict=True)
    )
    beyond = any(each and (each.low > HALF_POINT or each.high < -HALF_POINT) for each in joint)
    failed = found.failures
    stuck = any(cell.failures.always and cell.least_runs >= RUNS_WANTED for cell in found.cells)
    verdict = _verdict(within == CELLS, beyond or stuck or bool(failed and significant(failed.p)))
    largest = max(found.cells, key=lambda cell: abs(cell.gain), default=None)
    text = f"{_gains_text(found, largest)}; shown to lie within ±{HALF_POINT:g} in {within} of {CELLS} cells"
    interval = largest and largest.interval(1 - 2 * LEVEL)
    return Finding(verdict, text, interval, None, failed, found.runs, where)


def _first_epoch(tables: Tables) -> Finding:
    filled = tables(TABLES["table3"])
    found = in_pairs([filled], "batch", first_error)
    interval = found.interval()
    verdict = _at_least(interval, FIRST_EPOCH_GAIN)
    return Finding(verdict, _gains_text(found), interval, None, found.failures, found.runs, _settings([filled]))


def _at_least(interval: Interval | None, points: float) -> str:
    return NOT_ENOUGH if interval is None else _verdict(interval.low >= points, interval.high < points)


def _largest_gain(tables: Tables) -> Finding:
    found, where = _cifar(tables, "none")
    joint = found.joint_intervals()
    verdicts = [_at_least(each, LARGEST_GAIN) for each in joint]
    verdict = _verdict(SUPPORTED in verdicts, verdicts.count(NOT_SUPPORTED) == CELLS)
    lows = [each.low if each else -np.inf for each in joint]
    best = int(np.argmax(lows)) if lows else None
    text = _gains_text(found) + ("" if best is None else f"; highest interval in {found.cells[best].where}")
    interval = None if best is None else joint[best]
    return Finding(verdict, text, interval, None, found.failures, found.runs, where)


def _fixup_needs_small_rate(tables: Tables) -> Finding:
    filled = tables(paper.FIXUP_RATES)
    small, *larger = [cell_arm(wanted, filled) for wanted in paper.FIXUP_RATES.cells]
    text = "; ".join(f"{arm.label}: {_trained(arm)}" for arm in (small, *larger))
    normalized = tables(paper.FIXUP_RATES_NORMALIZED)
    for wanted in paper.FIXUP_RATES_NORMALIZED.cells:
        if normalized.runs.get(wanted):
            text += f"; normalized inputs, {wanted.label}: {_trained(cell_arm(wanted, normalized))}"
    found = [Comparison((made,)) for arm in larger if (made := contrast(arm, small))]
    verdicts = [_needed(each) for each in found]
    verdict = _verdict(verdicts.count(SUPPORTED) == len(larger), NOT_SUPPORTED in verdicts)
    runs = sum(len(with_result(arm)) for arm in (small, *larger))
    if not found:
        return Finding(verdict, text, runs=runs, setting=_settings([filled]))
    closest = min(found, key=lambda each: each.gains[0])
    text += f". {_gains_text(closest)}"
    return Finding(verdict, text, closest.interval(), closest.p, closest.failures, runs, _settings([filled]))


def _needed(found: Comparison) -> str:
    """Whether a larger rate fails, or loses by the margin; not, where it certainly loses by less."""
    interval, failed = found.interval(), found.failures
    loses = interval is not None and interval.low > NEED and significant(found.p)
    if loses or (failed and failed.more(worse=True)):
        return SUPPORTED
    return NOT_SUPPORTED if interval is not None and interval.high < NEED else NOT_ENOUGH


def _trains_where(wanted: PaperCell, other: PaperCell, tables: Tables) -> Finding:
    """A test of `wanted` training where `other` fails."""
    filled = tables(paper.FIGURE5)
    better, worse = cell_arm(wanted, filled), cell_arm(other, filled)
    counts = failures(worse, better)
    text = f"{better.label}: {_trained(better)}; {worse.label}: {_trained(worse)}"
    verdict = NOT_ENOUGH
    if counts.better_runs and counts.worse_runs:
        verdict = _verdict(significant(counts.p), bool(counts.better) or counts.worse < counts.worse_runs)
    runs, trained = counts.better_runs, counts.better_runs - counts.better
    interval = binomial_interval(trained, runs) if runs else None
    return Finding(verdict, text, interval, None, counts, runs + counts.worse_runs, _settings([filled]), share=True)


def _plain_fails_sometimes(tables: Tables) -> Finding:
    filled = tables(TABLES["table2"])
    arm = cell_arm(TABLES["table2"].pair("50 layers", "none")[0], filled)
    runs = with_result(arm)
    n, failed = len(runs), sum(not trains(run) for run in runs)
    text, where = f"ResNet50, no BN: {_trained(arm)}", _settings([filled])
    if not n:
        return Finding(NOT_ENOUGH, text)
    interval = binomial_interval(failed, n)
    always, never = failed == n, not failed and interval.high < 1 / 3
    verdict = _verdict(0 < failed < n, n >= RUNS_WANTED and (always or never))
    return Finding(verdict, text, interval, None, None, n, where, share=True)


def _better_in(
    table: PaperTable, worse: PaperCell, better: PaperCell, tables: Tables, score: Score = ranked_error
) -> Finding:
    """A test of one network of a table having a smaller score than another."""
    filled = tables(table)
    made = contrast(cell_arm(worse, filled), cell_arm(better, filled), score)
    found = Comparison((made,) if made else ())
    return _finding(_better_everywhere(found, 1), _gains_text(found), found, _settings([filled]))


def _trained(arm: Arm) -> str:
    """How many runs of an arm trained, with their mean error."""
    runs = with_result(arm)
    if not runs:
        return "no runs"
    errors = [ranked_error(run) for run in runs if trains(run)]
    return f"{len(errors)} of {len(runs)} trained" + (f" ({np.mean(errors):.2f} %)" if errors else "")


def _gains_text(found: Comparison, largest: Contrast | None = None) -> str:
    gains = found.gains
    if not gains:
        return "No cell has runs of both networks"
    names = " − ".join(found.cells[0].failures.names)
    several = f", above 0 in {sum(gain > 0 for gain in gains)} of {len(gains)} cells" if len(gains) > 1 else ""
    return f"{names}: {_span(gains)} points{several}" + (f", largest in {largest.where}" if largest else "")


def _span(values: Sequence[float]) -> str:
    return signed(values[0]) if len(values) == 1 else f"{signed(min(values))} to {signed(max(values))}"


def _settings(filled: Sequence[Filled]) -> str:
    """Where the settings are not the paper's, table by table."""
    return "; ".join(f"{f.table.name}: {describe_setting(f.deviations, f.table)}" for f in filled if f.deviations)


def _papers_cells(normalization: str) -> str:
    gains = {**TABLES["table1"].gains(normalization), **TABLES["table2"].gains(normalization)}
    values, largest = list(gains.values()), max(gains, key=lambda where: abs(gains[where]))
    within = sum(abs(gain) <= HALF_POINT for gain in values)
    return (
        f"{_span(values)} points, above 0 in {sum(gain > 0 for gain in values)} of {len(values)} cells, within "
        f"±{HALF_POINT:g} in {within}; largest in {largest}; average {signed(float(np.mean(values)))}"
    )


def _papers_difference(worse: PaperCell, better: PaperCell) -> str:
    assert worse.value is not None
    assert better.value is not None
    return f"{worse.value:.2f} − {better.value:.2f} = {signed(worse.value - better.value)}, without a spread"


_FIXUP, _BEST_FARKAS = TABLES["table4"].cells[2:]
_IMAGENET50 = TABLES["table3"].pair("50 layers", "batch")
_PAPERS_LARGEST = [max(TABLES[t].gains("none").items(), key=lambda item: item[1]) for t in ("table1", "table2")]
_TRAINS = "Trains: an error below nine tenths of chance."

CLAIMS = (
    Claim(
        "a",
        "Without batch norm a FarkasNet has a lower test error than the ResNet in every cell of Tables 1 and 2.",
        "Section 4, Tables 1 and 2",
        f"Supported: lower mean in all {CELLS} cells, and p ≤ 0.05 over them. Not supported: the FarkasNet is worse in "
        "a cell (joint 95 % intervals) or fails more often (p ≤ 0.05), or every cell has 3 runs a network and the rest "
        "does not hold.",
        _farkas_wins_without_norm,
        _papers_cells("none"),
    ),
    Claim(
        "b",
        "With batch norm the two are within about half a point, in every cell.",
        "Section 4, Tables 1 and 2",
        f"Supported: in each of the {CELLS} cells the 90 % interval lies within ±0.5 (two one-sided tests at 5 %). Not "
        "supported: in one it lies outside (jointly at 90 %), or all of 3 or more runs of a network fail, or one fails "
        "more often (p ≤ 0.05). Interval: of the cell with the largest difference.",
        _equal_with_norm,
        _papers_cells("batch"),
    ),
    Claim(
        "c",
        "After the first ImageNet epoch the top-1 error of a FarkasNet is about 20 points lower.",
        "Section 4, Figure 2",
        f"Supported: the 95 % interval of the average over the depths is above {FIRST_EPOCH_GAIN:g} points. Not "
        "supported: it is below.",
        _first_epoch,
    ),
    Claim(
        "d",
        "Without input normalization FixUp needs the small learning rate.",
        "Section 4, best practice",
        f"Supported: at each larger rate FixUp fails more often (p ≤ 0.05), or loses by more than {NEED:g} point (95 % "
        "interval, p ≤ 0.05). Not supported: at one of them the interval is below that. Interval: of the better of the "
        "larger rates.",
        _fixup_needs_small_rate,
    ),
    Claim(
        "e",
        "FarkasNet101 (mean, no BN, default init) trains at the large learning rate, where ResNet101 fails.",
        "Section 4, Figure 5",
        f"{_TRAINS} Supported: every FarkasNet trains and no ResNet does, p ≤ 0.05. Not supported: a FarkasNet fails "
        "or a ResNet trains. Interval: share of FarkasNets that train.",
        partial(_trains_where, paper.DEEP_MEAN, paper.DEEP_PLAIN),
    ),
    Claim(
        "f",
        "ResNet50 without batch norm sometimes fails to train on CIFAR-100.",
        "Table 2, footnote 1",
        f"{_TRAINS} Supported: some fail and some train. Not supported: all of 3 or more fail, or none with an upper "
        "bound below 1/3. Interval: share of failures.",
        _plain_fails_sometimes,
        "1 of 3 failed",
    ),
    Claim(
        "g",
        "Without batch norm the gain of a FarkasNet is up to 10 points.",
        "Abstract; Tables 1 and 2",
        f"Supported: in some cell it is above {LARGEST_GAIN:g} points (joint 95 % intervals). Not supported: it is "
        f"below in all {CELLS}. Interval: the highest of them.",
        _largest_gain,
        "; ".join(f"{signed(gain)} in {where}" for where, gain in _PAPERS_LARGEST),
    ),
    Claim(
        "h",
        "At its best practice FarkasNet34 beats FixUp34.",
        "Section 4, Table 4",
        "Supported: lower mean with p ≤ 0.05. Not supported: 95 % interval below 0, or fails more often (p ≤ 0.05), or "
        "3 runs each and the rest does not hold.",
        partial(_better_in, TABLES["table4"], _FIXUP, _BEST_FARKAS),
        _papers_difference(_FIXUP, _BEST_FARKAS),
    ),
    Claim(
        "i",
        "FixUp34 converges faster than FarkasNet34 at its best practice.",
        "Section 4, Figure 3",
        "As (h), for FixUp's test error averaged over the epochs before the first drop of the rate (30 % of them).",
        partial(_better_in, TABLES["table4"], _BEST_FARKAS, _FIXUP, score=early_error),
    ),
    Claim(
        "j",
        "At the end of the ImageNet training FarkasNet50 is significantly better than ResNet50.",
        "Section 4, Table 3",
        "As (h). One run a network, as in the paper, decides nothing.",
        partial(_better_in, TABLES["table3"], *_IMAGENET50),
        _papers_difference(*_IMAGENET50),
    ),
    Claim(
        "k",
        "At the large learning rate only the mean trains FarkasNet101, the sum does not.",
        "Sections 3.3 and 4, Figure 5",
        "As (e), with the sum in place of the ResNet.",
        partial(_trains_where, paper.DEEP_MEAN, paper.DEEP_SUM),
    ),
)
