"""Every experiment composes, opens with what it is, and is narrowed, trained, rendered and skipped as it says."""

import itertools
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from farkas_exp import runs
from farkas_exp.config.store import choice_of, config_dir
from farkas_exp.launch import grid
from farkas_exp.launch.cli import main
from farkas_exp.machine.errors import UserError
from farkas_exp.registry import DATASETS, EXPERIMENTS, NETWORKS
from farkas_exp.runs import collect
from tests.composing import arm, composed, jobs, of_experiment, own_arms, sweep_of

FILES = {path.stem: path for path in sorted(Path(config_dir()).glob("experiment/*.yaml"))}
EVERY = {path.stem for path in Path(config_dir()).glob("dataset/*.yaml")}
POINTS, STREAMED = {"moons"}, {"imagenet", "tiny_imagenet", "streamed_folder"}


EACH_KIND = {"demo", "initializations", "ntk_resnet", "sep_zero_init", "table1_controls", "table1_small_images",
             "table3", "without_normalization_extended"}  # fmt: skip
"""Experiments whose files differ in kind: with arms, inherited once and twice, with phases, searches, resolvers."""


def root_of(name: str) -> list[str]:
    """A folder for a data set of files; others refuse one."""
    return ["dataset.root=x"] if "root" in DATASETS[name].options else []


@pytest.mark.parametrize("datasets", ["one", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("experiment", FILES)
def test_an_experiment_has_its_runs_and_composes_as_hydra_does_with_every_dataset_that_fits_it(
    experiment: str, datasets: str
) -> None:
    """Points are for networks without convolutions, phases for streamed images; everything else fits everything."""
    said = EXPERIMENTS[experiment].runs.removeprefix("up to ")
    assert said == str(number_of_runs(experiment))
    assert re.search(rf"^# +Runs: .*\b{said}\b", FILES[experiment].read_text(), flags=re.M)
    compositions, master = of_experiment(experiment)
    rate = ["lr.value=0.03"] if experiment.endswith(("_test", "_extended")) else []  # in place of a search
    root = root_of(master.dataset.name)
    fixed = [f"experiment={experiment}", "seed=0", *root, *rate]
    *_, last = grid.combinations(master.hydra.sweeper.params, fixed, compositions._loader)
    plain = compositions.plain_values(last)
    assert plain is not None, "left to Hydra, at a quarter of a second for each run"
    if datasets == "all" or experiment in EACH_KIND:
        assert plain == compositions.by_hydra(last)
    sweep = {key: value.split(",")[0] for key, value in sweep_of(experiment).items() if key not in ("arm", "seed")}
    given = [f"{key}={value}" for key, value in sweep.items()] + [f"arm={arm}" for arm in own_arms(experiment)][:1]
    own = composed(f"experiment={experiment}", *given, *rate, *root)
    fitting = STREAMED if own.phases.schedule else EVERY - (POINTS if NETWORKS[own.model.name].spatial else set())
    another = sorted(fitting)[len(experiment) % len(fitting)]
    for dataset in fitting if datasets == "all" else {another}:
        folder = root_of(choice_of("dataset", dataset)["name"])
        assert composed(f"experiment={experiment}", *given, *rate, f"dataset={dataset}", *folder) is not None


def number_of_runs(experiment: str) -> int:
    """The combinations of an experiment's sweep whose arm is for their network; one that an arm sets itself fits."""
    compositions, master = of_experiment(experiment)
    combinations = grid.combinations(master.hydra.sweeper.params, [], compositions._loader)
    given = [dict(word.split("=", 1) for word in combination) for combination in combinations]
    patterns = {name: each.only_for or ("*",) for name, each in own_arms(experiment).items()}
    fits = [patterns.get(each.get("arm", ""), ("*",)) for each in given]
    return sum(
        "model" not in each or any(fnmatchcase(each["model"], pattern) for pattern in own)
        for each, own in zip(given, fits, strict=True)
    )


def test_phases_go_before_a_datasets_default_size_and_not_before_the_users() -> None:
    given = ("experiment=table3_mini", "dataset=tiny_imagenet", "dataset.root=x", "model=resnet50_imagenet")
    made, plain = composed(*given), composed(*given[1:], "phases=none")
    assert (made.dataset.image_size, plain.dataset.image_size) == (None, 64)
    with pytest.raises(UserError, match=r"^dataset.image_size: 64 does nothing here; it needs phases=none"):
        composed(*given, "dataset.image_size=64")


def test_an_override_narrows_an_experiment() -> None:
    pair = jobs("table1", "seed=0", "model=resnet18,farkasnet18")
    assert {(job.seed, job.model.name) for job in pair} == {(0, "resnet18"), (0, "farkasnet18")}
    short = jobs("table1", "epochs=20", "dataset=digits", "model=resnet18")
    assert {(job.epochs, job.dataset.name, job.augmentation.flip) for job in short} == {(20, "digits", False)}
    assert len(short) == 6
    assert {arm(job)[4] for job in jobs("table1_controls", "arm=he_last_sixth", "model=resnet18")} == {"kaiming"}
    assert [arm(job) for job in jobs("table4", "model=fixup34", "seed=0")] == [
        ("fixup34", "none", 0.01, None, "pytorch")
    ], "an arm that brings its network passes over another one"


def test_deep_and_narrow_is_five_kinds_over_a_grid() -> None:
    sweep = sweep_of("deep_narrow")
    depths, widths = (list(map(int, str(sweep[f"model.{key}"]).split(","))) for key in ("depth", "width"))
    assert (min(depths), max(depths), min(widths), max(widths)) == (2, 60, 2, 16)
    made = jobs("deep_narrow", "model.depth=2,60", "model.width=8")
    kinds = {(*arm(job)[:2], *arm(job)[3:5], job.activation.name) for job in made}
    assert kinds == {
        ("mlp", "none", None, "pytorch", "relu"),
        ("mlp", "batch", None, "pytorch", "relu"),
        ("mlp", "none", None, "orthogonal", "tailored"),
        ("farkas_mlp", "none", "sum", "pytorch", "relu"),
        ("farkas_mlp", "none", "mean", "pytorch", "relu"),
    }
    assert len(made) == 5 * 2 * 2
    assert {(job.model.depth, job.model.width) for job in made} == {(2, 8), (60, 8)}
    assert {(job.dataset.name, job.augmentation.cutout) for job in made} == {("moons", 0)}


@pytest.mark.parametrize(
    "name",
    [
        "table1", "table2", "table3", "table3_mini", "table4", "table1_controls", "table4_controls", "table1_mini",
        "table1_mini_cifar10", "table1_small_images", "figure5", "fixup_rates", "deep_narrow", "without_normalization",
        "transformers",
    ],
)  # fmt: skip
def test_an_experiment_opens_with_what_it_is_its_cost_and_its_command(name: str) -> None:
    path = Path(config_dir()) / "experiment" / f"{name}.yaml"
    lines = path.read_text().splitlines()
    comment = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    assert lines[0] == "# @package _global_"
    assert f"experiment={path.stem}" in comment
    assert "#   Cost:" in comment
    assert f"(or: make {name.replace('_', '-')})" in comment
    assert f"experiment: {path.stem}" in lines


TINY = ["dataset=digits", "dataset.train_limit=100", "batch_size=50", "epochs=1", "seed=0"]


def run_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str], cells: int, *arguments: str) -> str:
    command = ["experiment=table1", *TINY, f"runs_dir={tmp_path}", "wandb.mode=disabled", "progress=none", *arguments]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert f"{cells} runs in" in first
    assert f"{cells} finished" in first
    assert main(command) == 0
    second = capsys.readouterr().out
    assert f"{cells} skipped" in second
    assert {record.state for record in collect(tmp_path)} == {runs.FINISHED}
    return first


def test_a_narrowed_table_trains_is_rendered_with_what_was_narrowed_and_is_then_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run_twice(tmp_path, capsys, 4, "model=resnet18,farkasnet18")
    assert "Table 1: percent misclassification on CIFAR-10" in shown
    assert "epochs 1 (paper: 200)" in shown
    assert "dataset digits (paper: cifar10)" in shown
    assert "12 of 16 cells have none" in shown
    rendered = (tmp_path / "report" / "table1.md").read_text()
    for error in (record.result["test_error"] for record in collect(tmp_path) if record.result):
        assert f"{error:.2f} (1)" in rendered
    assert {path.suffix for path in (tmp_path / "report").iterdir()} == {".md", ".csv", ".tex", ".html", ".png"}


@pytest.mark.usefixtures("in_words")
def test_an_arm_that_is_not_for_a_network_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["experiment=table1_controls", *TINY, f"runs_dir={tmp_path}", "wandb.mode=disabled", "progress=none"]
    assert main([*command, "model=resnet18,farkasnet18", "arm=mean_small"]) == 0
    shown = capsys.readouterr().out
    assert "passed over: resnet18 (this arm is for farkasnet*)" in shown
    assert "1 run in" in shown
    assert [record.config["model"]["name"] for record in collect(tmp_path)] == ["farkasnet18"]
    assert "Other arms" not in shown, "without a run in a cell of the table there is no setting to stand beside"


@pytest.mark.slow
def test_the_whole_of_table_1_runs_on_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_twice(tmp_path, capsys, 16)
    rendered = (tmp_path / "report" / "table1.md").read_text()
    assert "missing" not in rendered
