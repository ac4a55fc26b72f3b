"""The device, the network and its weights: what the configuration, the seed and the machine decide."""

import pytest
import torch
from torch import nn

from farkas_exp.data.base import Batching
from farkas_exp.data.build import build_data
from farkas_exp.layers.farkas import FarkasLayer
from farkas_exp.machine.distributed import ALONE, Processes
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.seeding import derive_seed
from farkas_exp.models.create import create_model
from farkas_exp.training import building
from farkas_exp.training.building import build_model, check_batch, check_memory, choose_device, gpu_index
from tests.configs import config

CPU = torch.device("cpu")


def network(**overrides) -> nn.Module:
    made = config(**overrides)
    data = build_data(made.dataset, made.augmentation, Batching(40, made.seed))
    return build_model(made, data, CPU)


def weights(seed: int, **overrides) -> dict[str, torch.Tensor]:
    return network(seed=seed, **overrides).state_dict()


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


# The device


@pytest.mark.parametrize(
    ("gpus", "chosen"), [(0, {"auto": "cpu", "cpu": "cpu"}), (2, {"auto": "cuda", "cuda": "cuda"})]
)
def test_auto_is_a_gpu_where_there_is_one_and_cuda_asks_for_one(gpus, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    assert {name: choose_device(name) for name in chosen} == {n: torch.device(d) for n, d in chosen.items()}
    assert choose_device("cpu") == CPU
    if not gpus:
        with pytest.raises(UserError, match="device: PyTorch sees no GPU for cuda"):
            choose_device("cuda")


def test_several_processes_of_a_machine_take_a_gpu_each(monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert choose_device("auto", Processes(rank=6, world_size=8, local_rank=2)) == torch.device("cuda", 2)
    assert current == [2]
    assert choose_device("cpu", Processes(rank=6, world_size=8, local_rank=2)) == CPU
    assert choose_device("cuda", ALONE) == torch.device("cuda")


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.delenv("SLURM_LOCALID", raising=False)
    assert [gpu_index(local_rank, 4) for local_rank in range(4)] == [0, 1, 2, 3]
    for local_rank, visible in ((4, 4), (1, 1)):
        with pytest.raises(UserError, match=r"device: process .* has no GPU of its own"):
            gpu_index(local_rank, visible)
    monkeypatch.setenv("SLURM_LOCALID", "3")  # --gpus-per-task shows each task one
    assert gpu_index(3, 1) == 0


# The network


def test_the_network_is_that_of_the_configuration_and_the_data():
    model = network(aggregation={"name": "mean", "margin": 0.2}, activation={"name": "elu"})
    rules = {module.rule for module in model.modules() if isinstance(module, FarkasLayer)}
    assert {(rule.aggregation, rule.margin, rule.cutoff < 0) for rule in rules} == {("mean", 0.2, True)}
    planar = {
        "model": {"name": "mlp", "depth": 1, "width": 4, "blocks": None, "widths": None},
        "dataset": {"name": "moons", "train_limit": None},
        "augmentation": {"crop_padding": 0, "flip": False, "cutout": 0},
    }  # fmt: skip
    assert network(**planar)(torch.rand(3, 2, 1, 1)).shape == (3, 2), "points of the plane in two classes"


@pytest.mark.parametrize("channels_last", [False, True])
def test_channels_last_is_the_layout_of_the_weights(channels_last):
    kernels = [p for p in network(channels_last=channels_last).parameters() if p.dim() == 4 and p.shape[2] > 1]
    wide = [kernel for kernel in kernels if kernel.shape[1] > 1]
    assert wide
    assert {kernel.is_contiguous(memory_format=torch.channels_last) for kernel in wide} == {channels_last}


# What the initialization is given


def given(monkeypatch, **overrides):
    seen = {}
    monkeypatch.setattr(building, "initialize", lambda model, init, **arguments: seen.update(arguments))
    network(**overrides)
    return seen


@pytest.mark.parametrize(("init", "images"), [("lsuv", 40), ("local_minimum", 200)])
def test_an_initialization_sees_a_batch_or_where_it_needs_that_the_whole_set(init, images, monkeypatch):
    seen = given(monkeypatch, init={"name": init})
    assert (len(seen["images"]), len(seen["labels"]), seen["images"].dtype) == (images, images, torch.float32)
    assert seen["twin"] is None


def test_the_farkas_twin_has_the_sizes_of_the_plain_network(monkeypatch):
    plain = {"model": {"name": "resnet18", "blocks": [1, 2], "widths": [4, 6]}, "normalization": {"name": "none"}}
    twin = given(monkeypatch, init={"name": "match_farkas"}, **plain)["twin"]
    expected = create_model("farkasnet18", in_channels=1, image_size=8, blocks=[1, 2], widths=[4, 6])
    assert str(twin) == str(expected)


# What is refused


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("mlp", 8, {"normalization": "batch"}),
        ("farkasnet18", 8, {"normalization": "batch"}),  # its last maps have one pixel
        ("resnet34", 32, {"head_bn": True}),
    ],
)
def test_a_batch_of_one_image_is_refused_where_a_normalization_would_have_one_value(name, size, options):
    model = create_model(name, image_size=size, **options)
    with pytest.raises(UserError, match=r"batch_size: with 1 image a process, a batch normalization has one value"):
        check_batch(model, (3, size, size), 1)
    check_batch(model, (3, size, size), 2)
    model(torch.rand(2, 3, size, size))


@pytest.mark.parametrize(("name", "options"), [("mlp", {}), ("resnet34", {"normalization": "batch"})])
def test_a_batch_of_one_image_trains_where_there_is_more_to_normalize(name, options):
    model = create_model(name, **options)
    check_batch(model, (3, 32, 32), 1)
    assert model.train()(torch.rand(1, 3, 32, 32)).shape == (1, 10)
    assert not any(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("mlp", {"depth": 1000, "width": 100_000}), ("resnet18", {"blocks": (9,), "widths": (100_000,)})],
)
def test_weights_that_do_not_fit_into_memory_are_refused(name, sizes):
    state = torch.get_rng_state()
    with torch.device("meta"):
        model = create_model(name, **sizes)
    with pytest.raises(UserError, match=r"model: its [\d,]+ parameters take [\d,]+ GiB, and this machine has"):
        check_memory(model)
    assert torch.equal(state, torch.get_rng_state())
    with torch.device("meta"):
        check_memory(create_model("farkasnet101"))
