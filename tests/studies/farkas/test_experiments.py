"""The paper's experiments compose, job by job, to what the paper says, value by value."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farkas_exp.config import Config, to_dict
from farkas_exp.config.identity import identify
from farkas_exp.config.schema import InitConfig, OptimizerConfig
from farkas_exp.registry import NETWORKS
from farkas_exp.runs.query import deciding_settings
from farkas_exp.studies.farkas.filling import deviations, required_settings
from farkas_exp.studies.farkas.paper import TABLE3_MINI, TABLES
from tests.composing import arm, composed, jobs, sweep_of

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
    assert (made.init, made.optimizer.decay, made.optimizer.weight_decay) == (BN0, "all_but_biases", 1e-4)
    for words, init, optimizer in (
        (["init=torchvision"], InitConfig("torchvision"), made.optimizer),
        (["init=pytorch"], InitConfig(), made.optimizer),
        (["init.last_scale=1"], replace(BN0, last_scale=1.0), made.optimizer),
        (["init.classifier_std=null"], replace(BN0, classifier_std=None), made.optimizer),
        (["init=pytorch", "optimizer=sgd"], InitConfig(), OptimizerConfig()),
    ):
        other = composed(*given, *words)
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
    assert len(made) == 31
    assert len({identify(job).hash for job in made}) == 31, "no arm is another one under another name"
    paper = {arm(job) for job in jobs("table1_small_images", f"dataset.root={tmp_path}", "seed=0", "arm=none,batch")}
    assert paper == {
        (f"{family}{depth}", norm, 0.01, "sum" if family == "farkasnet" else None, "pytorch")
        for family in ("resnet", "farkasnet")
        for depth in (18, 50)
        for norm in ("batch", "none")
    }
    without = [job for job in made if not job.aggregation.append]
    assert {job.model.name for job in without} == {"farkasnet18", "farkasnet50"}
    with_margin = {(job.model.name, job.init.last_scale): job for job in made if job.aggregation.margin}
    assert set(with_margin) == set(itertools.product(("farkasnet18", "farkasnet50"), (1.0, 1 / 6)))
    for (model, scale), job in with_margin.items():
        settings = {**settings_of(job), "aggregation.margin": 0.0}
        (twin,) = (
            each for each in made
            if (each.model.name, each.init.name, each.init.last_scale) == (model, "kaiming", scale) and each is not job
        )  # fmt: skip
        assert (job.aggregation.margin, settings) == (1e-3, settings_of(twin))
        assert {0, job.epochs} <= set(job.diagnostics.epochs) & set(twin.diagnostics.epochs), "dead points of both"
    assert next(iter(sweep_of("table1_small_images"))) == "seed", "one seed of everything first"
