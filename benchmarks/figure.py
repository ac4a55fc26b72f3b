"""The measurements as one picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

PLAIN, FARKAS, LIBRARY, LITERAL = "#777777", "#0b6e99", "#7fb8d1", "#d9822b"
ARMS = {"native": ("Farkas, native", FARKAS), "farkas": ("Farkas, the library's convolution", LIBRARY)}


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Four panels: ratios of networks, ratios of layers, speed against the bare alternatives, growth."""
    figure = Figure(figsize=(12, 8.5), layout="constrained")
    axes = figure.subplots(2, 2)
    _networks(axes[0, 0], results["networks"])
    _layers(axes[0, 1], results["layers"])
    _gains(axes[1, 0], results)
    _growth(axes[1, 1], results["growth"])
    machine = results["machine"]
    figure.suptitle(
        f"{machine['processor']}, {machine['threads']} threads{', ' + machine['gpu'] if machine['gpu'] else ''};"
        f" torch {machine['torch']}; {machine['time']}",
        fontsize=11,
    )
    figure.savefig(path, dpi=110)


def _bars(axis: Any, labels: list[str], groups: Mapping[str, tuple[list[float], str]]) -> None:
    width = 0.8 / len(groups)
    for number, (name, (values, colour)) in enumerate(groups.items()):
        places = [i + (number - (len(groups) - 1) / 2) * width for i in range(len(labels))]
        bars = axis.bar(places, values, width, label=name, color=colour)
        axis.bar_label(bars, fmt="%.2f", fontsize=8)
    axis.set_xticks(range(len(labels)), labels)
    axis.axhline(1, color=PLAIN, linewidth=0.8)


def _networks(axis: Any, found: Any) -> None:
    groups = {"Farkas": ([row["farkas_over_resnet"] for row in found], FARKAS)}
    if all(row.get("library_over_resnet") for row in found):
        groups["Farkas, the library's convolution"] = ([row["library_over_resnet"] for row in found], LIBRARY)
    groups["Farkas, over activations"] = ([row["literal_over_resnet"] for row in found], LITERAL)
    _bars(axis, [f"{row['depth']} layers" for row in found], groups)
    axis.set(title="Training step of FarkasNet / ResNet", ylabel="ratio")
    axis.margins(y=0.45)
    axis.legend(fontsize=8, loc="upper right")


def _layers(axis: Any, found: Any) -> None:
    labels = [f"{row['channels']}@{row['size']}, {row['algorithm']}" for row in found]
    groups = {
        label: ([row[key] for row in found], colour)
        for key, (label, colour) in ARMS.items()
        if all(row.get(key) for row in found)
    }
    groups["Farkas, over activations"] = ([row["literal"] for row in found], LITERAL)
    _bars(axis, labels, groups)
    axis.tick_params(axis="x", labelsize=7, rotation=60)
    axis.set_xlabel("channels@size, algorithm", fontsize=8)
    for text in axis.texts:
        text.set(fontsize=6, rotation=90)
    axis.set(title="One layer / convolution + bias (+ shortcut) + ReLU", ylabel="ratio")
    axis.margins(y=0.45)
    axis.legend(fontsize=8, loc="upper right")


def _gains(axis: Any, results: Mapping[str, Any]) -> None:
    base = results["packing"][0]["seconds"]
    gains = {
        "pipeline / DataLoader": results["pipeline"]["ours_over_loader"],
        **{f"bare / trainer ({row['case']})": 1 / row["trainer_over_bare"] for row in results["trainer"]},
        **{f"NCHW / channels_last ({row['network']})": row["nchw_over_channels_last"] for row in results["layouts"]},
        **{f"packing={row['packing']}": base / row["seconds"] for row in results["packing"][1:]},
        **{
            f"compile={mode} ({row['network']}, {row['precision']})": row["seconds"]["none"] / seconds
            for row in results["modes"] for mode, seconds in row["seconds"].items() if mode != "none"
        },
    }  # fmt: skip
    bars = axis.barh(list(gains), list(gains.values()), color=FARKAS)
    axis.bar_label(bars, fmt="%.2f", fontsize=8, padding=3)
    axis.axvline(1, color=PLAIN, linewidth=0.8)
    axis.set(title="Speed-up over the alternative", xscale="log")
    axis.margins(x=0.15)
    axis.tick_params(axis="y", labelsize=8)
    axis.invert_yaxis()


def _growth(axis: Any, found: Any) -> None:
    for axis_name, marker in (("depth", "o"), ("width", "s"), ("batch", "^")):
        rows = [row for row in found if row["axis"] == axis_name]
        factors = [row["value"] / rows[0]["value"] for row in rows]
        for kind, colour in (("resnet", PLAIN), ("farkasnet", FARKAS)):
            times = [1e3 * row["seconds"][kind] for row in rows]
            shown = {"resnet": "ResNet", "farkasnet": "FarkasNet"}[kind]
            axis.plot(factors, times, marker=marker, color=colour, label=f"{shown}, {axis_name}")
    axis.set(
        title="Growth of a training step", xscale="log", yscale="log", ylabel="ms",
        xlabel="depth, width or batch, relative to the smallest",
    )  # fmt: skip
    axis.legend(fontsize=8)
