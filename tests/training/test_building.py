"""What the seed of a run decides: its initial weights, and nothing of the caller's random numbers."""

import pytest
import torch

from farkas_exp.data import build_data
from farkas_exp.machine.seeding import derive_seed
from farkas_exp.training.building import build_model
from tests.configs import config

CPU = torch.device("cpu")


def weights(seed: int, **overrides) -> dict[str, torch.Tensor]:
    made = config(seed=seed, **overrides)
    data = build_data(made.dataset, made.augmentation, batch_size=40, seed=seed, device="cpu")
    return build_model(made, data, CPU).state_dict()


@pytest.mark.parametrize("init", ["pytorch", "kaiming", "orthogonal"])
@pytest.mark.parametrize("model", ["resnet18", "farkasnet18"])
def test_the_seed_of_the_run_decides_its_initial_weights(init, model):
    setting = {"model": {"name": model}, "init": {"name": init}}
    first, again, other = weights(0, **setting), weights(0, **setting), weights(1, **setting)
    assert all(torch.equal(first[key], again[key]) for key in first)
    random = [key for key in first if key.endswith("weight") and first[key].unique().numel() > 1]
    assert len(random) > 4
    assert all(not torch.equal(first[key], other[key]) for key in random)


def test_building_a_network_takes_none_of_the_callers_random_numbers():
    torch.manual_seed(7)
    first = weights(0)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), drawn)
    torch.manual_seed(8)
    assert all(torch.equal(value, first[key]) for key, value in weights(0).items())


def test_a_stream_is_named_by_all_its_parts_in_their_order_and_type():
    names = [(0,), (1,), ("0",), (0, 1), (1, 0), (0, "1"), ("a", "bc"), ("ab", "c"), ("abc",), ()]
    assert len({derive_seed(*parts) for parts in names}) == len(names)
    assert all(0 <= derive_seed(*parts) < 2**63 for parts in names)


def test_the_streams_are_the_same_on_every_machine_and_in_every_version():
    """Another formula would give every seed of every experiment other weights, images and masks."""
    assert derive_seed(0, "weights") == 174433883055019982
    assert derive_seed(3, "train", 7) == 995545915228009372
