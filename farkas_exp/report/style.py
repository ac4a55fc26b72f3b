"""One style for all figures, with Okabe and Ito's colours, which people with any colour vision can distinguish.

Colour shows the kind of network, the line the normalization, as in the paper: solid with batch norm, dotted without.
Figures are made without pyplot, so they change nothing global and need no display.
"""

import io
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from farkas_exp.machine.terminal import printable

COLORS = {
    "black": "#000000", "orange": "#E69F00", "sky": "#56B4E9", "green": "#009E73", "yellow": "#F0E442",
    "blue": "#0072B2", "vermilion": "#D55E00", "purple": "#CC79A7", "grey": "#767676",
}  # fmt: skip
"""Okabe and Ito 2008 ("Color Universal Design"), and a grey for what is only context."""

KIND_COLORS = {"plain": COLORS["vermilion"], "farkas": COLORS["blue"], "fixup": COLORS["green"]}
SPARE_COLORS = tuple(COLORS[name] for name in ("orange", "sky", "purple", "black", "green", "grey", "yellow"))
LINES = {"batch": "-", "none": ":", "layer": "--", "group": "-.", "instance": (0, (5, 1, 1, 1, 1, 1))}
DPI = 160
"""Pixels an inch of a picture."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")

_RC: Mapping[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,
}
BAND_ALPHA = 0.18


@contextmanager
def styled() -> Iterator[None]:
    """The style, for figures made within the block."""
    import matplotlib

    values: Any = {**matplotlib.rcParamsDefault, "backend": matplotlib.rcParams["backend"], **_RC}
    with matplotlib.rc_context(values), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # a label may be in any script
        yield


def text(label: str) -> str:
    """A foreign label for matplotlib: no formula, no line break, and not hidden from the legend."""
    shown = printable(label).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Any]:
    """An empty figure of `width` × `height` inches to be drawn on within the block; its parts do not overlap."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)  # whatever the backend of the environment
        yield figure


def looks(colors: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The line and the color of one curve after the other: each color drawn through, then dashed, then dotted."""
    return itertools.cycle(itertools.product(("-", "--", ":"), dict.fromkeys(colors)))


def legend_below(figure: Any, handles: Sequence[Any], labels: Sequence[str], columns: int, **options: Any) -> None:
    """A legend below the panels, in as many columns as fit beside each other; for fewer of them the figure grows."""
    renderer, before = figure.canvas.get_renderer(), 0.0
    for count in range(columns, 0, -1):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=count, **options)
        box = legend.get_window_extent(renderer)
        before = before or box.height
        if box.width <= figure.bbox.width or count == 1:
            figure.set_figheight(figure.get_figheight() + (box.height - before) / figure.dpi)
            return
        legend.remove()


def drawn(figure: Any, kind: str) -> bytes:
    """The figure as a file of `kind`, png or pdf; the same figure gives the same bytes."""
    metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
    file = io.BytesIO()
    with styled():
        figure.savefig(file, format=kind, dpi=DPI, metadata=metadata)
    return file.getvalue()
