"""Two moons with many seeds at once: thin deep perceptrons and the separation constraints, written out by hand.

    python scripts/separation_seeds.py [--method sep_u|sep_p|sep_up] [--depth 60] [--width 3] [--seeds 32]

A second implementation beside the package's, to tell what a method does from what ten seeds happen to show: the weights
of all seeds are in one tensor a layer, so that 32 runs cost little more than one.
"""

import argparse
import math
import sys
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from farkas_exp.config.schema import DatasetConfig
from farkas_exp.data.arrays.moons import load
from farkas_exp.machine.commands import check_counts, command


def penalty(z: Tensor, method: str, reduction: str) -> Tensor:
    """The constraints of Riera et al. (2019) on pre-activations (layers, seeds, points, units), summed over seeds."""

    def slack(over: int) -> Tensor:
        return (F.relu(1 - z.amax(over)) + F.relu(1 + z.amin(over))) / 2

    units, points = slack(2), slack(3)
    if reduction == "balanced":
        units = units * (z.shape[2] / z.shape[3])
    return units.sum() * (method != "sep_p") + points.sum() * (method != "sep_u")


def train(
    method: str, depth: int, width: int, seeds: int, epochs: int, reduction: str = "balanced", stratify: bool = True
) -> tuple[Tensor, Tensor]:
    """The best and the last training accuracy of each seed: Adam at .01, lambda 1e-4, Glorot's weights, one batch."""
    data = load(DatasetConfig(name="moons", train_size=85, test_size=15, stratify=stratify), torch.device("cpu"))
    labels = data.train_labels.expand(seeds, -1)
    generator = torch.Generator().manual_seed(1000)
    parameters: list[Tensor] = []
    for inputs, outputs in [(2, width), *[(width, width)] * (depth - 1), (width, 2)]:
        bound = math.sqrt(6 / (inputs + outputs))
        weight = (2 * torch.rand(seeds, inputs, outputs, generator=generator) - 1) * bound
        parameters += [weight.requires_grad_(), torch.zeros(seeds, 1, outputs).requires_grad_()]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    best = last = torch.zeros(seeds)
    for _ in range(epochs):
        hidden = data.train_images.reshape(-1, 2).expand(seeds, -1, -1)
        seen: list[Tensor] = []
        for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
            seen.append(torch.baddbmm(bias, hidden, weight))
            hidden = seen[-1].relu()
        logits = torch.baddbmm(parameters[-1], hidden, parameters[-2])
        last = (logits.argmax(2) == labels).float().mean(1)
        best = torch.maximum(best, last)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / labels.shape[1]
        optimizer.zero_grad()
        (loss + 1e-4 * penalty(torch.stack(seen), method, reduction)).backward()
        optimizer.step()
    return best, last


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=("sep_u", "sep_p", "sep_up"), default="sep_up")
    parser.add_argument("--reduction", choices=("balanced", "sum"), default="balanced")
    for name, value in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--not-stratified", dest="stratify", action="store_false")
    return parser


COUNTS = {"depth": 60, "width": 3, "seeds": 32, "epochs": 1000}
"""What is a number of at least 1, with its default."""


@command(lambda: parser().format_help())
def main(arguments: Sequence[str]) -> None:
    """Train and print means and, of several seeds, standard deviations."""
    given = parser().parse_args(arguments)
    check_counts(given, COUNTS)
    for name, values in zip(("best", "final"), train(**vars(given)), strict=True):
        spread = f" ± {values.std():.3f}" if len(values) > 1 else ""
        print(f"{name} training accuracy: {values.mean():.3f}{spread} (n = {len(values)})")


if __name__ == "__main__":
    sys.exit(main())
