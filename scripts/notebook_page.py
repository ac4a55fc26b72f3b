"""A hook of MkDocs: the notebook as a page of the site, with its code as text."""

import json
from pathlib import Path
from typing import Any

NOTEBOOK = "first_figure.ipynb"


def page(text: str) -> str:
    """The cells of a notebook as Markdown."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(source if kind == "markdown" else f"```python\n{source}\n```" for kind, source in cells) + "\n"


def on_files(files: Any, config: dict) -> Any:
    """Add the page; the notebook itself stays a file beside it."""
    from mkdocs.structure.files import File  # type: ignore[import-not-found]

    text = (Path(config["docs_dir"]) / "docs" / NOTEBOOK).read_text()
    files.append(File.generated(config, f"docs/{Path(NOTEBOOK).stem}.md", content=page(text)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let the links to the notebook lead to the page."""
    return markdown.replace(f"{NOTEBOOK})", f"{Path(NOTEBOOK).stem}.md)")
