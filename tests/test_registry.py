"""Names and what they stand for: registration, plugins, mistakes."""

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest

from farkas_exp import registry
from farkas_exp.machine.errors import UserError
from farkas_exp.registry import Entry, Registry


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
    registry.load_plugins.cache_clear()
    yield made
    sys.modules.pop("shapes_catalogue", None)
    registry.load_plugins.cache_clear()


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


def test_a_name_is_registered_once(shapes):
    with pytest.raises(ValueError, match=r"shape.name: 'triangle' is registered already, as 'math:hypot'"):
        shapes.register("triangle", "math:dist")


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
