"""A trained network for other programs, by PyTorch's own exporters.

What is exported takes images (N, C, H, W) of values in [0, 1], N of any size, and returns logits: the run's
standardization is part of it. Weights alone (safetensors) are the network's, without that step.
"""

import io
import json
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farkas_exp.machine.errors import UserError, message_of
from farkas_exp.machine.files import replacing
from farkas_exp.runs.command import one_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from farkas_exp.trained.preprocessing import Preprocessing

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torchscript": ".ts", "pt2": ".pt2"}

check_format = one_of("format", tuple(SUFFIXES))
"""Refuse a format that there is none of."""


def file_for(format: str, folder: Path, path: str | PathLike[str] | None) -> Path:
    """The file to export to: `path`, or `network.onnx` and so on in `folder`.

    Raises:
        UserError: another format, or no folder for the file.
    """
    check_format(format)
    target = folder / f"network{SUFFIXES[format]}" if path is None else Path(path)
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise UserError(f"out: {target} is a folder" if target.is_dir() else f"out: no folder {target.parent}")
    return target


def export(
    network: "nn.Module", preprocessing: "Preprocessing", facts: Mapping[str, Any], format: str, target: Path
) -> None:
    """Write a network to a file, which is there whole or not at all.

    Args:
        network: the network; a copy of it on the CPU, without kernels, is written.
        preprocessing: what images go through before it.
        facts: what safetensors keeps beside the weights, as JSON by key.
        format: `onnx`, `torchscript`, `pt2` (a program of `torch.export`), or `safetensors` (the weights alone).
        target: the file (`file_for`).

    Raises:
        UserError: a package that the format needs is missing, or PyTorch cannot export the network to it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an exporter is going to be replaced by another one
        try:
            content = _content(network, preprocessing, facts, format)
        except ImportError as error:
            raise UserError(
                f"format: {format} needs the package {error.name}; pip install {_PACKAGES[format]}"
            ) from None
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            reason = message_of(error, 300)
            raise UserError(f"format: PyTorch cannot export this network to {format} ({reason})") from error
    with replacing(target) as file:  # PyTorch itself ends the process where the disk is full
        file.write(content)


def deployed(network: "nn.Module", preprocessing: "Preprocessing") -> "nn.Module":
    """A network as it is exported: on the CPU, of plain layers, with its standardization before it."""
    from torch import nn

    class Deployed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.standardized = plain(network), preprocessing.standardized

        def forward(self, images: "Tensor") -> "Tensor":
            return self.network(self.standardized(images))

    return Deployed().eval()


def plain(network: "nn.Module") -> "nn.Module":
    """A copy of a network on the CPU, without kernels."""
    import torch

    from farkas_exp.models.kernels import plain_copy

    model = plain_copy(network).eval()
    return model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _content(network: "nn.Module", preprocessing: "Preprocessing", facts: Mapping[str, Any], format: str) -> bytes:
    import torch

    if format == "safetensors":
        from safetensors.torch import save  # type: ignore[import-not-found]

        return save(plain(network).state_dict(), {key: json.dumps(value) for key, value in facts.items()})
    file = io.BytesIO()
    if format == "onnx":
        import onnxscript  # type: ignore[import-not-found]  # noqa: F401 - asked for before PyTorch works for seconds
    example = torch.rand(2, *preprocessing.shape)
    if format == "torchscript":
        with torch.no_grad():
            torch.jit.save(torch.jit.trace(deployed(network, preprocessing), example), file)
        return file.getvalue()
    sizes = ({0: torch.export.Dim("images", min=1, max=2**31 - 1)},)  # PyTorch 2.6 asks for an end
    program = torch.export.export(deployed(network, preprocessing), (example,), dynamic_shapes=sizes)
    if format == "pt2":
        torch.export.save(program, file)
    else:
        made = torch.onnx.export(program, input_names=["images"], output_names=["logits"], verbose=False)
        assert made is not None
        file.write(made.model_proto.SerializeToString())
    return file.getvalue()


_PACKAGES = {"safetensors": "safetensors", "onnx": "onnx onnxscript"}
