"""The commands and the Python of the documentation: each composes or parses, and what is short is run."""

import importlib
import importlib.util
import itertools
import json
import re
import shlex
import socket
import subprocess
import sys

import pytest
import yaml

from farkas_exp.__main__ import COMMANDS
from farkas_exp.config import arms
from farkas_exp.config.texts import keep_texts
from farkas_exp.launch.arguments import checked
from farkas_exp.launch.cli import main
from farkas_exp.launch.grid import combinations
from farkas_exp.launch.planned import planned
from farkas_exp.registry import EXPERIMENTS, NORMALIZATIONS
from farkas_exp.report import command as report
from farkas_exp.runs import best, status
from farkas_exp.runs.command import read_words
from tests.composing import of_experiment
from tests.paths import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
PAGES += sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("results/*.md")])
PROGRAMS = ("python", "make", "torchrun", "srun", "farkas-exp", "farkas-status", "farkas-report", "pip", "wandb")
ELSEWHERE = ("pip", "wandb")
"""Programs of others, which no test starts."""
KINDS = ("", "bash", "console", "python", "yaml", "text")
"""Commands alone, a script, commands with what they print, and what is none."""
COST = r"#.*\b(seconds?|minutes?|min|hours?|days?)\b"
NEEDS = r"wandb|pip |run=|torchrun|srun|slurm|DIR|dataset.root=|scripts/|gpu|figures$|^make \S+ ARGS"
"""What is needed beside this computer, or the cost of which the page says."""
SEEN_ELSEWHERE = r"farkas_exp.report (?!runs_dir)\w+|farkas_exp.best|watch=true"
"""Every report is rendered by the tests of its study, the others have tests of their own."""


def blocks(page):
    """The fenced blocks of a page: language and text."""
    for match in re.finditer(r"^ *```(\w*)\n(.*?)^ *```$", page.read_text(), flags=re.M | re.S):
        yield match[1], match[2]


def joined(text):
    """The lines of a block, continued ones as one."""
    return [line.strip() for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]


def starts_a_program(line):
    return line.split()[0] in PROGRAMS


def command_lines(kind, text):
    """The lines of a block that start a program."""
    lines = joined(text)
    if kind == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for line in lines if starts_a_program(line)] if kind in ("", "bash", "console") else []


def mentioned(page):
    """The commands with arguments in the sentences and tables of a page."""
    prose = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.M | re.S)
    words = "|".join(program for program in PROGRAMS if program not in ELSEWHERE)
    return [" ".join(found.split()) for found in re.findall(rf"`((?:{words}) [^`]+)`", prose)]


COMMAND_LINES = [
    (page.name, line) for page in PAGES for kind, text in blocks(page) for line in command_lines(kind, text)
]
MENTIONED = [(page, line) for line, page in {line: page.name for page in PAGES for line in mentioned(page)}.items()]
SHORT = [line for _, line in COMMAND_LINES if re.search(r"# seconds\b", line)]


def test_the_documentation_has_commands():
    assert len(COMMAND_LINES) > 50
    assert len(MENTIONED) > 50
    assert len(SHORT) > 2


def test_every_block_is_of_a_kind_that_a_test_knows():
    """A block without a language has commands alone; what a program prints is `text`, or `console` with its command."""
    unknown = []
    for page in PAGES:
        for kind, text in blocks(page):
            lines = joined(text)
            wrong = {
                "": [line for line in lines if not starts_a_program(line)],
                "text": [line for line in lines if re.match(r"\$ |python |make [a-z]|farkas-\w+ ", line)],
                "console": [lines[0]] * (not lines[0].startswith("$ ")),
            }
            unknown += [(page.name, kind, lines[0])] * (kind not in KINDS)
            unknown += [(page.name, kind, line) for line in wrong.get(kind, [])]
        assert page.read_text().count("```") == 2 * len(list(blocks(page))), page.name
    assert unknown == []


def test_every_command_is_run_or_says_what_it_costs():
    run = {line for _, line in ON_RUNS}
    left = [
        (page, line)
        for page, line in COMMAND_LINES
        if not re.search(COST, line) and not re.search(NEEDS, line.partition(" #")[0].rstrip())
        if line not in run and not re.search(SEEN_ELSEWHERE, line) and page != "walkthrough.md"
    ]
    assert left == []


@pytest.mark.parametrize(("page", "line"), COMMAND_LINES + MENTIONED, ids=lambda value: value[:60])
def test_every_command_is_one_that_there_is(page, line, capsys):
    words = words_of(line)
    started = [word for option, word in itertools.pairwise(words) if option == "-m" and "=" not in word]
    modules = [word for word in started if word.startswith(("farkas_exp", "benchmarks"))]
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
    else:  # of torchrun only its options are mentioned
        assert words[0] in ELSEWHERE or words[1].startswith("--nproc-per-node=")


@pytest.mark.filterwarnings("default")
def test_wandb_takes_what_it_is_asked_to_upload(tmp_path):
    from click.testing import CliRunner
    from wandb.cli.cli import cli

    readme, tracking = ROOT / "README.md", ROOT / "docs" / "tracking.md"
    found = [line for page in (readme, tracking) for line in re.findall(r"\bwandb (sync \S[^`#\n]*)", page.read_text())]
    assert len(found) == 2
    for line in found:
        words = [str(tmp_path) if word.startswith("runs/") else word for word in shlex.split(line)]
        done = CliRunner().invoke(cli, [*words, "--dry-run"])
        assert done.exit_code == 0, done.output


def words_of(line):
    """The words of a command up to the next one; what is left out (`...`) is left out."""
    words = shlex.split(line, comments=True)
    end = next((index for index, word in enumerate(words) if word in ("&", "|", "&&", ">")), len(words))
    return [word for word in words[:end] if word != "..."]


def check_module(module, words, capsys):
    if module == "farkas_exp":
        check_own(words, capsys)
    elif module == "farkas_exp.studies" or module.startswith("benchmarks.") or "--help" in words:
        assert importlib.util.find_spec(module)
    elif module == "farkas_exp.report":
        report.parse_request(words)
    else:
        read_words(words, {"farkas_exp.status": status, "farkas_exp.best": best}[module].WORDS)


def check_own(words, capsys):
    """A command on runs gets as far as to the runs, which are not there; any other composes."""
    if words and words[0] in COMMANDS:
        there = [re.sub(r"^RUN$|^(?=runs/)|(?<=^runs_dir=)", "/nowhere/", word) for word in words[1:]]
        if words[0] == "prune" and not any(word.startswith("runs_dir=") for word in there):
            there.append("runs_dir=/nowhere")
        assert importlib.import_module(COMMANDS[words[0]]).main(there) == 2
        assert re.search(r"/nowhere\S*: no such folder|runs_dir: no folder /nowhere", capsys.readouterr().err)
    elif "--help" not in words and "-sc" not in words:  # the completion has a test of its own
        check_composition([word for word in words if word not in ("-m", "--check-data")])


def check_composition(words):
    """The first and the last run of the command are composed and checked."""
    given = checked(keep_texts(words))
    experiment = next((word.partition("=")[2] for word in given if word.startswith("experiment=")), "")
    compositions, master = of_experiment(experiment, *(word for word in given if word.startswith("hydra")))
    params = master.hydra.sweeper.get("params") if experiment else None
    searched = [word for word in given if not word.startswith("hydra") and "interval(" not in word]
    found = combinations(params, searched, compositions._loader)
    for combination in {found[0], found[-1]}:
        planned(compositions.values(combination))


def check_target(target, *words):
    targets = re.findall(r"^\.PHONY: (\S+)", (ROOT / "Makefile").read_text(), flags=re.M)
    arguments = [
        part for word in words if word.startswith("ARGS=") for part in shlex.split(word[5:]) if "..." not in part
    ]
    if target not in targets:
        experiment = EXPERIMENTS[target.replace("-", "_")].name
        if arguments:
            check_composition([f"experiment={experiment}", *arguments])


PYTHON = [(page.name, text) for page in PAGES for kind, text in blocks(page) if kind == "python"]


def made_run(folder):
    """A short run below `folder`/runs, and pictures of its ten classes beside it."""
    from PIL import Image

    from farkas_exp.runs import open_run
    from farkas_exp.training.session import train
    from tests.configs import config

    made = config("runs", epochs=1, model={"name": "farkasnet34"})
    with open_run(made).locked() as run:
        train(made, run)
    for part in ("train", "test"):
        for number in range(10):
            place = folder / "photographs" / part / str(number)
            place.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 20 * number).save(place / "0.png")
    Image.new("L", (8, 8), 140).save(folder / "seven.png")
    return run.path


def with_a_run(text, folder):
    text, count = re.subn(r'load\("runs/[^"]*"\)', f'load("{made_run(folder)}")', text)
    assert count == 1
    return text.replace('"onnx"', '"torchscript"'), {}


def with_declarations(text, folder):
    from farkas_exp.config import option, outside
    from farkas_exp.registry import OPTIMIZERS

    return text, {"option": option, "outside": outside, "OPTIMIZERS": OPTIMIZERS}


PREPARED = {
    "FarkasConv2d(3, 16": lambda text, folder: (text, {}),
    "run.evaluate()": with_a_run,
    "plain = torch.nn.Sequential": with_a_run,
    "NORMALIZATIONS.register": lambda text, folder: (text, {}),
    "option(0.9": with_declarations,
}
"""How a block of Python is made ready to be run, by some words of it."""


@pytest.mark.parametrize(("page", "text"), PYTHON, ids=lambda value: value[:30])
def test_all_python_runs(page, text, tmp_path, monkeypatch):
    (prepared,) = (prepared for words, prepared in PREPARED.items() if words in text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(NORMALIZATIONS, "_entries", {name: NORMALIZATIONS[name] for name in NORMALIZATIONS})
    exec(*prepared(text, tmp_path))


YAML = [(page.name, text) for page in PAGES for kind, text in blocks(page) if kind == "yaml"]


@pytest.mark.parametrize(("page", "text"), YAML, ids=lambda value: value[:30])
def test_all_yaml_is_taken(page, text, tmp_path):
    values = yaml.safe_load(text)
    if "arms" in values:
        (tmp_path / "experiment").mkdir()
        (tmp_path / "experiment" / "made.yaml").write_text(text)
        for arm in arms.arms_of("made", [tmp_path]).values():
            check_composition([f"{key}={value}" for key, value in (arm.choices | arm.values).items()])
    else:
        assert values.pop("defaults") == ["slurm"]
        known = yaml.safe_load((ROOT / "conf" / "hydra" / "launcher" / "slurm.yaml").read_text())
        assert sorted(values.keys() - known.keys()) == []


def run_here(line, capfd):
    """The lines that a command prints, run in this process."""
    words = words_of(line)
    words = [f"farkas-{words[2].partition('.')[2] or 'exp'}", *words[3:]] if words[0] == "python" else words
    own = {"farkas-status": status.main, "farkas-report": report.main}.get(words[0], main)
    if words[1:] and words[1] in COMMANDS:
        own = importlib.import_module(COMMANDS[words.pop(1)]).main
    capfd.readouterr()
    assert own(words[1:]) == 0, line
    return capfd.readouterr().out.splitlines()


def alike(lines):
    """Lines without their numbers, widths and what belongs to the computer."""
    lines = [line.replace(socket.gethostname(), "vm") for line in lines if line.strip() and "kernels" not in line]
    return [" ".join(re.sub(r"\d[\d,.:]*", "#", re.sub("─+", "─", line)).split()) for line in lines]


ON_RUNS = [
    (page, line)
    for page, line in COMMAND_LINES
    if re.match(rf"farkas-exp ({'|'.join(COMMANDS)}) |python -m farkas_exp\.(status|report) runs_dir=runs", line)
    and page != "walkthrough.md"
    and "watch=true" not in line
]


@pytest.mark.slow
def test_the_walkthrough_prints_what_it_says_and_its_runs_serve_the_other_pages(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for kind, text in blocks(ROOT / "docs" / "walkthrough.md"):
        if kind == "console":
            line, *expected = text.removeprefix("$ ").splitlines()
            assert alike(run_here(line, capfd)) == alike(expected), line
    run = str(made_run(tmp_path))
    for _, line in ON_RUNS:
        assert run_here(re.sub(r"\bRUN\b", run, line).replace("onnx", "torchscript"), capfd), line


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
