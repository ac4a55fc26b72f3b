"""The identities of the documented experiments: a change of one orphans every run that anyone has of it.

`frozen_identities.json` has the hash of every cell by experiment, with a name for the reader. Hashes may be added.
"""

import json

import pytest

from farkas_exp.config.identity import identify
from tests.paths import ROOT
from tests.studies.test_experiments import jobs

FROZEN = json.loads((ROOT / "tests" / "config" / "frozen_identities.json").read_text(encoding="utf-8"))
GIVEN = {"table3": ["dataset.root=x"], "without_normalization_test": ["lr.value=0.03"]}
"""What an experiment cannot be composed without; the second stage takes its rate from the first one's runs."""


def hashes(experiment: str, *given: str) -> set[str]:
    """The identities of all runs of an experiment."""
    return {identify(job).hash for job in jobs(experiment, *GIVEN.get(experiment, []), *given)}


def test_every_cell_has_a_hash_of_its_own() -> None:
    assert {name: len(cells) for name, cells in FROZEN.items()} == {
        "table1": 16, "table2": 12, "table3": 6, "table4": 4, "table1_controls": 66,
        "without_normalization": 132, "without_normalization_test": 22,
    }  # fmt: skip


@pytest.mark.parametrize(
    "experiment",
    [
        "table1", "table2", "table3", "table4", pytest.param("table1_controls", marks=pytest.mark.slow),
        pytest.param("without_normalization", marks=pytest.mark.slow), "without_normalization_test",
    ],
)  # fmt: skip
def test_the_identities_of_an_experiment_do_not_move(experiment: str) -> None:
    assert hashes(experiment) == set(FROZEN[experiment])


def test_the_identities_of_the_control_arms_of_one_network_do_not_move() -> None:
    some = hashes("table1_controls", "model=farkasnet18")
    assert some < set(FROZEN["table1_controls"])
    assert len(some) == 10
