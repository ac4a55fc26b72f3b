"""The parts that all figures share."""

import pytest

from farkas_exp.report import style


@pytest.mark.parametrize(("label", "columns"), [("short", 2), ("aggregation.margin 0.001, init.last_scale 0.1666", 1)])
def test_a_legend_has_the_columns_that_fit_and_the_figure_grows_for_it(label: str, columns: int) -> None:
    with style.new_figure(6, 4) as figure:
        axes = figure.subplots()
        lines = [axes.plot([1, 2])[0] for _ in range(6)]
        style.legend_below(figure, lines, [label] * 6, 2)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert len({round(text.get_window_extent().x0) for text in legend.get_texts()}) == columns
    rows = 6 // columns - 3
    assert figure.get_figheight() == pytest.approx(4 + 0.21 * rows, abs=0.05 * rows)
    assert axes.get_window_extent().height > 2 * figure.dpi
