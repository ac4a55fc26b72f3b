"""Every experiment composes, job by job, to what the paper says, value by value."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farkas_exp import runs
from farkas_exp.config import Config, OptimizerConfig, to_dict
from farkas_exp.config.identity import identify
from farkas_exp.config.schema import InitConfig
from farkas_exp.config.store import config_dir
from farkas_exp.launch import grid
from farkas_exp.launch.cli import main
from farkas_exp.machine.errors import UserError
from farkas_exp.registry import NETWORKS
from farkas_exp.report.arms import deciding_settings
from farkas_exp.runs import collect
from farkas_exp.studies.farkas.filling import deviations, required_settings
from farkas_exp.studies.farkas.paper import TABLE3_MINI, TABLES
from tests.composing import composed, jobs, of_experiment, own_arms, sweep_of

RESNETS = [f"resnet{depth}" for depth in (18, 34, 50, 101)]
FARKASNETS = [f"farkasnet{depth}" for depth in (18, 34, 50, 101)]
SEEDS = (0, 1, 2)


def check_protocol(made: Config, dataset: str) -> None:
    """Section 4 of the paper with the authors' code: what all arms on CIFAR share."""
    assert (made.dataset.name, made.dataset.train_limit, made.dataset.validation) == (dataset, None, 0.0)
    assert (made.epochs, made.batch_size, made.precision, made.label_smoothing) == (200, 128, "fp32", 0.0)
    assert (made.optimizer.name, made.optimizer.momentum, made.optimizer.nesterov) == ("sgd", 0.9, False)
    assert (made.optimizer.weight_decay, made.optimizer.decay) == (5e-4, "weights")
    assert (made.lr.milestones, made.lr.gamma) == ((60, 120, 160), pytest.approx(0.2))
    augmentation = made.augmentation
    assert (augmentation.crop_padding, augmentation.flip) == (4, True)
    assert (augmentation.cutout, augmentation.cutout_fill) == (16, "mean")
    assert made.failure.epochs == 5
    assert made.activation.name == "relu"


def check_papers_arm(made: Config) -> None:
    """What no arm of the paper's tables changes."""
    assert (made.model.variant, made.model.head_bn, made.model.blocks, made.model.widths) == (None, None, None, None)
    assert (made.init.gain, made.init.last_scale, made.init.last_depth_exponent) == (None, 1.0, 0.0)
    assert (made.aggregation.margin, made.aggregation.learn_lambda, made.activation.cutoff) == (0.0, False, None)
    assert (made.normalization.position, made.normalization.affine) == (None, None)


def arm(made: Config) -> tuple[Any, ...]:
    aggregation = made.aggregation.name if "farkas" in made.model.name else None
    return (made.model.name, made.normalization.name, made.lr.value, aggregation, made.init.name)


@pytest.mark.parametrize(
    ("experiment", "dataset", "depths"),
    [("table1", "cifar10", (18, 34, 50, 101)), ("table2", "cifar100", (34, 50, 101))],
)
def test_tables_1_and_2_are_every_depth_in_both_regimes_three_times(
    experiment: str, dataset: str, depths: Sequence[int]
) -> None:
    made = jobs(experiment)
    for job in made:
        check_protocol(job, dataset)
        check_papers_arm(job)
        assert (job.dataset.normalize, job.experiment) == (False, experiment)
    wanted = {
        (f"{family}{depth}", norm, lr, "sum" if family == "farkasnet" else None, "pytorch", seed)
        for family in ("resnet", "farkasnet")
        for depth in depths
        for norm, lr in (("batch", 0.1), ("none", 0.01))
        for seed in SEEDS
    }
    assert sorted(map(str, wanted)) == sorted(str((*arm(job), job.seed)) for job in made)


BN0 = InitConfig("torchvision", last_scale=0.0, classifier_std=0.01)
"""What the fork's `init-bn0` does, for 50 layers only."""


def test_an_imagenet_network_brings_initialization_and_decay_and_each_part_is_a_choice() -> None:
    given = ("model=resnet50_imagenet", "dataset=tiny_imagenet", "dataset.root=x", "normalization=batch")
    made = composed(*given)
    assert made is not None
    assert (made.init, made.optimizer.decay, made.optimizer.weight_decay) == (BN0, "all_but_biases", 1e-4)
    for words, init, optimizer in (
        (["init=torchvision"], InitConfig("torchvision"), made.optimizer),
        (["init=pytorch"], InitConfig(), made.optimizer),
        (["init.last_scale=1"], replace(BN0, last_scale=1.0), made.optimizer),
        (["init.classifier_std=null"], replace(BN0, classifier_std=None), made.optimizer),
        (["init=pytorch", "optimizer=sgd"], InitConfig(), OptimizerConfig()),
    ):
        other = composed(*given, *words)
        assert other is not None
        assert (other.init, other.optimizer) == (init, optimizer)


def test_table_3_is_three_depths_of_both_networks_once_in_the_tables_setting() -> None:
    made = jobs("table3", "dataset.root=x")
    for job in made:
        assert (job.normalization.name, job.aggregation.name) == ("batch", "mean")
        assert job.init == (BN0 if "50" in job.model.name else InitConfig("torchvision"))
        check_papers_arm(replace(job, init=InitConfig()))
        assert (job.dataset.name, job.dataset.normalize, job.augmentation.flip) == ("imagenet", True, True)
        assert deviations(to_dict(job), TABLES["table3"]) == {}
    wanted = [f"{family}{depth}_imagenet" for depth in (50, 101, 152) for family in ("resnet", "farkasnet")]
    assert [(job.model.name, job.seed) for job in made] == [(name, 0) for name in wanted]
    (other,) = jobs("table3", "dataset.root=x", "phases=dawnbench28", "model=resnet50_imagenet")
    assert deviations(to_dict(other), TABLES["table3"]) == {"phases.name": "dawnbench28", "epochs": 28}


def test_the_small_table_3_goes_through_phases_like_the_large_ones() -> None:
    made = jobs("table3_mini", "dataset.root=x")
    assert [job.model.name for job in made] == ["resnet50_imagenet", "farkasnet50_imagenet"]
    (large,) = jobs("table3", "dataset.root=x", "model=resnet50_imagenet")
    for job in made:
        own, paper = job.phases.schedule, large.phases.schedule
        assert [(p.min_scale, p.rectangular) for p in own] == [(p.min_scale, p.rectangular) for p in paper]
        assert [p.lr_from >= p.lr_to for p in own] == [p.lr_from >= p.lr_to for p in paper]
        assert (job.normalization.name, job.aggregation.name, job.dataset.normalize) == ("batch", "mean", True)
        assert required_settings(TABLE3_MINI.rows[0], job.model.name)["model.blocks"] != job.model.blocks
        for key, (value,) in TABLE3_MINI.needs.items():
            assert deciding_settings(to_dict(job))[key] == value


def test_table_4_is_its_four_arms_three_times() -> None:
    made = jobs("table4")
    for job in made:
        check_protocol(job, "cifar10")
        check_papers_arm(job)
        assert job.dataset.normalize is False
    assert [(arm(job), job.seed) for job in made] == [
        (wanted, seed)
        for wanted in (
            ("resnet34", "batch", 0.1, None, "pytorch"),
            ("resnet34", "none", 0.01, None, "pytorch"),
            ("fixup34", "none", 0.01, None, "pytorch"),
            ("farkasnet34", "none", 0.05, "mean", "zero_last"),
        )
        for seed in SEEDS
    ]


def test_figure_5_has_the_papers_words_the_published_script_and_the_sum() -> None:
    made = jobs("figure5")
    for job in made:
        check_protocol(job, "cifar10")
        check_papers_arm(replace(job, model=replace(job.model, variant=None)))
    cells = [("farkasnet101", aggregation, "pytorch", variant) for aggregation, variant in
             (("mean", None), ("mean", "authors"), ("sum", None))]  # fmt: skip
    cells += [("farkasnet101", "mean", "zero_last", None)]
    cells += [("resnet101", None, init, None) for init in ("pytorch", "zero_last")]
    assert sorted(str((arm(job), job.model.variant, job.seed)) for job in made) == sorted(
        str(((model, "none", 0.1, aggregation, init), variant, seed))
        for model, aggregation, init, variant in cells
        for seed in SEEDS
    )


def test_the_controls_of_table_4_have_both_readings_of_fixups_optimizer() -> None:
    made = jobs("table4_controls", "seed=0")
    for job in made:
        check_protocol(job, "cifar10")
        check_papers_arm(job)
    assert [(*arm(job), job.optimizer.scalars) for job in made] == [
        ("fixup34", "none", 0.01, None, "pytorch", "own"),
        ("fixup34", "none", 0.01, None, "pytorch", "common"),
        ("resnet34", "none", 0.05, None, "zero_last", "own"),
        ("farkasnet34", "none", 0.05, "mean", "pytorch", "own"),
    ]
    (small,) = jobs("table4", "seed=0", "model=fixup34")
    assert identify(made[0]) == identify(small)


@pytest.mark.parametrize("experiment", ["table1_controls", "table4_controls", "figure5", "table1_small_images"])
def test_no_arm_is_another_cell_or_says_what_its_network_has_anyway(experiment: str) -> None:
    """An option at the network's own default would make a run of its own of the same numbers."""
    given = ["dataset.root=x"] if experiment == "table1_small_images" else []
    made = jobs(experiment, *given, "seed=0")
    assert len({identify(job).hash for job in made}) == len(made)
    for job in made:
        network = NETWORKS[job.model.name]
        own = {f"model.{key}": value for key, value in network.options.items()}
        own |= {"normalization.position": next(iter(network.positions), None), "normalization.affine": network.affine}
        settings = settings_of(job)
        for key, default in own.items():
            assert settings[key] is None or settings[key] != default, (key, job.arm)


def test_fixup_is_run_at_every_rate_with_and_without_input_normalization() -> None:
    made = jobs("fixup_rates")
    for job in made:
        check_protocol(job, "cifar10")
        check_papers_arm(job)
        assert arm(job)[:2] == ("fixup34", "none")
    assert sorted((job.lr.value, job.dataset.normalize, job.seed) for job in made) == sorted(
        itertools.product((0.01, 0.05, 0.1), (False, True), SEEDS)
    )


def controls() -> dict[str, tuple[list[str], tuple[str, float], dict[str, Any]]]:
    """For each control arm its networks, the row of Table 1 that it stands beside, and what it changes."""
    every, small, large = RESNETS + FARKASNETS, ("none", 0.01), ("batch", 0.1)
    he, sixth, depth = {"init.name": "kaiming"}, {"init.last_scale": 1 / 6}, {"init.last_depth_exponent": -0.5}
    return {
        "last_sixth": (every, small, sixth),
        "he": (every, small, he),
        "he_last_sixth": (every, small, he | sixth),
        "he_last_depth": (every, small, he | depth),
        "match_farkas": (RESNETS, small, {"init.name": "match_farkas"}),
        **{
            f"{name}_margin": (FARKASNETS, small, he | change | {"aggregation.margin": 1e-3})
            for name, change in (("he", {}), ("he_last_sixth", sixth), ("he_last_depth", depth))
        },
        "authors_small": (PUBLISHED, small, AUTHORS),
        "authors_bn_large": (PUBLISHED, large, AUTHORS),
        "without_append": (FARKASNETS, small, {"aggregation.append": False}),
        "mean_small": (FARKASNETS, small, {"aggregation.name": "mean"}),
        "mean_bn_large": (FARKASNETS, large, {"aggregation.name": "mean"}),
        "bn_before_large": (every, large, {"normalization.position": "before"}),
        "head_bn_large": (every, large, {"model.head_bn": True}),
    }


AUTHORS = {"model.variant": "authors"}
PUBLISHED = ["farkasnet18", "farkasnet50", "farkasnet101"]
"""The networks whose published code differs from the paper."""


@pytest.mark.parametrize(
    "models", ["resnet18,farkasnet50", pytest.param(",".join(RESNETS + FARKASNETS), marks=pytest.mark.slow)]
)
def test_each_control_arm_changes_one_thing_of_table_1(models: str) -> None:
    of_table1 = {(*arm(job)[:3], job.seed): settings_of(job) for job in jobs("table1")}
    found = jobs("table1_controls", f"model={models}")
    wanted = []
    for for_models, row, change in controls().values():
        for model, seed in itertools.product(set(for_models) & set(models.split(",")), SEEDS):
            wanted.append({**of_table1[(model, *row, seed)], **change})
    assert sorted(map(str, wanted)) == sorted(str(settings_of(job)) for job in found)
    assert len({(identify(job).hash, job.seed) for job in found}) == len(found)
    assert len(found) == (246 if "resnet101" in models else 63)


def settings_of(job: Config) -> dict[str, Any]:
    return {**deciding_settings(to_dict(job)), "seed": job.seed}


EVERY = {path.stem for path in Path(config_dir()).glob("dataset/*.yaml")}
POINTS, STREAMED = {"moons"}, {"imagenet", "tiny_imagenet", "streamed_folder"}


@pytest.mark.parametrize("datasets", ["one", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("experiment", sorted(path.stem for path in Path(config_dir()).glob("experiment/*.yaml")))
def test_an_experiment_composes_as_hydra_does_and_with_every_dataset_that_fits_it(
    experiment: str, datasets: str
) -> None:
    """Points are for networks without convolutions, phases for streamed images; everything else fits everything."""
    compositions, master = of_experiment(experiment)
    rate = ["lr.value=0.03"] if experiment.endswith(("_test", "_extended")) else []  # in place of a search
    fixed = [f"experiment={experiment}", "seed=0", "dataset.root=x", *rate]
    *_, last = grid.combinations(master.hydra.sweeper.params, fixed, compositions._loader)
    plain = compositions.plain_values(last)
    assert plain is not None, "left to Hydra, at a quarter of a second for each run"
    assert plain == compositions.by_hydra(last)
    sweep = {key: value.split(",")[0] for key, value in sweep_of(experiment).items() if key not in ("arm", "seed")}
    given = [f"{key}={value}" for key, value in sweep.items()] + [f"arm={arm}" for arm in own_arms(experiment)][:1]
    own = composed(f"experiment={experiment}", *given, *rate, "dataset.root=x")
    assert own is not None
    fitting = STREAMED if own.phases.schedule else EVERY - (POINTS if NETWORKS[own.model.name].spatial else set())
    another = sorted(fitting)[len(experiment) % len(fitting)]
    for dataset in fitting if datasets == "all" else {another}:
        assert composed(f"experiment={experiment}", *given, *rate, f"dataset={dataset}", "dataset.root=x") is not None


def test_phases_go_before_a_datasets_default_size_and_not_before_the_users() -> None:
    given = ("experiment=table3_mini", "dataset=tiny_imagenet", "dataset.root=x", "model=resnet50_imagenet")
    made, plain = composed(*given), composed(*given[1:], "phases=none")
    assert made is not None
    assert plain is not None
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


def test_the_cpu_edition_has_every_row_of_table_1_at_the_small_rate() -> None:
    wanted = {
        (f"{family}{depth}", norm, 0.01, "sum" if family == "farkasnet" else None, "pytorch")
        for family in ("resnet", "farkasnet")
        for depth in (18, 34)
        for norm in ("batch", "none")
    }
    made = jobs("table1_mini")
    assert {(arm(job), job.seed) for job in made} == set(itertools.product(wanted, range(5)))
    for job in made:
        check_papers_arm(job)
        assert (job.dataset.name, job.dataset.normalize, job.augmentation.cutout) == ("digits", False, 0)
    small = jobs("table1_mini_cifar10")
    assert {arm(job) for job in small} == {each for each in wanted if each[0].endswith("18")}
    assert {(job.dataset.name, job.dataset.train_limit, job.augmentation.cutout) for job in small} == {
        ("cifar10", 2000, 16)
    }


def test_the_small_images_have_table_1s_arms_and_the_controls_that_tell_scale_from_geometry(tmp_path: Path) -> None:
    made = jobs("table1_small_images", f"dataset.root={tmp_path}", "seed=0")
    assert len(made) == 27
    assert len({identify(job).hash for job in made}) == 27, "no arm is another one under another name"
    paper = {arm(job) for job in jobs("table1_small_images", f"dataset.root={tmp_path}", "seed=0", "arm=none,batch")}
    assert paper == {
        (f"{family}{depth}", norm, 0.01, "sum" if family == "farkasnet" else None, "pytorch")
        for family in ("resnet", "farkasnet")
        for depth in (18, 50)
        for norm in ("batch", "none")
    }
    without = [job for job in made if not job.aggregation.append]
    assert {job.model.name for job in without} == {"farkasnet18", "farkasnet50"}
    assert next(iter(sweep_of("table1_small_images"))) == "seed", "one seed of everything first"


def test_deep_and_narrow_is_four_kinds_over_a_grid() -> None:
    sweep = sweep_of("deep_narrow")
    depths, widths = (list(map(int, str(sweep[f"model.{key}"]).split(","))) for key in ("depth", "width"))
    assert (min(depths), max(depths), min(widths), max(widths)) == (2, 60, 2, 16)
    made = jobs("deep_narrow", "model.depth=2,60", "model.width=8")
    kinds = {(*arm(job)[:2], arm(job)[3]) for job in made}
    assert kinds == {
        ("mlp", "none", None),
        ("mlp", "batch", None),
        ("farkas_mlp", "none", "sum"),
        ("farkas_mlp", "none", "mean"),
    }
    assert len(made) == 4 * 2 * 2
    assert {(job.model.depth, job.model.width) for job in made} == {(2, 8), (60, 8)}
    assert {(job.dataset.name, job.augmentation.cutout) for job in made} == {("moons", 0)}


@pytest.mark.parametrize(
    "name",
    [
        "table1",
        "table2",
        "table3",
        "table3_mini",
        "table4",
        "table1_controls",
        "table4_controls",
        "table1_mini",
        "table1_mini_cifar10",
        "table1_small_images",
        "figure5",
        "fixup_rates",
        "deep_narrow",
        "without_normalization",
        "transformers",
    ],
)
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
