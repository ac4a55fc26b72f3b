"""The protocol of methods: who may register, what is added to the loss, and what watches what."""

from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch

from farkas_exp.methods import base
from farkas_exp.methods.base import Method, Training, build_methods, changes_gradients, execution_mode, penalized
from tests.configs import config

Nothing: Any = None


class Plain(Method):
    """A method that does what the protocol does by default."""

    group, names = "regularizer", ("bare", "plain")


def test_a_name_of_a_group_is_registered_once(monkeypatch):
    assert base.chosen(config()) == []  # the package's own register at the first call, and not in a test's list
    monkeypatch.setattr(base, "_METHODS", [])
    base.register(Plain)
    other = type("Other", (Method,), {"group": "attack", "names": ("plain",)})
    base.register(other)
    again = type("Again", (Method,), {"group": "regularizer", "names": ("new", "plain")})
    with pytest.raises(ValueError, match=r"^regularizer.name: 'plain' is registered already$"):
        base.register(again)
    assert list(base._METHODS) == [Plain, other], "in the order of registration"


def test_a_method_that_defines_nothing_changes_nothing():
    made = config()
    method = Plain(Training(made, torch.nn.Linear(1, 1), Nothing, Nothing))
    images, labels = torch.rand(2, 1), torch.tensor([0, 1])
    assert method.mix(images, labels) == (images, labels)
    assert method.prepare(images, labels) is images
    assert method.penalty(images) is None
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
        group = "regularizer"

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


def test_each_method_takes_the_mode_that_the_one_before_it_left(monkeypatch):
    class First(Method):
        group = "debug"

        @classmethod
        def is_asked(cls, config):
            return True

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

        @classmethod
        def is_asked(cls, config):
            return config.epochs == 3

    worlds: list[int] = []
    assert base.chosen(config()) == []  # see above
    monkeypatch.setattr(base, "_METHODS", [*base._METHODS, First, Second])
    assert execution_mode(config(epochs=3), "graph", world_size=2) == "graph first second"
    assert execution_mode(config(epochs=4), "graph") == "graph first"
    assert worlds == [2, 2, 1]
    built = build_methods(Training(config(epochs=3), torch.nn.Linear(1, 1), Nothing, Nothing))
    assert [type(method) for method in built] == [First, Second]
    assert changes_gradients(built[0]) is False
