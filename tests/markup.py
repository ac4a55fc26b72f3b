"""Checks of LaTeX and HTML."""

import re


def check_latex(text: str) -> None:
    """Braces and environments are balanced, special characters escaped, and rows as long as the columns say."""
    plain = re.sub(r"(?m)^%.*\n", "", text).replace(r"\{", "").replace(r"\}", "")
    depth = 0
    for character in plain:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    assert plain.replace(r"\$", "").count("$") % 2 == 0
    assert re.findall(r"\\begin{(\w+)}", plain) == re.findall(r"\\end{(\w+)}", plain)[::-1]
    tables = re.findall(r"\\begin{tabular}{(l|p{.*?})?(r*)}(.*?)\\end{tabular}", plain, re.DOTALL)
    assert len(tables) == plain.count(r"\begin{tabular}")
    for first, columns, body in tables:
        rows = [line for line in body.splitlines() if line.rstrip().endswith(r"\\")]
        assert rows
        assert all(len(re.findall(r"(?<!\\)&", line)) == len(columns) - (not first) for line in rows)
    assert not re.search(r"(?<!\\)[#%_]", plain.replace(r"\_", ""))
    assert plain.isascii()


def check_html(text: str) -> None:
    """Nothing is loaded from anywhere, pictures are inside, and every opened element is closed."""
    from html.parser import HTMLParser

    class Balance(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "img", "br"):
                self.open.append(tag)
            for name, value in attrs:
                begin = "./" if name == "href" else "data:image/png;base64,"  # links to runs; pictures inside
                assert name not in ("href", "src") or str(value).startswith(begin)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    parser = Balance()
    parser.feed(text)
    assert not parser.open
    assert "://" not in text
    assert "<img" in text
