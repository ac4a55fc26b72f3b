"""The identities of the documented experiments: a change of one orphans every run that anyone has of it.

`frozen_identities.json` has the hash of every cell by experiment, with a name for the reader. Hashes may be added.
"""

import json

import pytest

from farkas_exp.config.identity import identify
from tests.composing import jobs
from tests.paths import ROOT

FROZEN = json.loads((ROOT / "tests" / "config" / "frozen_identities.json").read_text(encoding="utf-8"))
RATE = ["lr.value=0.03"]
LABELLED = ["dataset.root=x", 'dataset.label="CIFAR-10, JPEG-recompressed, 16x16"']
GIVEN = {"table3": ["dataset.root=x"], "table1_small_images": LABELLED, "without_normalization_test": RATE,
         "transformers_test": RATE}  # fmt: skip
"""What an experiment cannot be composed without; the second stage takes its rate from the first one's runs.

The label is that of the published runs (`results/table1_small_images.jsonl`)."""


def hashes(experiment: str, *given: str) -> set[str]:
    """The identities of all runs of an experiment."""
    return {identify(job).hash for job in jobs(experiment, *GIVEN.get(experiment, []), *given)}


def test_every_cell_has_a_hash_of_its_own() -> None:
    assert {name: len(cells) for name, cells in FROZEN.items()} == {
        "table1": 16, "table2": 12, "table3": 6, "table4": 4, "table1_controls": 82,
        "without_normalization": 180, "without_normalization_test": 30,
        "table4_controls": 4, "table1_small_images": 31, "transformers": 42, "transformers_test": 7,
    }  # fmt: skip


def test_the_published_runs_on_small_images_are_cells_of_their_experiment() -> None:
    lines = (ROOT / "results" / "table1_small_images.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["run"].rsplit("-", 1)[1] for line in lines} <= set(FROZEN["table1_small_images"])


@pytest.mark.parametrize("experiment", FROZEN)
def test_the_identities_of_an_experiment_do_not_move(experiment: str) -> None:
    assert hashes(experiment) == set(FROZEN[experiment])
