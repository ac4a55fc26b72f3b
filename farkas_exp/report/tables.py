"""A small table model, and its rendering for the terminal, Markdown, CSV, LaTeX and HTML.

A cell has one or more lines of plain text, without control characters. The text may hold ±, −, × and the like; each
rendering escapes what is special to it. CSV is for machines and does not hold the cells but the table's `records`: one
flat row of unrounded numbers for each thing that the table shows.
"""

import csv
import html
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TextIO

from farkas_exp.machine.terminal import printable


@dataclass(frozen=True)
class Cell:
    """Lines of text; `marker` (such as an asterisk) follows the first line; `strong` is bold."""

    lines: tuple[str, ...]
    marker: str = ""
    strong: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """The lines with the marker."""
        return (self.lines[0] + self.marker, *self.lines[1:])


def cell(*lines: str, marker: str = "", strong: bool = False) -> Cell:
    """A cell of the given lines."""
    return Cell(tuple(map(printable, lines)), marker, strong)


@dataclass(frozen=True)
class Table:
    """A titled table: the first column is aligned left, the others right; `notes` stand below it, one line each.

    `name` names its file of records, and is needed in a report of several tables. A `folded` table opens on demand;
    formats that cannot fold show its title alone.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    records: tuple[Mapping[str, Any], ...] = ()
    name: str = ""
    folded: bool = False

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), "every row has a cell for every column"
        for field in ("columns", "notes"):
            object.__setattr__(self, field, tuple(map(printable, getattr(self, field))))
        object.__setattr__(self, "title", printable(self.title))


def tabulate(
    title: str, columns: Iterable[str], rows: Iterable[Iterable[Cell | str]], notes: Iterable[str] = (),
    records: Iterable[Mapping[str, Any]] = (), name: str = "",
) -> Table:  # fmt: skip
    """A table of these rows, in which a text is a cell of one line."""
    cells = tuple(tuple(cell(each) if isinstance(each, str) else each for each in row) for row in rows)
    return Table(title, tuple(columns), cells, tuple(notes), tuple(records), name)


def table_of(
    title: str, columns: Mapping[str, str | Callable[[Any], Cell | str]], records: Sequence[Mapping[str, Any]],
    notes: Sequence[str] = (), name: str = "",
) -> Table:  # fmt: skip
    """A table with a row for each record.

    `columns` says for each head how a record is written: by a format of its keys, `{risk:.1e}`, or by a function.
    """
    rows = ([how.format_map(r) if isinstance(how, str) else how(r) for how in columns.values()] for r in records)
    return tabulate(title, columns, rows, notes, records, name)


def to_terminal(table: Table, stream: TextIO) -> None:
    """Print the table with rich, as wide as the terminal, or as needed elsewhere."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    if table.folded:
        print(table.title, file=stream)
        return
    shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold", pad_edge=False)
    for index, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if index == 0 else "right")
    for row in table.rows:
        shown.add_row(*[Text("\n".join(c.texts), style="bold" if c.strong else "") for c in row])
    terminal = bool(getattr(stream, "isatty", lambda: False)())
    console = Console(file=stream, width=None if terminal else 240, highlight=False)
    console.print(shown)
    for note in table.notes:
        console.print(Text(note, style="dim"), soft_wrap=True)


def to_markdown(table: Table) -> str:
    """The table as GitHub-flavoured Markdown."""
    align = [":--", *["--:"] * (len(table.columns) - 1)]
    lines = [f"**{_markdown(table.title)}**", "", _bars(map(_markdown, table.columns)), _bars(align)]
    for row in table.rows:
        cells = ["<br>".join(map(_markdown, c.texts)) for c in row]
        lines.append(_bars(f"**{text}**" if c.strong and text else text for text, c in zip(cells, row, strict=True)))
    lines += [part for note in table.notes for part in ("", _markdown(note))]
    if table.folded:
        lines = [f"<details><summary>{html.escape(table.title)}</summary>", "", *lines[2:], "", "</details>"]
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """The table's records, with one column for every key, in the order of their first appearance.

    Text has no line breaks, and none that a spreadsheet would take for a formula: it gets an apostrophe in front.
    """
    keys = list(dict.fromkeys(key for record in table.records for key in record))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(_csv_value, keys))
    writer.writerows([_csv_value(record.get(key)) for key in keys] for record in table.records)
    return out.getvalue()


def _csv_value(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""How a formula may begin, also in the full width of East Asian scripts."""


_LONG = 60
"""So many characters of a first column are set as a paragraph in LaTeX, which breaks no line of a cell itself."""


def to_latex(table: Table) -> str:
    r"""The table as a LaTeX `table` environment; it needs `\usepackage{booktabs}` and nothing else."""
    if table.folded:
        return f"\\noindent{{\\footnotesize {_latex(table.title)}.}}\n"
    long = any(len(row[0].texts[0]) > _LONG for row in table.rows)
    columns = (r"p{0.3\linewidth}" if long else "l") + "r" * (len(table.columns) - 1)
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering",
        f"  \\caption{{{_latex(table.title)}}}",
        *(["  \\footnotesize"] if long else []),
        f"  \\begin{{tabular}}{{{columns}}}",
        "    \\toprule",
        "    " + " & ".join(map(_latex, table.columns)) + r" \\",
        "    \\midrule",
    ]
    for row in table.rows:
        for line in zip_longest(*(c.texts for c in row), fillvalue=""):
            texts = [_latex(text) for text in line]
            texts = [f"\\textbf{{{text}}}" if c.strong and text else text for text, c in zip(texts, row, strict=True)]
            texts[0] = "{}" + texts[0] if texts[0].startswith(("[", "*")) else texts[0]  # not of the \\\\ before it
            lines.append("    " + " & ".join(texts) + r" \\")
    lines += ["    \\bottomrule", "  \\end{tabular}"]
    if table.notes:
        lines += ["", "  \\smallskip", "  {\\footnotesize", *[f"  {_latex(note)}\\par" for note in table.notes], "  }"]
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def to_html(table: Table) -> str:
    """The table as an HTML fragment: a figure with caption, table and notes."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    body = "\n".join("<tr>" + "".join(map(_td, row)) + "</tr>" for row in table.rows)
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
    title = html.escape(table.title)
    content = (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n'
        f'<div class="notes">{notes}</div>'
    )
    if table.folded:
        return f"<details><summary>{title}</summary>\n{content}</details>\n"
    return f'<figure class="table"><figcaption>{title}</figcaption>\n{content}</figure>\n'


def _td(cell: Cell) -> str:
    first, *rest = map(html.escape, cell.texts)
    first = f"<strong>{first}</strong>" if cell.strong else first
    return "<td>" + first + "".join(f"<br><small>{line}</small>" for line in rest) + "</td>"


def _bars(texts: Any) -> str:
    return "| " + " | ".join(texts) + " |"


def _markdown(text: str) -> str:
    text = re.sub(r"[\\|*_<>\[\]`~$]", r"\\\g<0>", text.replace("&", "&amp;"))
    mark = r"^(\s*)([-+](?=\s|$)|#|\d+(?=[.)](?:\s|$)))"  # of a list or a heading
    return re.sub(mark, lambda m: f"{m[1]}&#{ord(m[2][0])};{m[2][1:]}", text)


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "·": r"$\cdot$",
    "≤": r"$\leq$", "≥": r"$\geq$", "→": r"$\to$", "∆": r"$\Delta$", "Δ": r"$\Delta$", "–": "--", "<": r"\textless{}",
    ">": r"\textgreater{}", "λ": r"$\lambda$",
    "π": r"$\pi$", "γ": r"$\gamma$", "σ": r"$\sigma$", "…": r"\dots{}", "|": r"\textbar{}",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
