"""From a configuration to its device and its initialized network."""

import os
from typing import Any

import torch

from farkas_exp.config import Config, to_dict
from farkas_exp.data import ImageData
from farkas_exp.distributed import ALONE, Processes
from farkas_exp.errors import UserError
from farkas_exp.initialization import WHOLE_SET, initialize
from farkas_exp.models import NETWORKS, create_model
from farkas_exp.seeding import derive_seed


def choose_device(name: str, processes: Processes = ALONE) -> torch.device:
    """The device of `device=auto|cpu|cuda`; each process of a machine has a GPU of its own.

    Raises:
        UserError: cuda was asked for and there is none, or there are fewer GPUs than processes.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda was asked for, but PyTorch sees no GPU here; use device=auto or device=cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and processes.are_several:
        index = gpu_index(processes.local_rank, torch.cuda.device_count())
        torch.cuda.set_device(index)
        return torch.device(name, index)
    return torch.device(name)


def gpu_index(local_rank: int, visible: int) -> int:
    """The GPU of process `local_rank` of a machine; where a scheduler shows each process its own one, that one.

    Raises:
        UserError: there are fewer GPUs than processes.
    """
    if local_rank >= visible > 1 or (local_rank and visible == 1 and "SLURM_LOCALID" not in os.environ):
        raise UserError(
            f"device: process {local_rank} of this machine has no GPU of its own, PyTorch sees {visible}; start at most"
            f" {visible} here, or use device=cpu"
        )
    return local_rank if visible > 1 else 0


def build_model(config: Config, data: ImageData, device: torch.device) -> torch.nn.Module:
    """The initialized network of `config` for `data`, on `device`; the same for the same seed on every device."""
    options: dict[str, Any] = {key: value for key, value in to_dict(config.model).items() if value is not None}
    name = options.pop("name")
    channels, height, _ = data.info.image_shape
    options |= {
        "num_classes": data.info.num_classes,
        "in_channels": channels,
        "image_size": height,
        "normalization": config.normalization.name,
        "norm_position": config.normalization.position,
        "norm_affine": config.normalization.affine,
        "norm_groups": config.normalization.groups,
        "residual_alpha": config.residual.alpha,
        "residual_beta": config.residual.beta,
        "residual_depth_exponent": config.residual.depth_exponent,
        "activation": config.activation.name,
        "cutoff": config.activation.cutoff,
        "head": config.head.name,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "weights"))
        model = create_model(
            name,
            aggregation=config.aggregation.name,
            margin=config.aggregation.margin,
            learn_lambda=config.aggregation.learn_lambda,
            **options,
        )
        twin = _farkas_twin(config, options) if config.init.name == "match_farkas" else None
        count = data.info.train_size if config.init.name in WHOLE_SET else config.batch_size
        images, labels = data.fixed_batch(count)
        initialize(
            model, config.init.name, gain=config.init.gain, last_scale=config.init.last_scale,
            last_depth_exponent=config.init.last_depth_exponent, bias=config.init.bias,
            images=images.to("cpu", torch.float32), labels=labels.to("cpu"), twin=twin,
            seed=derive_seed(config.seed, "init"),
        )  # fmt: skip
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    return model.to(device).to(memory_format=layout)  # type: ignore[call-overload]


def _farkas_twin(config: Config, options: dict[str, Any]) -> torch.nn.Module | None:
    """The Farkas network (sum) beside a plain one, drawn after it from the same stream; None where there is none."""
    if config.normalization.name != "none":
        raise UserError("init.name: match_farkas is for networks without normalization; use normalization=none")
    twin = NETWORKS[config.model.name].twin
    return create_model(twin, **options) if twin else None
