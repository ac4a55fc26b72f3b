"""The commands and the Python of the documentation: each composes or parses, and what is short is run."""

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from farkas_exp.__main__ import COMMANDS
from farkas_exp.config import arms
from farkas_exp.config.store import config_dir, tell_hydra
from farkas_exp.config.texts import keep_texts
from farkas_exp.launch.arguments import checked
from farkas_exp.launch.cli import main
from farkas_exp.launch.composition import Compositions
from farkas_exp.launch.grid import combinations
from farkas_exp.launch.planned import Planned
from farkas_exp.registry import EXPERIMENTS
from farkas_exp.report import command as report
from farkas_exp.runs import best, status
from tests.paths import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "results/README.md")] + sorted(ROOT.glob("docs/*.md"))
PROGRAMS = ("python", "make", "torchrun", "srun", "farkas-exp", "farkas-status", "farkas-report", "pip", "wandb")
ELSEWHERE = ("pip", "wandb")
"""Programs of others, which no test starts."""


def blocks(page):
    """The fenced blocks of a page: language and text."""
    for match in re.finditer(r"^ *```(\w*)\n(.*?)^ *```$", page.read_text(), flags=re.M | re.S):
        yield match[1], match[2]


def command_lines(text):
    """The lines of a block that start a program, continued lines joined."""
    lines = re.sub(r"^\$ ", "", re.sub(r"\\\n\s*", "", text), flags=re.M).splitlines()
    return [line.strip() for line in lines if line.split() and line.split()[0] in PROGRAMS]


COMMAND_LINES = [
    (page.name, line)
    for page in PAGES
    for kind, text in blocks(page)
    if kind != "python"
    for line in command_lines(text)
]
SHORT = [line for _, line in COMMAND_LINES if re.search(r"# seconds\b", line)]


def test_the_documentation_has_commands():
    assert len(COMMAND_LINES) > 50
    assert len(SHORT) > 2
    everything = [line for kind, text in blocks(ROOT / "README.md") if kind != "python" for line in text.splitlines()]
    assert sorted(line for line in everything if line.split() and line.split()[0] not in PROGRAMS) == []


@pytest.mark.parametrize(("page", "line"), COMMAND_LINES, ids=lambda value: value[:60])
def test_every_command_is_one_that_there_is(page, line, capsys):
    words = words_of(line)
    modules = [
        words[index + 1] for index, word in enumerate(words[:-1]) if word == "-m" and "farkas_exp" in words[index + 1]
    ]
    if words[0] == "farkas-exp":
        check_own(words[1:], capsys)
    elif words[0].startswith("farkas-"):
        check_module(f"farkas_exp.{words[0].removeprefix('farkas-')}", words[1:], capsys)
    elif modules:
        check_module(modules[0], words[words.index(modules[0]) + 1 :], capsys)
    elif words[0] == "make":
        check_target(*words[1:])
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    else:
        assert words[0] in ELSEWHERE


def words_of(line):
    """The words of a command up to the next one; what is left out (`...`) is left out."""
    words = shlex.split(line, comments=True)
    end = next((index for index, word in enumerate(words) if word in ("&", "|", "&&", ">")), len(words))
    return [word for word in words[:end] if word != "..."]


def check_module(module, words, capsys):
    if module == "farkas_exp":
        check_own(words, capsys)
    elif module == "farkas_exp.report":
        report.parse_request(words)
    elif module == "farkas_exp.status":
        status.parse_request(words)
    else:
        assert module == "farkas_exp.best"
        best.read_words(words, {"runs_dir": Path, "top": best._top})


def check_own(words, capsys):
    """A command on runs gets as far as to the runs, which are not there; any other composes."""
    if words and words[0] in COMMANDS:
        there = [re.sub(r"^RUN$|^(?=runs/)|(?<=^runs_dir=)", "/nowhere/", word) for word in words[1:]]
        if words[0] == "prune" and not any(word.startswith("runs_dir=") for word in there):
            there.append("runs_dir=/nowhere")
        assert importlib.import_module(COMMANDS[words[0]]).main(there) == 2
        assert re.search(r"/nowhere\S*: no such folder|runs_dir: no folder /nowhere", capsys.readouterr().err)
    elif "--help" not in words:
        check_composition([word for word in words if word not in ("-m", "--check-data")])


def check_composition(words):
    """The first and the last run of the command are composed and checked."""
    tell_hydra(Path(config_dir()), words)
    given = checked(keep_texts(words))
    whole = [word for word in given if word.startswith(("experiment=", "hydra"))]
    searched = [word for word in given if not word.startswith("hydra") and "interval(" not in word]
    with initialize_config_dir(config_dir(), version_base="1.3"):
        master = compose("config", whole, return_hydra_config=True)
        loader = GlobalHydra.instance().config_loader()
        params = dict(master.hydra.sweeper.get("params") or {}) if any("experiment=" in word for word in whole) else {}
        found = combinations(params, searched, loader)
        for combination in (found[0], found[-1]):
            Planned.of(Compositions(loader, master).values(combination))
    arms.offer({})


def check_target(target, *words):
    targets = re.findall(r"^\.PHONY: (\S+)", (ROOT / "Makefile").read_text(), flags=re.M)
    arguments = [
        part for word in words if word.startswith("ARGS=") for part in shlex.split(word[5:]) if "..." not in part
    ]
    if target not in targets:
        experiment = EXPERIMENTS[target.replace("-", "_")].name
        check_composition([f"experiment={experiment}", *arguments])


PYTHON = [(page.name, text) for page in PAGES for kind, text in blocks(page) if kind == "python"]


@pytest.mark.parametrize(("page", "text"), PYTHON, ids=lambda value: value[:30])
def test_all_python_compiles_and_imports_what_there_is(page, text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "farkas_exp":
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names)


def python_of(page, opening):
    (text,) = (text for name, text in PYTHON if name == page and opening in text)
    return text


def test_the_layers_of_the_readme_work():
    exec(python_of("README.md", "FarkasConv2d"), {})


def test_the_trained_network_of_the_readme_works(tmp_path, monkeypatch):
    from PIL import Image

    from farkas_exp.runs import open_run
    from farkas_exp.training.session import train
    from tests.configs import config

    monkeypatch.chdir(tmp_path)
    made = config("runs", epochs=1, model={"name": "farkasnet34"})
    with open_run(made).locked() as run:
        train(made, run)
    for part in ("train", "test"):
        for number in range(10):
            folder = tmp_path / "photographs" / part / str(number)
            folder.mkdir(parents=True)
            Image.new("L", (8, 8), 20 * number).save(folder / "0.png")
    (tmp_path / "seven.png").write_bytes((tmp_path / "photographs" / "test" / "7" / "0.png").read_bytes())
    text, count = re.subn(r'load\("runs/[^"]*"\)', f'load("{run.path}")', python_of("README.md", "run.evaluate"))
    assert count == 1
    exec(text.replace('"onnx"', '"torchscript"'), {})
    assert (run.path / "network.ts").exists()


def test_the_notebook_goes_from_a_run_to_figures(tmp_path, monkeypatch):
    """Its cells in their order; the commands in this process, with the names in braces as Jupyter fills them in."""
    importlib.import_module("matplotlib").use("agg")
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in json.loads((ROOT / "docs" / "first_figure.ipynb").read_text())["cells"]:
        text = "".join(cell["source"])
        start, own, command = text.partition("!{sys.executable} -m farkas_exp ")
        if own:
            words = shlex.split(eval(f"f{command!r}", names))
            other = importlib.import_module(COMMANDS[words[0]]).main if words[0] in COMMANDS else None
            assert (start, other(words[1:]) if other else main(words)) == ("", 0)
        elif cell["cell_type"] == "code":
            exec(text, names)
        assert not cell.get("outputs")
    names["plt"].close("all")
    assert {path.name for path in tmp_path.rglob("*.p[dn][fg]")} == {"curves.pdf", "compare.png", "activity.pdf"}
    assert names["run"].result["test_error"] < 60
    assert names["certificates"].active


@pytest.mark.slow
@pytest.mark.parametrize("line", SHORT)
def test_a_command_of_seconds_runs(line, tmp_path):
    words = words_of(line)
    words = [sys.executable, *words[1:]] if words[0] == "python" else [sys.executable, "-m", "farkas_exp", *words[1:]]
    subprocess.run([*words, *(["wandb.mode=disabled"] if "epochs" in line else [])], cwd=tmp_path, check=True)
