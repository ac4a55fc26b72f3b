"""The measurements as text."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def headline(machine: Mapping[str, Any]) -> str:
    """Which machine it is, and whether it is busy with something else."""
    gpu = f", {machine['gpu']}" if machine["gpu"] else ", no GPU (its figures are not measured)"
    load = machine["load"] or 0.0
    busy = (
        f"\nThe machine is busy (load {load:.1f}): measure again when it is quiet." if load > machine["threads"] else ""
    )
    return (
        f"{machine['host']}: {machine['processor']}, {machine['threads']} threads{gpu}, torch {machine['torch']},"
        f" {machine['time']}{busy}"
    )


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A title and columns, the first to the left."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    ]
    return "\n".join(["", title, *lines])


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}"


def _memory(facts: Mapping[str, Any]) -> str:
    return f"{(facts['peak_bytes'] or facts['kept_bytes']) / 2**20:.0f}"


RATIOS = {"farkasnet": "farkas_over_resnet", "library": "library_over_resnet", "literal": "literal_over_resnet"}


def networks(found: Sequence[Mapping[str, Any]]) -> str:
    """Whole networks."""
    memory = "peak MiB" if any(f["peak_bytes"] for row in found for f in row["networks"].values()) else "kept MiB"
    rows = [
        [
            f"{kind} {row['depth']}", f"{facts['milliseconds']:.0f}", f"{facts['images_per_second']:.0f}",
            f"{facts['epoch_seconds']:.1f}", f"{facts['macs_per_image'] / 1e6:.1f}",
            f"{100 * facts['share_of_matmul']:.0f} %", _memory(facts),
            f"{row[RATIOS[kind]]:.3f}" if kind in RATIOS else "1",
        ]
        for row in found for kind, facts in row["networks"].items()
    ]  # fmt: skip
    header = ["network", "ms/step", "images/s", "s/epoch", "MMAC/image", "of matmul", memory, "ratio"]
    title = (
        f"Training step, batch {found[0]['batch']}, 32x32, no normalization, fp32"
        " (library: without the native convolution; literal: over activations)"
    )
    return table(title, header, rows)


def layers(found: Sequence[Mapping[str, Any]]) -> str:
    """Single layers."""
    rows = [
        [f"{row['channels']}@{row['size']}", str(row["algorithm"]), _milliseconds(row["seconds"]["plain"]),
         f"{row['native']:.2f}" if "native" in row else "", f"{row['farkas']:.2f}", f"{row['literal']:.2f}"]
        for row in found
    ]  # fmt: skip
    title = "One layer, forward and backward: ratio to convolution + bias (+ shortcut) + ReLU"
    return table(title, ["channels@size", "algorithm", "plain ms", "native", "library", "literal"], rows)


def pipeline(found: Mapping[str, Any]) -> str:
    """Input pipelines."""
    rates = found["images_per_second"]
    rows = [
        ["on the device", f"{rates['ours']:.0f}"],
        [f"DataLoader, {found['loader_workers']} workers", f"{rates['loader']:.0f}"],
    ]
    title = f"Input pipeline (crop, flip, cutout): {found['ours_over_loader']:.1f} times the DataLoader"
    return table(title, ["pipeline", "images/s"], rows)


def compared(title: str, key: str, head: str = "network") -> Callable[[Sequence[Mapping[str, Any]]], str]:
    """A table of candidates and the ratio of two of them."""

    def show(found: Sequence[Mapping[str, Any]]) -> str:
        names = list(found[0]["seconds"])
        rows = [[r[head], *(_milliseconds(r["seconds"][name]) for name in names), f"{r[key]:.3f}"] for r in found]
        return table(title, [head, *(f"{name} ms" for name in names), "ratio"], rows)

    return show


def modes(found: Sequence[Mapping[str, Any]]) -> str:
    """Eager and compiled steps."""
    rows = []
    for row in found:
        eager = row["seconds"]["none"]
        for mode, seconds in row["seconds"].items():
            first = row["preparation"].get(mode)
            shown = "" if first is None else f"{first:.0f}"
            rows.append(
                [row["network"], row["precision"], mode, _milliseconds(seconds), f"{seconds / eager:.2f}", shown]
            )
        rows += [
            [row["network"], row["precision"], f"{mode}: {why}", "", "", ""]
            for mode, why in row["preparation"].items() if isinstance(why, str)
        ]  # fmt: skip
    header = ["network", "precision", "compile", "ms/step", "ratio", "first 5 steps, s"]
    return table("Eager against compiled, batch 128 (on a CPU: one block of width 16)", header, rows)


def packing(found: Sequence[Mapping[str, Any]]) -> str:
    """Several runs at once."""
    base = found[0]["seconds"]
    rows = [[str(r["packing"]), str(r["runs"]), f"{r['seconds']:.1f}", f"{base / r['seconds']:.2f}"] for r in found]
    return table("Runs at once (packing), whole commands", ["packing", "runs", "seconds", "speed-up"], rows)


def growth(found: Sequence[Mapping[str, Any]]) -> str:
    """How the cost grows."""
    rows = [
        [
            row["axis"],
            str(row["value"]),
            *map(_milliseconds, row["seconds"].values()),
            f"{row['farkas_over_resnet']:.2f}",
        ]
        for row in found
    ]
    title = "Growth from [3,3,3] blocks of width 16, batch 64: depth = blocks a stage"
    return table(title, ["axis", "value", "ResNet ms", "FarkasNet ms", "ratio"], rows)


TABLES: dict[str, Callable[[Any], str]] = {
    "networks": networks,
    "pipeline": pipeline,
    "trainer": compared("An epoch of the trainer against a hand-written loop", "trainer_over_bare", "case"),
    "layers": layers,
    "layouts": compared("Memory format", "nchw_over_channels_last"),
    "normalization": compared("What batch normalization costs", "batch_over_none"),
    "modes": modes,
    "packing": packing,
    "growth": growth,
}
