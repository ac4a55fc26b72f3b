"""From a configuration to its device and its initialized network."""

import copy
import os
from collections.abc import Sequence
from dataclasses import replace

import torch

from farkas_exp.config.schema import AggregationConfig, Config, ModelConfig
from farkas_exp.data.base import Batching, DataInfo, ImageData
from farkas_exp.data.build import build_data
from farkas_exp.initialization.apply import initialize
from farkas_exp.layers.paths import plain_path
from farkas_exp.machine.cores import memory
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.processes import ALONE, Processes
from farkas_exp.machine.seeding import derive_seed
from farkas_exp.models.create import create_model
from farkas_exp.models.kernels import accelerated
from farkas_exp.registry import INITIALIZATIONS, NETWORKS


def choose_device(name: str, processes: Processes = ALONE) -> torch.device:
    """The device of `device=auto|cpu|cuda`; each process of a machine has a GPU of its own."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: PyTorch sees no GPU for cuda here; use device=auto or device=cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and processes.are_several:
        index = gpu_index(processes.local_rank, torch.cuda.device_count())
        torch.cuda.set_device(index)
        return torch.device(name, index)
    return torch.device(name)


def gpu_index(local_rank: int, visible: int) -> int:
    """The GPU of process `local_rank` of a machine, or the only one that a scheduler shows this process."""
    if local_rank >= visible > 1 or (local_rank and visible == 1 and "SLURM_LOCALID" not in os.environ):
        raise UserError(
            f"device: process {local_rank} of this machine has no GPU of its own, PyTorch sees {visible}; start at most"
            f" {visible} here, or use device=cpu"
        )
    return local_rank if visible > 1 else 0


def load_data(config: Config, device: torch.device, processes: Processes = ALONE) -> ImageData:
    """The images of `config`, this process's share of each batch; see `build_data`."""
    batching = Batching(config.batch_size, config.seed, device, config.channels_last, processes)
    return build_data(config.dataset, config.augmentation, batching, config.phases, config.debug)


def build_model(config: Config, data: ImageData, device: torch.device) -> torch.nn.Module:
    """The initialized network of `config` for `data`, on `device`; the same for the same seed on every device."""
    init = INITIALIZATIONS[config.init.name]
    if config.model != ModelConfig(config.model.name):  # sizes chosen by the user
        with torch.device("meta"):
            check_memory(network(config, data.info))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(config.seed, "weights"))  # not the GPU's
        model = network(config, data.info)
        twin = _farkas_twin(config, data) if "twin" in init.needs else None
        count = data.info.train_size if init.whole_set else config.batch_size
        images, labels = data.fixed_batch(count)
        initialize(
            model, config.init, images=images.to("cpu", torch.float32), labels=labels.to("cpu"), twin=twin,
            seed=derive_seed(config.seed, "init"),
        )  # fmt: skip
    return placed(model, config, device)


def network(config: Config, info: DataInfo) -> torch.nn.Module:
    """The network of `config` for such data, not initialized."""
    channels, height, _ = info.image_shape
    return create_model(
        config.model, info.num_classes, in_channels=channels, image_size=height, normalization=config.normalization,
        aggregation=config.aggregation, activation=config.activation, head=config.head,
        residual_scaling=config.residual, weight=config.weight,
    )  # fmt: skip


def placed(model: torch.nn.Module, config: Config, device: torch.device) -> torch.nn.Module:
    """The network on `device`, with the memory layout of its training and the kernels that are faster there."""
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model = model.to(device).to(memory_format=layout)  # type: ignore[call-overload]
    return accelerated(model, device)


def _farkas_twin(config: Config, data: ImageData) -> torch.nn.Module | None:
    """The Farkas twin (sum) of a plain network, drawn after it from the same stream, or None."""
    if config.normalization.name != "none":
        raise UserError(f"init.name: {config.init.name} is for networks without normalization; use normalization=none")
    twin = NETWORKS[config.model.name].twin
    if twin is None:
        return None
    return network(replace(config, model=replace(config.model, name=twin), aggregation=AggregationConfig()), data.info)


def check_memory(model: torch.nn.Module) -> None:
    """Check that the weights of a network, given on the meta device, fit into this machine's memory."""
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if size > memory():
        raise UserError(
            f"model: its {size // 4:,} parameters take {size / 2**30:,.0f} GiB, and this machine has"
            f" {memory() / 2**30:,.0f}; choose smaller model.depth, width, blocks or widths"
        )


def check_batch(model: torch.nn.Module, image_shape: Sequence[int], images: int) -> None:
    """Check that no normalization gets a single value a channel, which is its own mean.

    `images` are the fewest in a batch of a process, each (C, H, W).
    """
    if images > 1:
        return
    probe = copy.deepcopy(model).to("meta").train()
    try:
        with plain_path():
            probe(torch.empty(images, *image_shape, device="meta"))
    except ValueError as error:  # PyTorch's check, which would end the first step
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            f"batch_size: with {images} image a process, a batch normalization has one value a channel to normalize;"
            " use a larger batch or another normalization"
        ) from None
