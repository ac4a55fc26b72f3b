"""The reports of the paper: its tables, their control arms and curves, its figures and its claims."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from farkas_exp.report.activity import units_table
from farkas_exp.report.render import Report
from farkas_exp.runs import RunRecord
from farkas_exp.studies.farkas import paper
from farkas_exp.studies.farkas.claims import check_claims
from farkas_exp.studies.farkas.claims_table import claims_tables, verdict_lines
from farkas_exp.studies.farkas.figures import FIGURES, controls_figures, table_figure
from farkas_exp.studies.farkas.filling import fill
from farkas_exp.studies.farkas.paper_table import other_arms_tables, paper_table


def _report(wanted: Sequence[paper.PaperTable], records: Sequence[RunRecord]) -> Report:
    """Tables of the paper, the other arms of their settings, and the curves of their cells."""
    filled = [fill(each, records) for each in wanted]
    shown = [table for each in filled for table in (paper_table(each), *other_arms_tables(each))]
    units = units_table([run for each in filled for runs in (*each.runs.values(), each.others) for run in runs])
    shown += [units] if units else []
    figures = {
        each.table.name: partial(table_figure, each.table, records, each.table.title) for each in filled if each.runs
    }
    for each in filled:
        figures |= controls_figures(each)
    findings = check_claims(records)
    return Report(wanted[0].name, tuple(shown), figures, claims_tables(findings), verdict_lines(findings))


table1 = partial(_report, [paper.TABLES["table1"]])
table2 = partial(_report, [paper.TABLES["table2"]])
table3 = partial(_report, [paper.TABLES["table3"]])
table4 = partial(_report, [paper.TABLES["table4"]])
table1_mini = partial(_report, [paper.TABLE1_MINI])
table1_small_images = partial(_report, [paper.TABLE1_SMALL_IMAGES])
table3_mini = partial(_report, [paper.TABLE3_MINI])
figure5 = partial(_report, [paper.FIGURE5])
fixup_rates = partial(_report, [paper.FIXUP_RATES, paper.FIXUP_RATES_NORMALIZED])


def claims(records: Sequence[RunRecord]) -> Report:
    """The verdicts on the paper's claims."""
    first, *others = claims_tables(check_claims(records))
    return Report("claims", (replace(first, folded=False), *others))


def figures(records: Sequence[RunRecord]) -> Report:
    """Every figure of the paper that there are runs for, and Figure 1."""
    drawn = {name: figure for name, draw in FIGURES.items() if (figure := draw(records)) is not None}
    missing = tuple(f"{name}: no runs for it" for name in FIGURES if name not in drawn)
    return Report("figures", figures={name: lambda figure=figure: figure for name, figure in drawn.items()},
                  remarks=missing)  # fmt: skip
