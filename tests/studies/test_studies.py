"""The studies: each experiment is registered, ends in a table of its own, and is in the lists that people read."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import farkas_exp
from farkas_exp.registry import EXPERIMENTS, REPORTS
from farkas_exp.report.command import render_experiment
from farkas_exp.runs import FINISHED
from farkas_exp.studies.__main__ import commands, listing, main, markdown
from tests.made_runs import make_run, settings
from tests.paths import ROOT

FILES = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
PACKAGE = Path(farkas_exp.__file__).parent


def test_every_experiment_is_registered_and_nothing_else_is() -> None:
    assert sorted(EXPERIMENTS) == FILES


@pytest.mark.parametrize("name", FILES)
def test_every_experiment_ends_in_a_table_of_its_own(name: str) -> None:
    report = REPORTS[str(EXPERIMENTS[name].source)]
    assert report.name not in ("arms", "landscape")
    assert callable(report.build)
    assert callable(report.imported(report.shared))
    config = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text()
    assert config.startswith("# @package _global_\n#")


def test_the_lists_that_people_read_are_those_of_the_registry() -> None:
    assert markdown() in (ROOT / "docs" / "experiments.md").read_text()
    for name in EXPERIMENTS:
        assert re.search(rf"^  {name.replace('_', '-')} +\S", listing(), flags=re.M)


def test_the_core_and_the_report_import_no_study() -> None:
    for path in PACKAGE.rglob("*.py"):
        if "studies" not in path.parts:
            imports = [line for line in path.read_text().splitlines() if re.match(r"\s*(from|import)\s.*studies", line)]
            assert not imports, (path, imports)


def test_composing_a_configuration_imports_no_table() -> None:
    code = (
        "import sys, farkas_exp.launch.cli, farkas_exp.studies.catalogue, farkas_exp.registry as r\n"
        "list(r.EXPERIMENTS)\n"
        "print([m for m in sys.modules if m.startswith(('farkas_exp.report', 'torch', 'matplotlib'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_an_experiment_of_several_stages_gives_all_commands() -> None:
    first, second, third = commands("without-normalization", ["seed=0"])
    assert first[3:] == ["experiment=without_normalization", "seed=0"]
    assert second[3:] == ["experiment=without_normalization_extended", "seed=0"]
    assert third[3:] == ["experiment=without_normalization_test", "seed=0"]
    assert main(["list"]) == 0


def test_the_small_experiments_begin_only_where_their_page_can_be_written(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["mini", "ntk_width", "runs_dir=/dev/null/x"]) == 2
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "error: /dev/null/x: Not a directory\n")


BY_HAND = {
    "local_minima_mlp": settings("mlp", init__name="bias_shift", init__bias=20.0),
    "local_minima_resnet": settings("resnet18", init__name="zero", optimizer__momentum=0.0),
    "norm_bias": settings("resnet18", regularizer__name="weight_decay", regularizer__strength=2.5e-4),
    "rank": settings("farkasnet18", callback__name="rank_max", callback__threshold=1.0),
    "sep_zero_init": settings("mlp", dataset__name="moons", init__name="zero", model__depth=10, model__width=25),
    "sep_cifar_depth": settings("rect_conv", model__depth=10, model__width=10, normalization__name="batch"),
    "sep_moons_table1": settings("farkas_mlp", dataset__name="moons", model__depth=50, model__width=4),
    "allconv_cifar10": settings("farkas_allconv_residual"),
    "lr_search": settings("farkasnet18", dataset__validation=0.1),
    "demo": settings("mlp", dataset__name="digits", init__name="kaiming", model__depth=20, model__width=16),
}
PAPERS = {
    "local_minima_mlp": "paper 31.204", "local_minima_resnet": "paper 2.30258", "norm_bias": "paper 5.94",
    "rank": "paper 5.34", "sep_cifar_depth": "paper 0.54", "sep_moons_table1": "paper 0.9882",
    "allconv_cifar10": "6.38", "demo": "plain, He initialization",
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_a_sweep_shows_its_runs_beside_the_papers_numbers(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {**BY_HAND[name], "epochs": 2}
    path = make_run(tmp_path, config, state=FINISHED, test_error=12.34)  # by hand: it names no experiment and no arm
    make_run(tmp_path, config, seed=1, test_error=12.34)
    render_experiment(name, tmp_path, [path])
    shown = capsys.readouterr().out
    assert PAPERS.get(name, "") in shown
    values = "0.877" if name.startswith("sep_") else "12.34"
    assert values in shown
