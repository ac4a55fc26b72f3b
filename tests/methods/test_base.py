"""The protocol of methods: who may register, what is added to the loss, and what watches what."""

from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch

from farkas_exp.config.extensions import foreign_code
from farkas_exp.machine.errors import UserError
from farkas_exp.methods.base import Method, Training, build_methods, changes_gradients, execution_mode, penalized
from farkas_exp.registry import ATTACKS, CALLBACKS, METHOD_GROUPS, METHODS, methods_of
from tests.configs import config

Nothing: Any = None


class Plain(Method):
    """A method that does what the protocol does by default."""


@pytest.fixture
def registered(monkeypatch):
    """Registries that forget after a test what it registers."""
    for registry in (*METHOD_GROUPS, METHODS):
        assert list(registry), "the package's own are there"
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def test_methods_act_in_the_order_of_their_groups_and_then_of_their_registration(registered):
    ATTACKS.register("kind", Plain)
    METHODS.register("always", Plain)
    every = config(
        attack={"name": "kind"}, regularizer={"name": "sep_u"}, callback={"name": "rank_max"}, debug="anomaly",
        optimizer={"ema": 0.5, "clip_norm": 1.0, "clip_units": 0.1}, dropout={"rate": 0.1},
        augmentation={"cutmix": 1.0},
    )  # fmt: skip
    assert [method.name for method in methods_of(every)] == [
        "sep_u", "kind", "rank_max", "anomaly", "averaging", "unit_clipping", "norm_clipping", "dropout", "mixing",
        "always",
    ]  # fmt: skip
    assert [method.name for method in methods_of(config())] == ["always"]
    with pytest.raises(ValueError, match=r"^attack.name: 'kind' is registered already"):
        ATTACKS.register("kind", Plain)
    with pytest.raises(UserError, match=r"^callback.name: unknown 'rank_mix'; did you mean 'rank_min'"):
        methods_of(config(callback={"name": "rank_mix"}))


def test_the_code_of_a_method_from_outside_is_recorded_whatever_asks_for_it(registered):
    METHODS.register("always", "string:Formatter")
    CALLBACKS.register("named", "calendar:Calendar")
    assert foreign_code(config()).keys() == {"string"}
    assert foreign_code(config(callback={"name": "named"})).keys() == {"string", "calendar"}


@pytest.mark.parametrize("registry", [*METHOD_GROUPS, METHODS], ids=lambda registry: registry.key)
def test_every_method_is_where_the_catalogue_says(registry):
    assert all(issubclass(registry[name].build, Method) for name in registry)
    assert "none" in registry or registry is METHODS


def test_a_method_that_defines_nothing_changes_nothing():
    made = config()
    method = Plain(Training(made, torch.nn.Linear(1, 1), Nothing, Nothing))
    images, labels = torch.rand(2, 1), torch.tensor([0, 1])
    assert method.mix(images, labels) == (images, labels)
    assert method.prepare(images, labels) is images
    assert method.penalty(images) is None
    assert method.alone is False
    assert method.learning_rate(0.25, 3) == 0.25
    assert method.after_epoch(0) is False
    assert method.state() == {}
    assert Plain.executed_as(made, "graph") == "graph"
    assert not changes_gradients(method)
    with method.watching() as watched, method.evaluating() as evaluated:
        assert watched is evaluated is None
    method.begin_epoch(0)
    method.change_gradients()
    method.after_step()
    method.restore({})
    Plain.refuses(made, 2)
    assert method.training.share() is None


def test_every_method_watches_the_forward_pass_and_adds_its_own_term_of_the_logits():
    seen = []

    class Watching(Method):
        def __init__(self, factor: float) -> None:
            self.factor = factor

        @contextmanager
        def watching(self):
            seen.append(("in", self.factor))
            yield
            seen.append(("out", self.factor))

        def penalty(self, logits):
            assert seen[-1][0] == "out", "the forward pass is over"
            return None if self.factor < 0 else self.factor * logits.sum()

    outputs = torch.tensor([2.0, 2.0], requires_grad=True)

    def forward(images):
        seen.append(("forward", images))
        return outputs

    logits, terms = penalized([Watching(0.0), Watching(-1.0), Watching(3.0)], forward, cast(Any, "images"))
    assert logits is outputs
    assert [term.item() for term in terms] == [0, 12], "a term of zero has a gradient; a method may have none"
    assert seen == [("in", 0), ("in", -1), ("in", 3), ("forward", "images"), ("out", 3), ("out", -1), ("out", 0)]


def test_each_method_takes_the_mode_that_the_one_before_it_left(registered):
    class First(Method):
        @classmethod
        def executed_as(cls, config, mode):
            return mode + " first"

        @classmethod
        def refuses(cls, config, world_size):
            worlds.append(world_size)

    class Second(First):
        @classmethod
        def executed_as(cls, config, mode):
            return mode + " second"

    worlds: list[int] = []
    METHODS.register("first", First)
    METHODS.register("second", Second, asked=lambda config: config.epochs == 3)
    assert execution_mode(config(epochs=3), "graph", world_size=2) == "graph first second"
    assert execution_mode(config(epochs=4), "graph") == "graph first"
    assert worlds == [2, 2, 1]
    built = build_methods(Training(config(epochs=3), torch.nn.Linear(1, 1), Nothing, Nothing))
    assert [type(method) for method in built] == [First, Second]
    assert changes_gradients(built[0]) is False
