"""The HTML page: where it comes from, and how it looks on a phone, on a tablet, on a screen."""

import base64
import io
import re
import sys

import pytest
from PIL import Image

from farkas_exp.registry import REPORTS
from farkas_exp.report import page, style
from farkas_exp.report.render import show
from farkas_exp.runs import collect
from tests.browser import look_at
from tests.made_runs import make_run, settings
from tests.markup import check_html


@pytest.fixture
def runs_dir(tmp_path):
    for model in ("resnet18", "farkasnet18", "resnet34"):
        for seed in (0, 1):
            state = "failed" if model == "resnet34" else "finished"
            make_run(tmp_path / "runs", settings(model, epochs=20), seed=seed, state=state, reason="loss is not finite")
    return tmp_path / "runs"


def written(runs_dir, what):
    records = collect(runs_dir)
    (file,) = show(REPORTS[what].build(records), runs_dir / "report", ("html",), io.StringIO(), records=records)
    check_html(file.read_text())
    return file


def test_a_page_says_when_where_and_how_it_was_made_and_links_its_runs(runs_dir, monkeypatch):
    program = "/place/farkas_exp/report/__main__.py"
    monkeypatch.setattr(sys, "argv", [program, "arms", "runs_dir=my runs"])
    file = written(runs_dir, "arms")
    text = file.read_text()
    assert "<code>python -m farkas_exp.report arms &#x27;runs_dir=my runs&#x27;</code>" in text
    assert re.search(r"Made on \d{4}-\d\d-\d\d \d\d:\d\d \S+ on \S+ by", text)
    links = re.findall(r'href="([^"]+)"', text)
    assert len(links) == 6
    assert all((file.parent / link / "run.json").is_file() for link in links)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/farkas-report", "arms"])
    assert page.command_line() == "farkas-report arms"


def test_a_figure_of_one_column_is_one_picture_and_others_have_their_panels_too():
    for columns, pictures in ((1, 1), (3, 1 + 3 + 1)):
        with style.new_figure(9, 3) as figure:
            for axes in figure.subplots(1, columns, squeeze=False)[0]:
                axes.plot([1, 2], label="line")
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center")
        assert page.picture(figure, style.drawn(figure, "png"), "curves").count("<img") == pictures


def test_for_a_phone_a_legend_is_cut_by_columns_and_its_caption_is_text():
    with style.new_figure(9, 3) as figure:
        for axes in figure.subplots(1, 2):
            axes.plot([1, 2], label="one")
            axes.plot([2, 1], label="two")
        handles = axes.get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=2, title="a < b\n" + style.text("for 5 $"))
    drawn = page.picture(figure, style.drawn(figure, "png"), "curves")
    assert drawn.count("<img") == 1 + 2 + 2
    assert '<div class="notes"><p>a &lt; b</p><p>for 5 $</p></div>' in drawn


def test_the_page_shows_the_picture_that_is_written_and_draws_it_once(runs_dir, monkeypatch):
    drawn = []
    draw = style.drawn
    monkeypatch.setattr(style, "drawn", lambda figure, kind: drawn.append(kind) or draw(figure, kind))
    report = REPORTS["table1"].build(collect(runs_dir))
    *_, png, text = show(report, runs_dir / "report", ("png", "html"), io.StringIO())
    assert drawn == ["png"] * len(report.figures)
    content = base64.b64encode(png.read_bytes()).decode()
    assert f'base64,{content}"' in text.read_text()
    with Image.open(png) as picture:
        assert f'width="{round(picture.width / 160 * 130)}"' in text.read_text(), "130 pixels an inch on the page"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["arms", "table1"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_but_a_table_is_wider_than_the_window_and_no_number_breaks(runs_dir, tmp_path, width, what):
    found = look_at(written(runs_dir, what), width, tmp_path)
    assert found["overflow"] <= 0
    assert found["wide"] == []
    assert found["broken"] == []
    kinds = [kind for kind, _ in found["pictures"]]
    assert set(kinds) == ({"panel"} if width < 720 else {"whole"})
    tops = [top for _, top in found["pictures"]]
    assert tops == sorted(set(tops))  # one below the other
