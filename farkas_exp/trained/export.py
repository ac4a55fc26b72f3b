"""`python -m farkas_exp export RUN format=...`: a trained network for other programs, by PyTorch's own exporters.

What is exported takes images (N, C, H, W) of values in [0, 1], N of any size, and returns logits: the run's
standardization is part of it. Weights alone (safetensors) are the network's, without that step.
"""

import io
import json
import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from farkas_exp.machine.commands import command
from farkas_exp.machine.errors import UserError, message_of
from farkas_exp.machine.files import replacing
from farkas_exp.machine.output import say
from farkas_exp.machine.terminal import printable
from farkas_exp.runs.command import folder_at, one_of, paths_and_words

if TYPE_CHECKING:
    from torch import Tensor, nn

    from farkas_exp.trained.run import Run

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torchscript": ".ts", "pt2": ".pt2"}

HELP = f"""\
python -m farkas_exp export RUN format=FORMAT [out=FILE]

Writes the network of a run directory for other programs. It takes images (N, C, H, W) of values in [0, 1] and returns
logits; the standardization of the run is a part of it.

format=onnx     one of: {", ".join(SUFFIXES)} (safetensors: the weights alone, without the standardization)
out=FILE        the file (default: network.onnx and so on in the run directory)

example: python -m farkas_exp export runs/resnet18-.../seed_0 format=onnx
"""


@command(HELP)
def main(arguments: Sequence[str]) -> None:
    """Write the file and print its path."""
    paths, given = paths_and_words(arguments, ("format", "out"))
    if len(paths) != 1 or "format" not in given:
        raise UserError("export: expected one run directory and format=...; see export --help")
    check_format(given["format"])
    out = folder_at("out")(given["out"]) if "out" in given else None
    from farkas_exp.trained.run import load

    say(printable(load(paths[0], "cpu").export(given["format"], out)))


check_format = one_of("format", tuple(SUFFIXES))
"""Refuse a format that there is none of."""


def export(run: "Run", format: str, path: str | PathLike[str] | None = None) -> Path:
    """Write the network of a run; the file is there whole or not at all.

    Args:
        run: the run.
        format: `onnx`, `torchscript`, `pt2` (a program of `torch.export`), or `safetensors` (the weights alone).
        path: the file; by default `network.onnx` and so on in the run directory.

    Raises:
        UserError: another format, no folder for the file, a package that it needs is missing, or PyTorch cannot export
            the network to it.
    """
    check_format(format)
    target = run.record.path / f"network{SUFFIXES[format]}" if path is None else Path(path)
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise UserError(f"out: {target} is a folder" if target.is_dir() else f"out: no folder {target.parent}")
    run.network  # noqa: B018 - if it cannot be loaded, no format is to blame
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an exporter is going to be replaced by another one
        try:
            content = _content(run, format)
        except ImportError as error:
            raise UserError(
                f"format: {format} needs the package {error.name}; pip install {_PACKAGES[format]}"
            ) from None
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            reason = message_of(error, 300)
            raise UserError(f"format: PyTorch cannot export this network to {format} ({reason})") from error
    with replacing(target) as file:  # PyTorch itself ends the process where the disk is full
        file.write(content)
    return target


def deployed(run: "Run") -> "nn.Module":
    """The network of a run as it is exported: on the CPU, of plain layers, with its standardization before it."""
    from torch import nn

    class Deployed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.standardized = plain(run), run.preprocessing.standardized

        def forward(self, images: "Tensor") -> "Tensor":
            return self.network(self.standardized(images))

    return Deployed().eval()


def plain(run: "Run") -> "nn.Module":
    """A copy of the network on the CPU, without kernels."""
    import torch

    from farkas_exp.models.kernels import plain_copy

    model = plain_copy(run.network).eval()
    return model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _content(run: "Run", format: str) -> bytes:
    import torch

    if format == "safetensors":
        from safetensors.torch import save  # type: ignore[import-not-found]

        facts = {"config": run.record.config, "classes": run.classes, "preprocessing": vars(run.preprocessing)}
        return save(plain(run).state_dict(), {key: json.dumps(value) for key, value in facts.items()})
    file = io.BytesIO()
    if format == "onnx":
        import onnxscript  # type: ignore[import-not-found]  # noqa: F401 - asked for before PyTorch works for seconds
    example = torch.rand(2, *run.preprocessing.shape)
    if format == "torchscript":
        with torch.no_grad():
            torch.jit.save(torch.jit.trace(deployed(run), example), file)
        return file.getvalue()
    sizes = ({0: torch.export.Dim("images", min=1, max=2**31 - 1)},)  # PyTorch 2.6 asks for an end
    program = torch.export.export(deployed(run), (example,), dynamic_shapes=sizes)
    if format == "pt2":
        torch.export.save(program, file)
    else:
        made = torch.onnx.export(program, input_names=["images"], output_names=["logits"], verbose=False)
        assert made is not None
        file.write(made.model_proto.SerializeToString())
    return file.getvalue()


_PACKAGES = {"safetensors": "safetensors", "onnx": "onnx onnxscript"}
