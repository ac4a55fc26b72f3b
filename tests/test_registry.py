"""Names and what they stand for: registration, plugins, mistakes."""

import inspect
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest
import torch
from torch import nn

import farkas_exp
from farkas_exp import create_model, initialize, registry
from farkas_exp.config import parse
from farkas_exp.config.extensions import extras
from farkas_exp.config.identity import identify
from farkas_exp.config.options import option
from farkas_exp.layers.rule import FarkasRule
from farkas_exp.machine.errors import UserError
from farkas_exp.models.kit import Unit
from farkas_exp.registry import (
    ACTIVATIONS,
    AGGREGATIONS,
    HEADS,
    INITIALIZATIONS,
    NETWORKS,
    NORMALIZATIONS,
    Entry,
    Registry,
    load_plugins,
)
from farkas_exp.report import kinds


@dataclass(frozen=True, kw_only=True)
class Shape(Entry):
    corners: int = 0


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """A registry whose catalogue registers a triangle."""
    (tmp_path / "shapes_catalogue.py").write_text("from shapes_registry import SHAPES\n"
                                                  "SHAPES.register('triangle', 'math:hypot', corners=3)\n")  # fmt: skip
    made = Registry("shape.name", Shape, "shapes_catalogue")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "shapes_registry", type(sys)("shapes_registry"))
    sys.modules["shapes_registry"].SHAPES = made  # type: ignore[attr-defined]
    registry._load_entry_points.cache_clear()
    yield made
    sys.modules.pop("shapes_catalogue", None)
    registry._load_entry_points.cache_clear()


def plug(monkeypatch, value):
    points = [EntryPoint("extra", value, registry.PLUGINS)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.PLUGINS else [])


def test_an_entry_says_what_it_is_before_it_is_built(shapes):
    assert shapes["triangle"].corners == 3
    assert shapes["triangle"].build(3, 4) == 5


def test_registering_from_outside_is_the_same_call(shapes):
    shapes.register("square", lambda side: side * side, corners=4, options={"side": 1})
    assert list(shapes) == ["triangle", "square"]
    assert len(shapes) == 2
    assert shapes["square"].build(3) == 9
    assert shapes["square"].options == {"side": 1}


def test_an_entry_is_called_by_its_label_and_without_one_by_its_name(shapes):
    shapes.register("square", "math:dist", label="Square")
    assert list(map(shapes.label, ("triangle", "square", "of my own"))) == ["triangle", "Square", "of my own"]


def test_a_name_is_registered_once(shapes):
    with pytest.raises(ValueError, match=r"shape.name: 'triangle' is registered already, as 'math:hypot'"):
        shapes.register("triangle", "math:dist")


@pytest.mark.parametrize("name", ["", "a/b", "a b", "3", "a,b", "a=b", ".."])
def test_a_name_that_no_command_could_give_is_refused(shapes, name):
    with pytest.raises(ValueError, match=r"shape.name: .* is no name"):
        shapes.register(name, "math:dist")


@pytest.mark.parametrize("key", ["a.b", "class", "name", ""])
def test_an_option_that_no_group_could_have_is_refused(shapes, key):
    with pytest.raises(ValueError, match=f"shape.name: square cannot have an option '{key}'"):
        shapes.register("square", "math:dist", options={key: 1})


def test_a_fact_that_the_kind_does_not_have_is_an_error(shapes):
    with pytest.raises(TypeError, match="corner"):
        shapes.register("square", "math:dist", corner=4)


def test_the_modules_of_plugins_are_imported_when_a_name_is_not_known(shapes, tmp_path, monkeypatch):
    (tmp_path / "shapes_plugin.py").write_text("from shapes_registry import SHAPES\n"
                                               "SHAPES.register('square', 'math:dist', corners=4)\n")  # fmt: skip
    plug(monkeypatch, "shapes_plugin")
    assert shapes["triangle"].corners == 3
    assert "shapes_plugin" not in sys.modules
    assert shapes["square"].corners == 4
    assert list(shapes) == ["triangle", "square"]
    sys.modules.pop("shapes_plugin")


@pytest.mark.parametrize("content", ["raise ValueError('two\\nlines')", "import sys; sys.exit('two\\nlines')"])
def test_a_plugin_that_fails_is_one_line_and_ends_nothing(tmp_path, monkeypatch, content):
    (tmp_path / "broken_plugin.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"^plugins: cannot import 'broken_plugin' \(\w+: two lines"):
        load_plugins("broken_plugin")


def test_a_broken_plugin_is_named(shapes, monkeypatch):
    plug(monkeypatch, "no_such_module_here")
    with pytest.raises(UserError, match=r"plugin extra: cannot import 'no_such_module_here' \(ModuleNotFoundError"):
        shapes["square"]


@pytest.mark.parametrize("source", ["no_such_module_here:f", "math:no_such_function", "math"])
def test_a_builder_that_is_not_there_is_named(shapes, source):
    shapes.register("odd", source)
    with pytest.raises(UserError, match=f"odd: cannot load '{source}'"):
        _ = shapes["odd"].build


def test_an_unknown_name_gives_the_nearest_one(shapes):
    with pytest.raises(UserError, match=r"shape.name: unknown 'triangel'; did you mean 'triangle'"):
        shapes["triangel"]


@pytest.fixture
def registered():
    """Registers entries for one test."""
    before = {kind: dict(kind._entries) for kind in KINDS if len(kind)}
    yield lambda kind, name, source, **facts: kind.register(name, source, **facts)
    for kind, entries in before.items():
        kind._entries.clear()
        kind._entries.update(entries)


KINDS = (NETWORKS, NORMALIZATIONS, ACTIVATIONS, AGGREGATIONS, HEADS, INITIALIZATIONS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (option(5, at_most=1), "normalization.odd: 5 is out of range; it must be at most 1"),
        (None, "normalization.odd: its default None does not show whether"),
        (option(0.5), "normalization.alpha: dyt and odd bring it with different defaults or ranges"),
    ],
)
def test_an_option_that_cannot_be_is_one_line(registered, given, message):
    key = message.partition(":")[0].removeprefix("normalization.")
    registered(NORMALIZATIONS, "odd", nn.Identity, options={key: given})
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        create_model("mlp", normalization={"name": "odd"})


@pytest.mark.parametrize(
    ("built", "facts", "group", "message"),
    [
        (nn.Linear(1, 1), {}, {"normalization": "batch"}, "normalization.name: batch does nothing here: own builds"),
        (nn.Linear(1, 1), {"farkas": True}, {}, "model.name: own is registered as a Farkas network, and has no"),
        (None, {}, {}, "model.name: own: its builder has to return a module, not NoneType"),
    ],
)
def test_a_choice_of_which_a_builder_makes_nothing_is_refused(registered, built, facts, group, message):
    registered(NETWORKS, "own", lambda plan: built, spatial=False, **facts)
    with pytest.raises(UserError, match=f"^{message}"):
        create_model("own", **group)


class Doubled(nn.Module):
    def forward(self, input):
        return 2 * input


class Plain(nn.Module):
    """A residual network of two layers and a head, from outside."""

    def __init__(self, plan):
        super().__init__()
        width = plan.options.width
        self.first = Unit(plan.kit, plan.kit.linear(plan.in_channels * plan.image_size**2, width), width, spatial=False)
        self.classifier = plan.classifier(width)

    def forward(self, images):
        return self.classifier(self.first(images.flatten(1)))


def test_a_network_from_outside_is_built_with_every_part_from_outside(registered):
    registered(NETWORKS, "outside", Plain, farkas=True, options={"width": 5}, chooses_head=True, spatial=False)
    registered(NORMALIZATIONS, "double", lambda channels, config, spatial: Doubled(), label="x2")
    registered(ACTIVATIONS, "cubic", lambda input: input.clamp(min=0) ** 3, cutoff=0.0)
    registered(AGGREGATIONS, "half", lambda outputs: 0.5)
    registered(HEADS, "sum", lambda features, classes: nn.Linear(features, classes, bias=False))
    registered(INITIALIZATIONS, "constant", lambda model, gain: [p.data.fill_(gain) for p in model.parameters()],
               needs=("gain",))  # fmt: skip
    model = create_model(
        "outside", 3, in_channels=1, image_size=2, normalization="double", activation="cubic", aggregation="half",
        head="sum",
    )  # fmt: skip
    initialize(model, "constant", gain=0.25)
    pre = torch.full((1, 4), 1.25)  # 4 pixels of 1, times 1/4, plus 1/4
    last = -0.5 * 4 * 1.0 + max(-0.5 * 1.0, 0.25)
    expected = 0.25 * 2 * torch.cat((pre, torch.tensor([[last]])), 1).clamp(min=0).pow(3).sum()
    torch.testing.assert_close(model(torch.ones(1, 1, 2, 2)), expected.expand(1, 3))
    with pytest.raises(
        UserError, match=r"model.depth: 3 does nothing here; it needs another .* options of outside are model.width"
    ):
        create_model("outside", depth=3)
    with pytest.raises(UserError, match=r"init.gain: 1.0 does nothing here; it needs .*constant"):
        initialize(model, "zero", gain=1.0)


@pytest.mark.parametrize(
    ("kind", "facts", "message"),
    [
        (INITIALIZATIONS, {"needs": ("glow",)}, "init.name: own needs 'glow'; choose from: generator, images, "),
        (INITIALIZATIONS, {"needs": "gain"}, "init.name: own needs .*; choose from: generator, images, labels, twin"),
        (INITIALIZATIONS, {"options": {"glow": 0.1}}, "init.name: own has the option glow, which it does not need"),
        (NORMALIZATIONS, {"options": ["polish"]}, r"normalization.name: own: its options are a mapping .* not \['pol"),
        (NETWORKS, {"positions": "after"}, "model.name: own: its positions are some of"),
    ],
)
def test_facts_that_contradict_each_other_are_refused(registered, kind, facts, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        registered(kind, "own", "math:hypot", **facts)
    assert "own" not in kind


@pytest.mark.parametrize(("kind", "options"), [(NORMALIZATIONS, {"groups": 3}), (NORMALIZATIONS, {"affine": True})])
def test_a_default_of_the_schema_is_not_another_one_for_a_choice(registered, kind, options):
    (key,), group = options, kind.key.removesuffix(".name")
    registered(kind, "own", "math:hypot", options=options)
    with pytest.raises(UserError, match=f"^{group}.{key}: own gives it a default, and the group's own is"):
        extras(group)
    registered(kind, "other", "math:hypot", options={key: None})
    del kind._entries["own"]
    assert key not in extras(group)


def test_a_normalization_is_a_module(registered):
    registered(NORMALIZATIONS, "lost", lambda channels, config, spatial: None)
    with pytest.raises(UserError, match=r"^normalization.name: lost: its builder has to return a module, not NoneType"):
        create_model("mlp", depth=1, width=2, normalization="lost")


@pytest.mark.parametrize("coefficient", [0.0, -1.0, float("nan"), float("inf")])
def test_an_aggregation_from_outside_that_would_lose_the_guarantee_is_refused(registered, coefficient):
    registered(AGGREGATIONS, "lost", lambda outputs: coefficient)
    with pytest.raises(
        UserError, match=rf"aggregation.name: lost gives 3 outputs the coefficient {coefficient}; it mus"
    ):
        FarkasRule("lost").coefficient(3)


def test_options_that_only_an_entry_from_outside_has_reach_its_builder(registered):
    def scaled(channels, config, spatial):
        module = Doubled()
        module.factor = config.factor
        return module

    registered(NORMALIZATIONS, "scaled", scaled, options={"factor": 2.0})
    registered(NETWORKS, "taller", lambda plan: nn.Flatten(plan.options.storeys), options={"storeys": 1})
    registered(INITIALIZATIONS, "shrink", lambda model, share: [p.data.mul_(share) for p in model.parameters()],
               needs=("share",), options={"share": 0.5})  # fmt: skip
    model = create_model("mlp", depth=1, width=2, normalization={"name": "scaled", "factor": 3.0})
    assert model.hidden[0].norm.factor == 3.0
    assert create_model("mlp", depth=1, width=2, normalization="scaled").hidden[0].norm.factor == 2.0
    assert (create_model("taller").start_dim, create_model("taller", storeys=2).start_dim) == (1, 2)
    before = model.classifier.bias.clone()
    initialize(model, "shrink", share=0.25)
    assert torch.equal(model.classifier.bias, 0.25 * before)
    initialize(model, "shrink")
    assert torch.equal(model.classifier.bias, 0.125 * before)


def test_what_is_registered_outside_takes_part_in_the_configuration(registered):
    registered(NETWORKS, "outside", Plain, farkas=True, options={"width": 5}, spatial=False)
    registered(INITIALIZATIONS, "constant", lambda model, gain: None, needs=("gain",))
    values = {"lr": {"value": 0.1}, "dataset": {"name": "digits"}}
    outside, plain = ({**values, "model": {"name": name}} for name in ("outside", "mlp"))
    sums = [identify(parse({**each, "aggregation": {"name": "sum"}})).hash for each in (outside, plain)]
    means = [identify(parse({**each, "aggregation": {"name": "mean"}})).hash for each in (outside, plain)]
    assert (sums[0] != means[0], sums[1] == means[1]) == (True, True)
    parse({**outside, "model": {"name": "outside", "width": 7}, "init": {"name": "constant", "gain": 2.0}})
    with pytest.raises(UserError, match=r"model.depth"):
        parse({**outside, "model": {"name": "outside", "depth": 7}})
    with pytest.raises(UserError, match=r"init.gain"):
        parse({**outside, "init": {"name": "zero", "gain": 2.0}})


@pytest.mark.parametrize("name", INITIALIZATIONS)
def test_an_initialization_takes_what_it_says_that_it_needs(name):
    entry = INITIALIZATIONS[name]
    _, *arguments = inspect.signature(entry.build).parameters
    assert sorted(arguments) == sorted(entry.needs)
    assert (entry.options.keys() & {"gain", "bias"}) == set(entry.needs) & {"gain", "bias"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.key)
def test_every_builder_is_where_the_catalogue_says(kind):
    assert len(kind) > 0
    assert all(callable(kind[name].build) for name in kind)


def test_the_library_offers_what_it_says_and_loads_it_when_it_is_used():
    assert all(getattr(farkas_exp, name) is not None for name in farkas_exp.__all__)
    assert {name for names in farkas_exp._PLACES.values() for name in names} == set(farkas_exp.__all__)
    code = "import sys, farkas_exp, farkas_exp.layers.catalogue as c, farkas_exp.initialization.catalogue as i;" \
           "list(c.NORMALIZATIONS), list(i.INITIALIZATIONS); sys.exit('torch' in sys.modules)"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_table_pins_what_is_a_methods_own_in_whatever_registry_it_stands():
    owned = {registry.METHODS[name].group for name in registry.METHODS} - {""}
    groups = {group.key.removesuffix(".name") for group in registry.METHOD_GROUPS}
    assert owned == {"dropout"}
    assert sorted(kinds.METHODS) == sorted(f"{group}." for group in owned | groups)
