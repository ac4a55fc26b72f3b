"""One self-contained HTML page: its style and its pictures are inside, nothing is loaded from anywhere."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

from farkas_exp.report import style

_CSS = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
figure, details { margin: 1.5rem 0; overflow-x: auto; } figcaption, summary { font-weight: 600; margin-bottom: .5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
th + th, td + td { white-space: nowrap; }
thead th { border-top: 2px solid #222; border-bottom: 1px solid #222; }
tbody tr:last-child td { border-bottom: 2px solid #222; }
tbody tr:nth-child(even) { background: #f6f6f6; }
small, .notes { color: #555; } .notes p { margin: .25rem 0; font-size: .85rem; }
img { max-width: 100%; height: auto; }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818; } tbody tr:nth-child(even) { background: #222; }
  small, .notes { color: #aaa; }
  thead th { border-color: #ddd; } tbody tr:last-child td { border-color: #ddd; } img { background: white; }
}
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A page of HTML fragments."""
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_CSS}</style></head>\n'
        f"<body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def picture(figure: Any, description: str) -> str:
    """A figure as an embedded PNG."""
    buffer = io.BytesIO()
    with style.styled():
        figure.savefig(buffer, format="png", dpi=130)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<figure><img alt="{html.escape(description)}" src="data:image/png;base64,{data}"></figure>'


def heading(text: str) -> str:
    """A section heading."""
    return f"<h2>{html.escape(text)}</h2>"
