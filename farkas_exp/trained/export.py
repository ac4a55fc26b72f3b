"""`python -m farkas_exp export RUN format=...`: writes the network of a run for other programs."""

from collections.abc import Sequence

from farkas_exp.machine.commands import command
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.output import say
from farkas_exp.machine.terminal import printable
from farkas_exp.runs.command import folder_at, paths_and_words
from farkas_exp.trained.deployed import SUFFIXES, check_format

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
