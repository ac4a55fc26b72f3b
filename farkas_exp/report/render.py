"""What the report's command renders: for each thing that can be asked for, its tables, figures and files."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from farkas_exp.errors import UserError
from farkas_exp.machine.files import write_text
from farkas_exp.report import page, style, tables
from farkas_exp.report.arms import arms_table, group_arms
from farkas_exp.report.claims import check_claims, claims_table
from farkas_exp.report.curves import curves_figure
from farkas_exp.report.deep_narrow import deep_narrow_figure, deep_narrow_table, grids
from farkas_exp.report.figures import FIGURES, table_figure
from farkas_exp.report.landscape import landscape_table
from farkas_exp.report.paper import (
    FIGURE5,
    FIXUP_RATES,
    FIXUP_RATES_NORMALIZED,
    TABLE1_MINI,
    TABLE3_MINI,
    TABLES,
    PaperTable,
    fill,
)
from farkas_exp.report.paper_table import other_arms_table, paper_table
from farkas_exp.report.separation import arm_grids, separation_table
from farkas_exp.report.tables import Table
from farkas_exp.report.without_normalization import comparison_table, find_methods, rates_figure
from farkas_exp.runs import RunRecord

Renderer = Callable[[Sequence[RunRecord], Path, Sequence[str], TextIO], list[Path]]


def render_arms(records: Sequence[RunRecord], out: Path, formats: Sequence[str], stream: TextIO) -> list[Path]:
    """All arms of the runs: one table, and the curves of all of them."""
    arms = group_arms(records)
    table = arms_table(arms)
    tables.to_terminal(table, stream)
    figures = {"arms": curves_figure(arms)} if _wants_figures(formats) else {}
    return write_report("arms", [table], figures, out, formats)


def render_paper_tables(
    name: str, wanted: Sequence[PaperTable], records: Sequence[RunRecord], out: Path, formats: Sequence[str],
    stream: TextIO,
) -> list[Path]:  # fmt: skip
    """Tables of the paper, the other arms of their settings, and the curves of their cells."""
    shown, figures = [], {}
    for paper in wanted:
        filled = fill(paper, records)
        others = other_arms_table(filled)
        shown += [paper_table(filled), *([others] if others else [])]
        figure = table_figure(paper, records, paper.title) if _wants_figures(formats) else None
        figures |= {paper.name: figure} if figure else {}
    for table in shown:
        tables.to_terminal(table, stream)
    shown.append(claims_table(check_claims(records)))
    return write_report(name, shown, figures, out, formats)


def render_deep_narrow(records: Sequence[RunRecord], out: Path, formats: Sequence[str], stream: TextIO) -> list[Path]:
    """Accuracy and dead points of the multi-layer perceptrons over depth and width."""
    found = grids(records)
    if not found:
        raise UserError(
            "runs_dir: no finished run of a multi-layer perceptron on two moons; see experiment=deep_narrow"
        )
    table = deep_narrow_table(found)
    tables.to_terminal(table, stream)
    figures = {"deep_narrow": deep_narrow_figure(found)} if _wants_figures(formats) else {}
    return write_report("deep_narrow", [table], figures, out, formats)


def render_claims(records: Sequence[RunRecord], out: Path, formats: Sequence[str], stream: TextIO) -> list[Path]:
    """The verdicts on the paper's claims."""
    table = claims_table(check_claims(records))
    tables.to_terminal(table, stream)
    return write_report("claims", [table], {}, out, formats)


def render_figures(records: Sequence[RunRecord], out: Path, formats: Sequence[str], stream: TextIO) -> list[Path]:
    """Every figure of the paper that there are runs for, and Figure 1."""
    figures = {}
    for name, draw in FIGURES.items():
        figure = draw(records)
        if figure is None:
            print(f"{name}: no runs for it", file=stream)
        else:
            figures[name] = figure
    return write_report("figures", [], figures, out, [f for f in formats if f in ("png", "pdf")])


def _wants_figures(formats: Sequence[str]) -> bool:
    return bool({"png", "pdf", "html"} & set(formats))


def render_separation(records: Sequence[RunRecord], out: Path, formats: Sequence[str], stream: TextIO) -> list[Path]:
    """The separation paper's Table 1, or its heat maps where the runs of an arm differ in depth or width."""
    found = arm_grids(records)
    table = deep_narrow_table(found) if found else separation_table(records)
    tables.to_terminal(table, stream)
    name = "separation_grid" if found else "separation"
    figures = {name: deep_narrow_figure(found)} if found and _wants_figures(formats) else {}
    return write_report(name, [table], figures, out, formats)


def render_landscape(records: Sequence[RunRecord], out: Path, formats: Sequence[str], stream: TextIO) -> list[Path]:
    """What the diagnostics have measured before and after training."""
    table = landscape_table(records)
    tables.to_terminal(table, stream)
    return write_report("landscape", [table], {}, out, formats)


def render_without_normalization(
    records: Sequence[RunRecord], out: Path, formats: Sequence[str], stream: TextIO
) -> list[Path]:
    """Every method at its own best learning rate, and the error over the rates."""
    methods = find_methods(records)
    table = comparison_table(methods)
    tables.to_terminal(table, stream)
    draws = _wants_figures(formats) and any(method.search for method in methods)
    figures = {"without_normalization": rates_figure(methods)} if draws else {}
    return write_report("without_normalization", [table], figures, out, formats)


def render_identity(
    name: str, records: Sequence[RunRecord], out: Path, formats: Sequence[str], stream: TextIO
) -> list[Path]:
    """Theorems 2.1, 2.2 and 3.2 of "Identity matters", computed, and its Table 2 where there are runs."""
    from farkas_exp.report import identity  # torch, for these only

    shown, figures = [], {}
    if name in ("identity", "linear_residual_landscape"):
        norms, paths = identity.small_norm_records(), identity.descents()
        shown += [identity.small_norm_table(norms), identity.descent_table(paths)]
        if _wants_figures(formats):
            figures["linear_residual_landscape"] = identity.landscape_figure(norms, paths)
    if name in ("identity", "exact_fit"):
        shown.append(identity.exact_fit_table(identity.exact_fit_records()))
    table2 = identity.table2(records) if name == "identity" else None
    if table2:
        shown.insert(0, table2)
    for table in shown:
        tables.to_terminal(table, stream)
    return write_report(name, shown, figures, out, formats)


def render_lecture(
    name: str, records: Sequence[RunRecord], out: Path, formats: Sequence[str], stream: TextIO
) -> list[Path]:
    """The lecture on the initialization of residual networks, computed: all of it, or one of its three parts."""
    from farkas_exp.report import lecture  # torch, for these only

    shown, figures = [], {}
    if name in ("lecture", "linear_residual_ratio"):
        shown.append(lecture.ratio_table())
    if name in ("lecture", "residual_scaling"):
        variances = lecture.variance_records()
        shown += [lecture.variance_table(variances), lecture.network_table()]
        if _wants_figures(formats):
            figures["residual_scaling"] = lecture.scaling_figure(variances)
    if name in ("lecture", "landscape_toys"):
        shown.append(lecture.toys_table())
        if _wants_figures(formats):
            figures["landscape_toys"] = lecture.toys_figure()
    for table in shown:
        tables.to_terminal(table, stream)
    return write_report(name, shown, figures, out, formats)


RENDERERS: dict[str, Renderer] = {
    "arms": render_arms,
    **{name: partial(render_paper_tables, name, (table,)) for name, table in TABLES.items()},
    "table1_mini": partial(render_paper_tables, "table1_mini", (TABLE1_MINI,)),
    "table3_mini": partial(render_paper_tables, "table3_mini", (TABLE3_MINI,)),
    "figure5": partial(render_paper_tables, "figure5", (FIGURE5,)),
    "fixup_rates": partial(render_paper_tables, "fixup_rates", (FIXUP_RATES, FIXUP_RATES_NORMALIZED)),
    "deep_narrow": render_deep_narrow,
    "claims": render_claims,
    "figures": render_figures,
    "separation": render_separation,
    "landscape": render_landscape,
    **{
        name: partial(render_lecture, name)
        for name in ("lecture", "linear_residual_ratio", "residual_scaling", "landscape_toys")
    },
    "without_normalization": render_without_normalization,
    **{name: partial(render_identity, name) for name in ("identity", "linear_residual_landscape", "exact_fit")},
}


def write_report(
    name: str, shown: Sequence[Table], figures: dict[str, Any], out: Path, formats: Sequence[str]
) -> list[Path]:
    """Write tables and figures in each of the formats, and return the files."""
    if not formats:
        return []
    out.mkdir(parents=True, exist_ok=True)
    texts: dict[str, Callable[[], str]] = {
        "md": lambda: "\n".join(map(tables.to_markdown, shown)),
        "csv": lambda: tables.to_csv(shown[0]),
        "tex": lambda: "\n".join(map(tables.to_latex, shown)),
        "html": lambda: page.page(
            shown[0].title, [*map(tables.to_html, shown), *[page.picture(f, n) for n, f in figures.items()]]
        ),
    }
    files = []
    for suffix in formats:
        if suffix in texts and shown:
            path = out / f"{name}.{suffix}"
            write_text(path, texts[suffix]())
            files.append(path)
        elif suffix in ("png", "pdf"):
            files += [style.save(figure, out / f"{each}.{suffix}") for each, figure in figures.items()]
    return files
