"""One trained run for all tests of this room."""

import pytest

from farkas_exp.runs import open_run
from farkas_exp.training.session import train
from tests.configs import config


def trained(folder, **overrides):
    """The run directory of a run that has been trained."""
    made = config(folder, **overrides)
    with open_run(made).locked() as run:
        train(made, run)
    return run.path


@pytest.fixture(scope="session")
def path(tmp_path_factory):
    """A run of one epoch on normalized digits, which has held images out."""
    dataset = {"normalize": True, "validation": 0.25}
    return trained(tmp_path_factory.mktemp("run"), epochs=1, dataset=dataset)
