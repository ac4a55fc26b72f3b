"""A report: tables and figures, shown on the terminal and written in each format."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from farkas_exp.machine.errors import UserError
from farkas_exp.machine.files import replacing
from farkas_exp.report import page, style, tables
from farkas_exp.report.tables import Table
from farkas_exp.runs import RunRecord
from farkas_exp.runs.command import one_of


@dataclass(frozen=True)
class Report:
    """What a renderer makes of runs.

    Attributes:
        name: of its files.
        tables: shown and written.
        figures: by the name of their file; drawn if a format asks for pictures.
        appendix: tables that are written only.
        remarks: lines for the terminal.
    """

    name: str
    tables: tuple[Table, ...] = ()
    figures: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    appendix: tuple[Table, ...] = ()
    remarks: tuple[str, ...] = ()


FOLDER = "report"
"""Where the files go by default, in the folder of the runs."""
FORMATS = ("md", "csv", "tex", "html", "png", "pdf")


def formats_of(value: str) -> tuple[str, ...]:
    """The formats of `format=md,csv`; `none` gives none."""
    names = dict.fromkeys(map(one_of("format", [*FORMATS, "none"]), value.split(",")))
    if "none" in names and len(names) > 1:
        raise UserError(f"format: none goes with no other, got {value!r}")
    return () if "none" in names else tuple(names)


def show(
    report: Report, out: Path, formats: Sequence[str], stream: TextIO, notes: Sequence[str] = (),
    records: Sequence[RunRecord] = (),
) -> list[Path]:  # fmt: skip
    """Print the report, write it into `out` in each of the formats, and return the files.

    The `notes` on its runs stand below the first table; the HTML page links the `records`.

    Raises:
        UserError: a file cannot be written.
    """
    names = [file_name(report, table) for table in (*report.tables, *report.appendix)]
    assert len(set(names)) == len(names), "each table of a report needs a name of its own"
    if notes and report.tables:
        first, *rest = report.tables
        report = replace(report, tables=(replace(first, notes=(*first.notes, *notes)), *rest))
    elif notes:
        report = replace(report, remarks=(*report.remarks, *notes))
    for table in report.tables:
        tables.to_terminal(table, stream)
    for remark in report.remarks:
        print(remark, file=stream)
    try:
        return _write(report, out, formats, records)
    except OSError as error:
        raise UserError(
            f"out: cannot write to {error.filename or out}: {error.strerror}; give another out=..."
        ) from None


def _write(report: Report, out: Path, formats: Sequence[str], records: Sequence[RunRecord]) -> list[Path]:
    if not formats:
        return []
    out.mkdir(parents=True, exist_ok=True)
    shown = [*report.tables, *report.appendix]
    figures = {n: draw() for n, draw in report.figures.items()} if {"png", "pdf", "html"} & set(formats) else {}
    drawn = cache(lambda name, kind: style.drawn(figures[name], kind))
    files: list[Path] = []
    for suffix in formats:
        if suffix in ("png", "pdf"):
            files += [_written(out / f"{name}.{suffix}", drawn(name, suffix)) for name in figures]
        elif suffix == "csv":
            kept = [table for table in shown if table.records]
            files += [_written(out / f"{file_name(report, t)}.csv", tables.to_csv(t).encode()) for t in kept]
        elif shown:
            if suffix == "html":
                pictures = [page.picture(figure, drawn(name, "png"), name) for name, figure in figures.items()]
                text = page.page(shown[0].title, [*map(tables.to_html, shown), *pictures], page.origin(records, out))
            else:
                text = "\n".join(map({"md": tables.to_markdown, "tex": tables.to_latex}[suffix], shown))
            files.append(_written(out / f"{report.name}.{suffix}", text.encode()))
    return files


def file_name(report: Report, table: Table) -> str:
    """The file name of a table's records: the report, then the table if it has another name."""
    own = table.name in ("", report.name)
    return report.name if own else table.name if table.name.startswith(report.name) else f"{report.name}_{table.name}"


def _written(path: Path, content: bytes) -> Path:
    with replacing(path) as file:
        file.write(content)
    return path
