"""A call of the library leaves the random numbers of its caller as they were."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from farkas_exp import convert, load
from farkas_exp.machine.random_states import random_states_kept
from farkas_exp.runs import open_run
from farkas_exp.training.session import train
from tests.configs import config


def draw() -> tuple[float, float, float]:
    """The next number of each global stream."""
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def seed() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)


def test_the_callers_numbers_go_on_as_if_nothing_had_been_drawn_also_after_an_error() -> None:
    seed()
    expected = [draw(), draw()]
    seed()
    found = [draw()]
    with pytest.raises(ZeroDivisionError), random_states_kept():
        _ = draw()[0] / 0
    assert [*found, draw()] == expected


@pytest.mark.parametrize("began", [True, False])
def test_so_do_those_of_gpus_which_may_begin_within(monkeypatch: pytest.MonkeyPatch, began: bool) -> None:
    made: list[object] = []
    cuda = {"get_rng_state_all": lambda: ["before"], "set_rng_state_all": made.append, "manual_seed_all": made.append}
    for name, function in {**cuda, "is_initialized": lambda: began}.items():
        monkeypatch.setattr(torch.cuda, name, function)
    torch.default_generator.manual_seed(5)
    with random_states_kept():
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        torch.default_generator.manual_seed(6)
    assert made == ([["before"]] if began else [5])


def test_training_loading_and_converting_draw_nothing_of_the_caller(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    def work() -> None:
        made = config(tmp_path, epochs=1, augmentation={"cutout": 2, "mixup": 0.5})
        with open_run(made).locked() as run:
            train(made, run)
        load(run.path).evaluate()
        convert(network)

    seed()
    expected = draw()
    seed()
    work()
    assert draw() == expected
