"""What an option may be and what it needs: the bounds, and each kind of need on configurations that have it or not."""

from types import SimpleNamespace

import pytest

from farkas_exp.config import needs, parse
from farkas_exp.config.needs import own_option as own
from farkas_exp.config.options import LONGEST_LIST, LONGEST_TEXT, Option, shown
from farkas_exp.config.schema import PhaseConfig
from farkas_exp.machine.errors import UserError
from farkas_exp.registry import ATTACKS, CALLBACKS, NETWORKS, OPTIMIZERS, REGULARIZERS
from tests.configs import config


@pytest.mark.parametrize(
    ("option", "good", "bad"),
    [
        (Option(at_least=2), [2, 9], [1, 1.9]),
        (Option(above=0), [0.1, 5], [0, -1]),
        (Option(at_most=1), [1, -3], [1.5]),
        (Option(below=1), [0.99], [1, 2]),
        (Option(at_least=0, below=1), [0, 0.5], [-0.1, 1]),
        (Option(at_least=0, shortest=2), [(0, 0), (3, 2, 1)], [(1,), (), (1, -1)]),
        (Option(increasing=True), [(), (1,), (1, 2)], [(2, 1), (1, 1)]),
        (Option(), [None, True, "", "x" * LONGEST_TEXT, (1,) * LONGEST_LIST],
         ["x" * (LONGEST_TEXT + 1), (1,) * (LONGEST_LIST + 1), "a\nb", ("a\x1b",)]),
        (Option(is_path=True), ["x", None], ["", "  "]),
        (Option(at_least=5), [True, None], [4]),
    ],
)  # fmt: skip
def test_a_range_holds_its_ends_as_it_says_and_for_each_element(option, good, bad):
    for value in good:
        option.check_range("key", value)
    for value in bad:
        with pytest.raises(UserError, match=r"^key(\[\d+\])?: .* is out of range; it must be "):
            option.check_range("key", value)


def of(**groups):
    """A configuration of names, such as of(model="mlp")."""
    return SimpleNamespace(**{group: SimpleNamespace(name=name) for group, name in groups.items()})


@pytest.mark.parametrize(
    ("need", "has", "lacks", "said"),
    [
        (needs.FARKAS, of(model="farkasnet18"), of(model="resnet18"), "a network of Farkas layers, not resnet18"),
        (needs.APPENDED, of(model="farkasnet18"), of(model="resnet18"), "Algorithm 2's residual layers, not resnet18"),
        (needs.OWN_RATES, of(model="fixup34"), of(model="resnet18"), "FixUp's scalar parameters, not resnet18"),
        (own(ATTACKS, "steps"), of(attack="pgd"), of(attack="none"), "attack.name=pgd"),
        (own(CALLBACKS, "lr"), of(callback="rank_min"), of(callback="none"), "callback.name=rank_min or rank_max"),
        (needs.STEPPED, SimpleNamespace(lr=SimpleNamespace(schedule="steps")),
         SimpleNamespace(lr=SimpleNamespace(schedule="cosine")), "lr.schedule=steps"),
        (needs.MEAN_FILL, SimpleNamespace(augmentation=SimpleNamespace(cutout_fill="mean")),
         SimpleNamespace(augmentation=SimpleNamespace(cutout_fill="zero")), "augmentation.cutout_fill=mean"),
        (needs.SPATIAL, of(model="resnet18"), of(model="mlp"), "a network of convolutions, not mlp"),
        (needs.ACTIVATED, of(model="mlp"), of(model="linear_residual"), "with activations, not linear_residual"),
        (needs.NORMALIZABLE, of(model="mlp"), of(model="fixup34"), "that takes a normalization, not fixup34"),
        (needs.ANY_HEAD, of(model="resnet18"), of(model="mlp"), "chooses its last layer, not mlp"),
        (needs.STREAMED, of(dataset="streamed_folder"), of(dataset="image_folder"), "dataset.name="),
        (needs.IMAGE_FOLDER, of(dataset="image_folder"), of(dataset="digits"), "image_folder or"),
        (needs.IN_MEMORY, of(dataset="digits"), of(dataset="streamed_folder"), "images in memory"),
        (needs.IN_MEMORY, of(dataset="image_folder"), of(dataset="moons"), "images in memory"),
        (needs.PIXELS, of(dataset="digits"), of(dataset="moons"), "images, not points"),
        (own(REGULARIZERS, "strength"), of(regularizer="norm_bias"), of(regularizer="none"), "regularizer.name="),
        (own(REGULARIZERS, "rho"), of(regularizer="sep_p"), of(regularizer="norm_bias"), "name=sep_u or sep_p or"),
        (own(NETWORKS, "downsample"), of(model="resnet50_imagenet"), of(model="resnet18"), "model.name"),
        (own(NETWORKS, "residual"), of(model="mlp"), of(model="resnet18"), "model.name=mlp or "),
        (own(NETWORKS, "blocks"), of(model="resnet18"), of(model="mlp"),
         "another model.name: the options of mlp are model.depth, model.width, model.residual"),
        (own(NETWORKS, "blocks"), of(model="resnet18"), of(model="mobilenet_v2"), "of mobilenet_v2 are none"),
        (own(OPTIMIZERS, "momentum"), of(optimizer="sgd"), of(optimizer="adam"), "optimizer.name=sgd"),
        (needs.positive("attack.steps"), SimpleNamespace(attack=SimpleNamespace(steps=1)),
         SimpleNamespace(attack=SimpleNamespace(steps=0)), "attack.steps > 0"),
        (needs.PHASES, SimpleNamespace(phases=SimpleNamespace(schedule=(1,))),
         SimpleNamespace(phases=SimpleNamespace(schedule=())), "phases"),
        (needs.NO_PHASES, SimpleNamespace(phases=SimpleNamespace(schedule=())),
         SimpleNamespace(phases=SimpleNamespace(schedule=(1,))), "phases=none"),
    ],
)  # fmt: skip
def test_a_need_is_met_by_what_it_names_and_by_nothing_else(need, has, lacks, said):
    assert (need.is_met(has), need.is_met(lacks)) == (True, False)
    assert said in need.words_for(lacks)


@pytest.mark.parametrize("need", [needs.FARKAS, own(NETWORKS, "depth")])
def test_an_unknown_name_is_another_complaint(need):
    assert "of my own" not in NETWORKS
    assert need.is_met(of(model="of my own"))
    assert needs.STREAMED.is_met(of(dataset="of my own"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optimizer": {"name": "adam", "nesterov": True}},
         "optimizer.nesterov: true does nothing here; it needs optimizer.name=sgd (else false)"),
        ({"model": {"name": "mlp"}},
         "model.blocks: [1,1] does nothing here; it needs another model.name: the options of mlp are model.depth, "
         "model.width, model.residual (else null)"),
        ({"regularizer": {"name": "sep_up", "strength": 0.1, "coefficient": 0.2, "rho": -0.3}},
         "regularizer.rho: -0.3 is out of range; it must be between -0.2 and 0.2"),
        ({"dropout": {"rate": 1.0}}, "dropout.rate: 1.0 is out of range; it must be less than 1"),
        ({"lr": {"value": 0.0}}, "lr.value: 0.0 is out of range; it must be positive"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_is_wrong_and_what_would_be_right(change, said):
    with pytest.raises(UserError) as caught:
        config(**change)
    assert str(caught.value) == said


def test_a_folder_is_refused_for_data_that_are_in_none():
    with pytest.raises(UserError, match=r"^dataset.root: x does nothing here; it needs .*\(else null\)$"):
        config(dataset={"root": "x"})


def test_a_value_is_shown_as_one_writes_it_on_the_command_line():
    phase = PhaseConfig(1, 8, 4, 0.5, 1.0)
    assert [shown(value) for value in (None, True, False, 3, 0.5, "x", (1, (2, None)), {"a": [True]})] == [
        "null", "true", "false", "3", "0.5", "x", "[1,[2,null]]", "{a:[true]}",
    ]  # fmt: skip
    assert shown((phase,)).startswith("[{until:1,image_size:8,batch_size:4,lr_from:0.5,lr_to:1.0,")


@pytest.mark.parametrize(
    ("model", "sizes", "rectangular", "said"),
    [
        ("mlp", (32, 48), False, "mlp is built for squares of one size, and images have 32, 48 pixels"),
        ("vit", (32, 32), True,
         "vit is built for squares of one size, and images have 32 pixels, and rectangular ones"),
        ("vit", (32, 32), False, None),
        ("resnet18", (32, 48), True, None),
    ],
)  # fmt: skip
def test_images_that_grow_are_for_networks_of_convolutions(model, sizes, rectangular, said):
    phase = {"batch_size": 8, "lr_from": 0.1, "lr_to": 0.01}
    schedule = [{**phase, "until": end, "image_size": size} for end, size in enumerate(sizes, 1)]
    schedule[-1]["rectangular"] = rectangular
    given = {
        "model": {"name": model}, "lr": {"value": 0.01}, "dataset": {"name": "streamed_folder", "root": "x"},
        "augmentation": {"crop_padding": 0, "cutout": 0}, "phases": {"name": "own", "schedule": schedule}, "epochs": 2,
    }  # fmt: skip
    if said is None:
        parse(given)
        return
    with pytest.raises(UserError, match=f"^phases.schedule: {said}$"):
        parse(given)
