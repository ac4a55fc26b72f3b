"""A headless browser, for tests of pages; those are skipped without one."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

_LOOK = """
const inside = document.querySelector('iframe').contentDocument, page = inside.documentElement;
for (const each of inside.querySelectorAll('details')) each.open = true;
const scrolls = each => each.closest('.scroll') !== null;
const wide = [...inside.body.querySelectorAll('*')].filter(
  each => !scrolls(each) && each.getBoundingClientRect().right > page.clientWidth + 1);
const visible = [...inside.querySelectorAll('img')].filter(each => each.offsetWidth > 0);
const numbers = [...inside.querySelectorAll('td + td')].filter(each => {
  const range = inside.createRange(); range.selectNodeContents(each);
  const tops = new Set([...range.getClientRects()].map(rect => Math.round(rect.top / 8)));
  return tops.size > 2 * (1 + each.querySelectorAll('br').length); });
document.title = JSON.stringify({
  overflow: page.scrollWidth - page.clientWidth, wide: wide.map(each => each.outerHTML.slice(0, 80)),
  pictures: visible.map(each => [each.className, Math.round(each.getBoundingClientRect().top)]),
  broken: numbers.map(each => each.textContent) });
"""


def look_at(page: Path, width: int, folder: Path) -> dict:
    """What a browser makes of a page in a window of this width, with all that is folded opened; and a screenshot."""
    if BROWSER is None:
        pytest.skip("needs Chromium")
    wrapper = folder / f"{width}.html"
    inner = html.escape(page.read_text(), quote=True)
    wrapper.write_text(
        f'<body style="margin:0"><iframe srcdoc="{inner}" style="border:0;width:{width}px;height:7000px"></iframe>'
        f"<script>window.onload = () => {{ {_LOOK} }}</script></body>"
    )
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        "--hide-scrollbars",
    ]
    shot = [f"--screenshot={folder / f'{width}.png'}", f"--window-size={max(width, 500)},7000"]
    done = [
        subprocess.run(
            [BROWSER, *options, *more, wrapper.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        for more in (["--dump-dom"], shot)
    ]
    (found,) = re.findall(r"<title>(.*?)</title>", done[0].stdout.split("</iframe>")[0].split("<iframe")[0], flags=re.S)
    return json.loads(html.unescape(found))
