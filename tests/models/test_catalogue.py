"""Every fact of the catalogue against the network that is built."""

import copy
import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from farkas_exp.config.schema import ModelConfig
from farkas_exp.layers.activation import Activation
from farkas_exp.layers.farkas import FarkasLayer
from farkas_exp.machine.errors import UserError
from farkas_exp.models.create import SCALAR_MODULES, create_model
from farkas_exp.models.plan import Plan
from farkas_exp.registry import NETWORKS

SMALL: dict[str, Any] = {
    "blocks": (1, 1), "widths": (8, 12), "depth": 2, "width": 6, "residual": False, "variant": "paper",
    "head_bn": False, "downsample": "pool", "bias": True, "heads": 2, "patch": 4, "expansion": 2,
    "pool": False,
}  # fmt: skip
"""A small value of every option, the same for a network and its twin."""
OTHER: dict[str, Any] = {
    "blocks": (2, 1), "widths": (8, 16), "depth": 3, "width": 8, "residual": True, "variant": "authors",
    "head_bn": True, "downsample": "conv", "bias": False, "heads": 3, "patch": 8, "expansion": 3,
    "pool": True,
}  # fmt: skip


def small(name: str, **options: Any) -> nn.Module:
    own = {key: SMALL[key] for key in NETWORKS[name].options}
    torch.manual_seed(0)
    return create_model(name, **{"image_size": 16, "num_classes": 5, "aggregation": "mean"} | own | options)


def outputs(model: nn.Module, training: bool = False) -> torch.Tensor:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return copy.deepcopy(model).train(training)(images)


def test_the_catalogue_needs_no_pytorch():
    code = "import sys, farkas_exp.models.catalogue as c; list(c.NETWORKS); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_a_farkas_network_has_farkas_layers_and_no_other_has(name):
    assert any(isinstance(module, FarkasLayer) for module in small(name).modules()) == NETWORKS[name].farkas


@pytest.mark.parametrize("name", NETWORKS)
def test_activated_and_spatial_say_what_the_network_computes(name):
    model, network = small(name), NETWORKS[name]
    assert any(isinstance(module, Activation) for module in model.modules()) == network.activated
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) or getattr(m, "kernel_size", None)]
    assert bool(convolutions) == network.spatial


class ThinStrides(TorchDispatchMode):
    """Notes the strided 1x1 convolutions of fewer than 16 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            _, inputs, *kernel = args[1].shape
            self.found += [args[1].shape] if max(kernel) == 1 < max(args[3]) and inputs < 16 else []
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("downsample", ["conv", "pool"])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_network_has_the_convolution_whose_gradient_breaks_the_memory_of_a_cpu(name, downsample):
    """See uxlfoundation/oneDNN#6035: the process died of it, or went on with broken numbers."""
    options = {"downsample": downsample} if "downsample" in NETWORKS[name].options else {}
    with ThinStrides() as strides:
        small(name, **options)(torch.rand(2, 3, 16, 16))
    assert not strides.found


@pytest.mark.parametrize("name", NETWORKS)
def test_scalars_says_whether_fixups_rule_has_something_to_train(name):
    assert any(isinstance(module, SCALAR_MODULES) for module in small(name).modules()) == NETWORKS[name].scalars


class Recording:
    """Options that note which of them a builder reads."""

    def __init__(self, options: ModelConfig) -> None:
        self._options, self.read = options, set()

    def __getattr__(self, key: str) -> Any:
        self.read.add(key)
        return getattr(self._options, key)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_options_are_those_that_the_builder_reads(name, monkeypatch):
    network, seen = NETWORKS[name], []

    def build(plan: Plan) -> nn.Module:
        seen.append(Recording(plan.options))
        return network.build(dataclasses.replace(plan, options=seen[0]))  # type: ignore[arg-type]

    monkeypatch.setitem(NETWORKS._entries, name, dataclasses.replace(network, source=build))
    small(name)
    # `variant` also decides the defaults, before the builder is called.
    assert seen[0].read - {"variant"} == set(network.options) - {"variant"}


@pytest.mark.parametrize("name", NETWORKS)
def test_null_is_the_default_that_the_catalogue_names(name):
    network = NETWORKS[name]
    with torch.device("meta"):
        named = {key: getattr(value, "default", value) for key, value in network.options.items()}
        built = [create_model(name, image_size=64, **options) for options in ({}, dict.fromkeys(named), named)]
    assert len(set(map(repr, built))) == 1


@pytest.mark.parametrize(("name", "option"), [(name, option) for name in NETWORKS for option in NETWORKS[name].options])
def test_every_option_changes_the_network(name, option):
    if option == "residual" and NETWORKS[name].farkas:
        with pytest.raises(UserError, match=r"model.residual"):
            small(name, residual=True)
        return
    choice = {option: OTHER[option]}
    if (name, option) == ("farkasnet18", "variant"):
        choice |= {"blocks": None, "widths": None}
    before, after = small(name), small(name, **choice)
    assert repr(before) != repr(after) or not torch.equal(outputs(before), outputs(after))


@pytest.mark.parametrize("name", NETWORKS)
def test_an_option_that_is_not_its_own_is_refused(name):
    for option in set(OTHER) - set(NETWORKS[name].options):
        with pytest.raises(UserError, match=rf"model.{option}: .* does nothing here; it needs .*model.name"):
            small(name, **{option: OTHER[option]})


def kinds(model: nn.Module) -> list[tuple[str, str]]:
    """Where each layer is and of which kind, without what makes a layer a Farkas layer."""
    found = []
    for place, module in model.named_modules():
        kind = type(module).__name__.replace("FarkasResidual", "Residual").replace("Farkas", "")
        found.append((place, "Conv2d" if kind == "ResidualConv2d" else kind))
    return found


@pytest.mark.parametrize("name", [name for name in NETWORKS if NETWORKS[name].twin])
def test_a_twin_differs_only_in_being_farkas(name):
    plain, farkas = NETWORKS[name], NETWORKS[str(NETWORKS[name].twin)]
    assert (plain.farkas, farkas.farkas, farkas.twin) == (False, True, None)
    assert plain.options.keys() | {"variant"} == farkas.options.keys() | {"variant"}
    same = {"spatial", "activated", "chooses_head", "source", "affine"}
    for fact in same:
        assert getattr(plain, fact) == getattr(farkas, fact), fact
    assert set(plain.positions) == set(farkas.positions)
    options = {key: SMALL[key] for key in plain.options.keys() & farkas.options.keys()}
    position = "after" if "after" in plain.positions else (*plain.positions, None)[0]
    norms = ({}, {"normalization": {"name": "batch", "position": position}})
    for norm in norms if plain.positions else norms[:1]:
        built = [create_model(each, image_size=16, **options, **norm) for each in (plain.name, farkas.name)]
        assert kinds(built[0]) == kinds(built[1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"normalization": {"name": "layer", "alpha": 1.0}},
            "normalization.alpha: 1.0 does nothing here; it needs normalization.name=dyt",
        ),
        ({"residual_scaling": {"gamma": 1.0}}, "residual.gamma: unknown 'gamma'"),
        ({"depht": 2}, "model.depht: unknown 'depht'; did you mean 'depth'"),
    ],
)
def test_an_option_that_nothing_has_is_one_line(given, message):
    with pytest.raises(UserError, match=message):
        create_model("mlp", **given)


def test_every_farkas_network_is_the_twin_of_one():
    twins = [NETWORKS[name].twin for name in NETWORKS if NETWORKS[name].twin]
    assert sorted(twins) == sorted(name for name in NETWORKS if NETWORKS[name].farkas)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_head_can_be_chosen_where_it_says_so(name):
    if not NETWORKS[name].chooses_head:
        with pytest.raises(UserError, match=r"head.name"):
            small(name, head="random_projection")
        return
    *_, last = [m for m in small(name, head="random_projection").modules() if not isinstance(m, nn.Identity)]
    assert type(last).__name__ == "RandomProjection"


@pytest.mark.parametrize("name", NETWORKS)
def test_a_normalization_stands_where_the_catalogue_says(name):
    network = NETWORKS[name]
    if not network.positions:
        with pytest.raises(UserError, match=r"normalization.name: .* needs a network that takes a normalization"):
            small(name, normalization="batch")
        return
    for position in ("after", "before", "branch"):
        if position not in network.positions:
            with pytest.raises(UserError, match=r"normalization.position"):
                small(name, normalization={"name": "batch", "position": position})
    default = small(name, normalization="batch")
    affine = {m.affine for m in default.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))}
    assert affine == {network.affine}
    for number, position in enumerate(network.positions):
        built = small(name, normalization={"name": "batch", "position": position})
        assert torch.equal(outputs(built, training=True), outputs(default, training=True)) == (number == 0)


def test_an_unknown_name_gives_the_nearest_one():
    with pytest.raises(UserError, match=r"model.name: unknown 'resnet43'; did you mean 'resnet34'"):
        NETWORKS["resnet43"]
    assert NETWORKS.get("resnet43") is None
    assert "resnet43" not in NETWORKS


@pytest.mark.parametrize(("key", "size"), [("num_classes", 0), ("in_channels", -1), ("image_size", 8.0)])
def test_sizes_are_whole_numbers_above_zero(key, size):
    with pytest.raises(UserError, match=rf"^{key}: {size} is out of range; it must be a whole number of at least 1"):
        create_model("mlp", **{key: size})


def test_options_beside_a_group_of_the_configuration_replace_its_own():
    given = ModelConfig(name="mlp", depth=2, width=6)
    hidden = [create_model(given, image_size=4, **options).hidden for options in ({}, {"depth": 3})]
    assert [sum(isinstance(m, nn.Linear) for m in layers.modules()) for layers in hidden] == [2, 3]
    assert given.depth == 2
