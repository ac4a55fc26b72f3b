"""One self-contained HTML page: its style and its pictures are inside, nothing is loaded from anywhere.

On a narrow screen and on paper only tables scroll or shrink: the panels of a figure stand one below the other.
"""

import base64
import html
import io
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from farkas_exp.machine.terminal import printable
from farkas_exp.report import style
from farkas_exp.runs import RunRecord

_CSS = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
figure, details { margin: 1.5rem 0; } figcaption, summary { font-weight: 600; margin-bottom: .5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .35rem .8rem; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; min-width: 9rem; }
td + td { white-space: nowrap; } th + th { min-width: 4.5rem; }
thead th { border-top: 2px solid #222; border-bottom: 1px solid #222; }
tbody tr:last-child td { border-bottom: 2px solid #222; }
tbody tr:nth-child(even) { background: #f6f6f6; }
small, .notes, footer { color: #555; } .notes p { margin: .25rem 0; font-size: .85rem; }
footer { border-top: 1px solid #aaa; margin-top: 3rem; font-size: .85rem; } footer li { margin: .4rem 0; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; } .panels img { margin-bottom: 1rem; }
.panels { display: none; }
@media (max-width: 720px) {
  body { margin: 1rem auto; } th, td { padding: .3rem .5rem; } .stacks > .whole { display: none; }
  .stacks > .panels { display: block; }
}
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818; } tbody tr:nth-child(even) { background: #222; }
  small, .notes, footer { color: #aaa; } a { color: #8bf; }
  thead th { border-color: #ddd; } tbody tr:last-child td { border-color: #ddd; } img { background: white; }
}
@media print {
  html { font-size: 10pt; } body { color: black; background: white; font-size: 1rem; max-width: none; margin: 0; }
  .scroll { overflow: visible; } table { font-size: .8rem; } th, td { padding: .15rem .4rem; }
  .notes p, footer { font-size: .75rem; } img { max-height: 15cm; }
  tr, img { break-inside: avoid; } h2, figcaption { break-after: avoid; } footer details { display: none; }
}
"""


def page(title: str, parts: Sequence[str], footer: str = "") -> str:
    """A page of HTML fragments."""
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_CSS}</style></head>\n'
        f"<body><h1>{html.escape(title)}</h1>\n{body}\n{footer}</body></html>\n"
    )


def origin(records: Sequence[RunRecord], folder: Path) -> str:
    """When the page was made, on which machine and by which command, with links to its runs from a page in `folder`."""
    when = time.strftime("%Y-%m-%d %H:%M %Z")
    lines = [
        f"<footer><p>Made on {html.escape(when)} on {html.escape(printable(platform.node()))} by"
        f" <code>{html.escape(printable(command_line()))}</code></p>"
    ]
    if records:
        links = "\n".join(f"<li>{_link(record.path, folder)} ({html.escape(record.state)})</li>" for record in records)
        lines.append(f"<details><summary>{len(records)} runs</summary><ul>\n{links}\n</ul></details>")
    return "\n".join([*lines, "</footer>\n"])


def _link(path: Path, folder: Path) -> str:
    target = quote(os.path.relpath(path, folder), errors="surrogateescape")
    return f'<a href="./{target}/">{html.escape(printable(f"{path.parent.name}/{path.name}"))}</a>'


def command_line() -> str:
    """The command of this process, as one would give it again."""
    program, *words = sys.argv
    parts = Path(program).with_suffix("").parts
    if "farkas_exp" in parts and parts[-1] != "farkas_exp":  # python -m
        inner = parts[len(parts) - parts[::-1].index("farkas_exp") - 1 :]
        return shlex.join(["python", "-m", ".".join(part for part in inner if part != "__main__"), *words])
    return shlex.join([Path(program).name, *words])


def picture(figure: Any, png: bytes, description: str) -> str:
    """A figure, drawn as `png`, embedded; for narrow screens also panel by panel, where panels stand side by side."""
    buffer = io.BytesIO(png)
    with style.styled():
        parts = _parts(figure)
    whole = _image(buffer, description, "whole")
    if not parts:
        return f"<figure>{whole}</figure>"
    panels = "".join(_image(_cut(buffer, part), description, "panel") for part in parts)
    lines = [line for legend in figure.legends for line in legend.get_title().get_text().split("\n") if line]
    notes = "".join(f"<p>{html.escape(line.strip().replace(chr(92) + '$', '$'))}</p>" for line in lines)
    panels += f'<div class="notes">{notes}</div>' * bool(notes)
    return f'<figure class="stacks">{whole}<div class="panels">{panels}</div></figure>'


_SHOWN_DPI = 130
"""Pixels of the page for an inch of a figure, where the window is wide enough."""

_MARGIN = 0.05
"""Inches around a part of a figure."""


def _image(png: io.BytesIO, description: str, kind: str) -> str:
    from PIL import Image

    data = base64.b64encode(png.getvalue()).decode()
    with Image.open(png) as opened:
        width = round(opened.width * _SHOWN_DPI / style.DPI)
    return f'<img class="{kind}" alt="{html.escape(description)}" width="{width}" src="data:image/png;base64,{data}">'


def _cut(png: io.BytesIO, part: Any) -> io.BytesIO:
    """A part, in inches from the lower left corner, of a picture."""
    from PIL import Image

    cut = io.BytesIO()
    with Image.open(png) as whole:
        left, right = (round(style.DPI * x) for x in (part.x0 - _MARGIN, part.x1 + _MARGIN))
        upper, lower = (round(whole.height - style.DPI * y) for y in (part.y1 + _MARGIN, part.y0 - _MARGIN))
        whole.crop((max(left, 0), max(upper, 0), min(right, whole.width), min(lower, whole.height))).save(cut, "png")
    return cut


def _parts(figure: Any) -> list[Any]:
    """The parts of a drawn figure, in inches: title, columns of panels, columns of legends without their titles.

    None where all is in one column.
    """
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # lays the legends out at the figure's own resolution
    renderer = figure.canvas.get_renderer()
    columns = _columns([box for axes in figure.axes if (box := axes.get_tightbbox(renderer)) is not None])
    if len(columns) < 2:
        return []
    texts = [each.get_window_extent(renderer) for each in figure.texts if each.get_visible()]
    rows = [list(zip(legend.legend_handles, legend.get_texts(), strict=True)) for legend in figure.legends]
    entries = [[Bbox.union([part.get_window_extent(renderer) for part in row]) for row in legend] for legend in rows]
    beside = [box for box in texts if box.width > 1] + [box for boxes in entries for box in _columns(boxes)]
    middle = Bbox.union(columns)
    above, below = [box for box in beside if box.y0 > middle.y0], [box for box in beside if box.y0 <= middle.y0]
    margin = _MARGIN * figure.dpi  # keeps the labels of the axes out
    below = [Bbox.from_extents(box.x0, box.y0, box.x1, min(box.y1, middle.y0 - margin)) for box in below]
    inches = figure.dpi_scale_trans.inverted()
    return [box.transformed(inches) for box in (*above, *columns, *below)]


def _columns(boxes: Sequence[Any]) -> list[Any]:
    """The boxes, those that stand above each other taken together, from left to right."""
    from matplotlib.transforms import Bbox

    columns: list[list[Any]] = []
    for box in sorted(boxes, key=lambda box: box.x0):
        if columns and box.x0 < max(other.x1 for other in columns[-1]):
            columns[-1].append(box)
        else:
            columns.append([box])
    return [Bbox.union(column) for column in columns]
