"""The tables of "Truth or backpropaganda?" with our runs beside the paper's numbers."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from farkas_exp.registry import NETWORKS
from farkas_exp.report import style
from farkas_exp.report.kinds import ANY, METHODS, Column, Kind, Kinds, kinds_report
from farkas_exp.report.landscape import at_end, measurement
from farkas_exp.report.render import Report
from farkas_exp.runs import RunRecord
from farkas_exp.runs.query import is_plain, number, outcome, setting


def _before_and_after(key: str, title: str, form: str) -> list[Column]:
    return [Column(f"{title}, {when}", at_end(key, last), form) for when, last in (("before", False), ("after", True))]


def _of_network(kinds: Sequence[Kind], plain: str) -> list[Kind]:
    """The rows for a plain network, which is the paper's, and for its Farkas twin."""
    twin = NETWORKS[plain].twin
    own = [replace(kind, needs={"model.name": plain, **kind.needs}) for kind in kinds]
    label = twin and NETWORKS.label(twin)
    return own + [Kind(f"{kind.label}, {label}", {"model.name": twin, **kind.needs}) for kind in kinds if twin]


_STARTS: Mapping[str, Mapping[str, Any]] = {
    "default": {"init.name": "pytorch"},
    "Lemma 1": {"init.name": "local_minimum"},
    "all zero": {"init.name": "zero"},
    "biases + 20": {"init.name": "bias_shift", "init.bias": 20.0},
    "biases + 10": {"init.name": "bias_shift", "init.bias": 10.0},
    "biases in U(-5, 5)": {"init.name": "bias_uniform", "init.bias": 5.0},
    "biases in U(-10, 10)": {"init.name": "bias_uniform", "init.bias": 10.0},
    "biases in U(-50, 50)": {"init.name": "bias_uniform", "init.bias": 50.0},
    "biases in U(-100, 100)": {"init.name": "bias_uniform", "init.bias": 100.0},
    "biases in U(-10, 10), no momentum": {
        "init.name": "bias_uniform", "init.bias": 10.0, "optimizer.momentum": 0.0,
    },
}  # fmt: skip
TABLE1 = {
    "default": ("4.5963", ".0061", ".5752", ".0074", "-1.5549", ".0007"),
    "Lemma 1": ("1.5702", "1.5699", ".0992", ".0414", ".03125", ".0156"),
    "biases + 20": ("31.204", "2.3301", "343.99", ".0090", "-1.7421", ".0005"),
    "biases in U(-50, 50)": ("51.445", "2.3153", "378.36", ".0048", "-430.49", ".0000"),
    "biases in U(-10, 10), no momentum": ("12.209", ".2198", "42.454", ".0564", "-47.733", ".0013"),
}
"""Loss, norm of the gradient and smallest eigenvalue of the Hessian, each before and after training."""
TABLE5 = {
    "default": ("2.30312", ".00014", ".05000", ".01410"),
    "all zero": ("2.30258", "2.30259", ".00025", ".00013"),
    "biases + 20": ("12.95754", "2.30658", "590.12170", ".00004"),
    "biases in U(-10, 10)": ("12.96790", "2.30260", "214.68600", ".00123"),
    "biases in U(-50, 50)": ("84.67800", "2.30260", "1190.23500", ".00702"),
}
"""Loss and norm of the gradient, each before and after training."""
TABLE6 = {
    "default": ("4.60591", ".00030", ".02346", ".00466"),
    "all zero": ("4.60517", "4.60517", ".00019", ".00003"),
    "biases + 20": ("34.37053", "4.60517", "655.51569", ".00015"),
    "biases in U(-100, 100)": ("178.74391", "4.60517", "2615.72534", ".00003"),
}
"""The same on CIFAR-100."""
TABLE7 = {
    "default": ("4.60670", ".02579", ".16154", ".01482"),
    "all zero": ("4.60517", "4.60517", ".00019", ".00011"),
    "biases + 10": ("15.77286", "4.60517", "359.65710", ".00079"),
    "biases in U(-5, 5)": ("8.69149", "2.15917", "63.59983", ".09718"),
    "biases in U(-10, 10)": ("13.02693", "2.58368", "158.78347", ".09233"),
}
"""The same of the MLP on CIFAR-100, without momentum."""


def _starts(numbers: Mapping[str, Sequence[str]], columns: Sequence[Column], momentum: float) -> list[Kind]:
    """The rows of all starts; those of the paper's table have its numbers, for as many columns as there are."""
    titles = [column.title for column in columns]
    return [
        Kind(label, {"optimizer.momentum": momentum, **needs}, dict(zip(titles, numbers.get(label, ()), strict=False)))
        for label, needs in _STARTS.items()
    ]


def _data(records: Sequence[RunRecord]) -> str:
    """The data of the paper's table that is meant: cifar100 where all runs are on it, else cifar10."""
    return "cifar100" if {setting(run.config, "dataset.name") for run in records} == {"cifar100"} else "cifar10"


def local_minima_mlp(records: Sequence[RunRecord]) -> Report:
    """Table 1, or on CIFAR-100 Table 7."""
    columns = [
        *_before_and_after("loss", "loss", ".4f"),
        *_before_and_after("grad_norm", "gradient", ".4f"),
        *_before_and_after("hessian_min", "min. eigenvalue", ".4f"),
    ]
    data = _data(records)
    if data == "cifar100":
        starts = _starts(TABLE7, columns, 0.0)
    else:
        starts = _starts(TABLE1, columns, 0.9)
        starts += [kind for kind in _starts(TABLE1, columns, 0.0) if kind.label not in TABLE1]
    kinds = Kinds(_of_network(starts, "mlp"), ("init.", *METHODS))
    notes = ("The paper takes the figures over the whole training set, here over diagnostics.images of it.",)
    papers = {"dataset.name": data}
    return kinds_report("local_minima_mlp", "An MLP from bad starts", records, kinds, columns, notes, papers)


def local_minima_resnet(records: Sequence[RunRecord]) -> Report:
    """Table 5, or on CIFAR-100 Table 6."""
    columns = [*_before_and_after("loss", "loss", ".5f"), *_before_and_after("grad_norm", "gradient", ".5f")]
    data = _data(records)
    starts = _starts(TABLE6 if data == "cifar100" else TABLE5, columns, 0.0)
    kinds = Kinds(_of_network(starts, "resnet18"), ("init.", *METHODS))
    notes = ("A classifier that has failed is at ln 10 = 2.302585 (100 classes: 4.60517).",)
    papers = {"dataset.name": data, "epochs": 200}
    return kinds_report("local_minima_resnet", "ResNet-18 from bad starts", records, kinds, columns, notes, papers)


NORM_BIAS = {
    ("resnet18", False): ("93.46", "94.06", "94.86"),
    ("densenet40", False): ("89.26", "92.27", "92.49"),
    ("mobilenet_v2", False): ("92.88", "92.88", "93.50"),
    ("resnet18", True): ("93.40", "94.76", "94.99"),
    ("densenet40", True): ("90.78", "92.26", "92.46"),
    ("mobilenet_v2", True): ("92.84", "93.64", "93.64"),
    ("fixup34", True): ("10.00", "91.42", "91.55"),
    ("mlp", True): ("58.88", "58.95", "59.13"),
}
"""Test accuracy in percent with no regularizer, weight decay, norm-bias, by network and whether data are normalized."""
NORM_BIAS_100 = {
    ("resnet18", True): ("71.73", "74.66", "75.90"),
    ("densenet40", True): ("65.61", "68.98", "69.24"),
    ("fixup34", True): ("1.00", "65.08", "65.58"),
}
"""The same on CIFAR-100."""


def norm_bias(records: Sequence[RunRecord]) -> Report:
    """Tables 2 and 3, or on CIFAR-100 Table 8: the paper's accuracies as errors."""
    data, rows = _data(records), []
    for normalized, network in itertools.product((False, True), dict.fromkeys(name for name, _ in NORM_BIAS)):
        accuracies = (NORM_BIAS_100 if data == "cifar100" else NORM_BIAS).get((network, normalized))
        for index, name in enumerate(("none", "weight_decay", "norm_bias")):
            label = f"{NETWORKS.label(network)}{', normalized data' if normalized else ''}, {name.replace('_', ' ')}"
            needs = {"dataset.normalize": normalized, "regularizer.": ANY, "regularizer.name": name}
            paper = {"test error (%)": f"{100 - float(accuracies[index]):.2f}"} if accuracies else {}
            rows += _of_network([Kind(label, needs, paper)], network)
    columns = _before_and_after("param_norm", "parameter norm", ".1f")
    notes = ("The paper's fixup34 is ResNet-20 with FixUp; its MLP has 4 layers. Its numbers are of 10 runs.",)
    kinds, papers = Kinds(rows, METHODS), {"dataset.name": data, "epochs": 300}
    return kinds_report(
        "norm_bias", "No regularizer, weight decay, or norm-bias", records, kinds, columns, notes, papers
    )


RANK: Mapping[tuple[str, str, bool], Mapping[str, Sequence[float]]] = {
    ("cifar10", "resnet18", True): {
        "natural": (94.66, 0.00, 31.98), "RankMax": (93.66, 0.00, 22.01), "RankMin": (94.44, 0.00, 31.53),
        "adversarial": (79.37, 35.38, 74.27), "RankMax, adversarial": (80.00, 35.55, 74.92),
        "RankMin, adversarial": (78.34, 33.68, 73.19),
    },
    ("cifar10", "resnet18", False): {
        "natural": (92.95, 0.01, 31.34), "RankMax": (91.71, 0.00, 18.81), "RankMin": (92.42, 0.00, 30.37),
        "adversarial": (79.57, 35.95, 74.88), "RankMax, adversarial": (79.43, 36.45, 74.87),
        "RankMin, adversarial": (78.52, 33.97, 73.64),
    },
    ("cifar10", "mlp", True): {
        "natural": (58.79, 3.76, 28.94), "RankMax": (58.19, 3.72, 26.63), "RankMin": (58.06, 3.76, 28.48),
    },
    ("cifar100", "resnet18", True): {
        "natural": (73.08, 0.00, 17.50), "RankMax": (72.67, 0.00, 16.95), "RankMin": (72.57, 0.00, 17.63),
        "adversarial": (50.88, 17.81, 45.99), "RankMax, adversarial": (51.04, 16.80, 45.74),
        "RankMin, adversarial": (50.22, 16.64, 45.03),
    },
    ("cifar100", "resnet18", False): {
        "natural": (72.13, 0.01, 13.70), "RankMax": (71.35, 0.04, 11.74), "RankMin": (71.28, 0.00, 13.53),
        "adversarial": (50.47, 17.62, 45.18), "RankMax, adversarial": (50.93, 17.72, 45.78),
        "RankMin, adversarial": (49.37, 16.77, 44.41),
    },
}  # fmt: skip
"""Tables 4, 9 and 10, by data, network and whether it has shortcuts: accuracy in percent on test images, and under an
attack within 8/255 and 1/255."""
_OF_RANK: Mapping[str, Mapping[str, Any]] = {
    "RankMax": {"callback.": ANY, "callback.name": "rank_max"},
    "RankMin": {"callback.": ANY, "callback.name": "rank_min"},
    "adversarial": {"attack.": ANY, "attack.name": "pgd"},
}
_RANK_PINNED = (*METHODS, "residual.")


def _without_method(kind: Kind) -> str:
    return kind.label.partition(", ")[0]


def rank(records: Sequence[RunRecord]) -> Report:
    """Tables 4, 9 and 10, of the networks that have runs: the paper's accuracies as errors; and Figure 2, the ranks."""
    columns = [
        Column("error at 8/255 (%)", at_end("robust_error 8/255", last=True)),
        Column("error at 1/255 (%)", at_end("robust_error 1/255", last=True)),
        *_before_and_after("effective_rank", "effective rank", ".1f"),
    ]
    heads = ("test error (%)", *(column.title for column in columns[:2]))
    data = _data(records)
    rows = []
    for network, skip in (("resnet18", True), ("resnet18", False), ("mlp", True)):
        numbers = RANK.get((data, network, skip), {})
        for label in RANK["cifar10", "resnet18", True]:
            needs: dict[str, Any] = {"residual.skip": skip}
            for word, choice in _OF_RANK.items():
                needs |= choice if word in label else {}
            paper = {head: f"{100 - value:.2f}" for head, value in zip(heads, numbers.get(label, ()), strict=False)}
            name = f"{NETWORKS.label(network)}{'' if skip else ' without shortcuts'}, {label}"
            rows += _of_network([Kind(name, needs, paper)], network)
    trained = {_without_method(kind) for run in records if (kind := Kinds(rows, _RANK_PINNED).of(run))}
    kinds = Kinds([row for row in rows if _without_method(row) in trained], _RANK_PINNED)
    notes = ("Errors are 100 minus the paper's accuracies.",)
    mlp = NETWORKS.label("mlp")  # epochs without and with projections
    epochs = (100, 108) * (mlp in trained) + (200, 215) * bool(trained - {mlp})
    papers = {"dataset.name": data, "epochs": epochs}
    return kinds_report(
        "rank", "RankMin and RankMax", records, kinds, columns, notes, papers, rank=lambda: rank_figure(records, kinds)
    )


def rank_figure(records: Sequence[RunRecord], kinds: Kinds) -> Any:
    """The effective rank of every layer after training, a panel for each network; of each row the smallest seed."""
    lines: dict[str, dict[str, list[float]]] = {}
    for kind in kinds.rows:
        for run in sorted((run for run in records if kinds.of(run) is kind), key=lambda run: run.seed):
            ranks = measurement(run, last=True).get("effective_rank")
            if isinstance(ranks, dict):
                model = run.config["model"]["name"]
                network, _, label = kind.label.removesuffix(f", {NETWORKS.label(model)}").partition(", ")
                network += "" if is_plain(model) else ", Farkas"
                lines.setdefault(network, {}).setdefault(label, [number(value) for value in ranks.values()])
    with style.new_figure(6.4, 2.6 * max(1, len(lines)) + 0.6) as figure:
        panels = figure.subplots(max(1, len(lines)), 1, squeeze=False)[:, 0]
        for axes, (network, own) in zip(panels, lines.items(), strict=False):
            for (label, values), color in zip(own.items(), itertools.cycle(style.SPARE_COLORS), strict=False):
                axes.plot(range(1, len(values) + 1), values, marker=".", color=color, label=style.text(label))
            axes.set(title=style.text(network), xlabel="layer", ylabel="effective rank")
            axes.locator_params(axis="x", integer=True)
            axes.legend(fontsize=7.5)
        figure.supxlabel("A line: one run, of the smallest seed.", fontsize=8.5)
    return figure


def ntk_width(records: Sequence[RunRecord]) -> Report:
    """Figures 1, 3, 5 and 6: one row per network and width, and pictures over the parameters and over the epochs."""
    columns = [
        Column("parameters", lambda run: outcome(run, "parameters"), ",.0f"),
        Column("NTK correlation", at_end("ntk_correlation", last=True), ".4f"),
        Column("NTK change", at_end("ntk_relative", last=True), ".4f"),
        Column("parameter change", at_end("param_change", last=True), ".2f"),
        *_before_and_after("param_norm", "parameter norm", ".1f"),
    ]
    measured = [run for run in records if any("ntk_correlation" in row for row in run.diagnostics())]
    names = list(NETWORKS)
    found = {network.label: network for network in map(_network, measured)}.values()
    order = sorted(found, key=lambda each: (names.index(each.needs["model.name"]), each.family, each.widths))
    rows = [Kind(each.label, each.needs) for each in order]
    notes = (
        "The correlation is that of the tangent kernels before and after training. The paper: it goes to 1 with the"
        " width for MLPs and convolutional networks without shortcuts, and falls for residual ones with batch norm,"
        " where it stays almost the same without batch norm, or without shortcuts.",
    )
    title, papers = "The tangent kernel before and after training", {"dataset.name": "cifar10"}
    return kinds_report(
        "ntk_width", title, measured, Kinds(rows), columns, notes, papers, ntk_width=lambda: ntk_figure(measured)
    )


class _Network(NamedTuple):
    """The network of a run: its label and settings, and what it is called without its size."""

    label: str
    needs: dict[str, Any]
    family: str
    widths: tuple[int, ...]


def _network(run: RunRecord) -> _Network:
    keys = ("model.name", "model.depth", "normalization.name", "residual.skip")
    needs: dict[str, Any] = {key: setting(run.config, key) for key in (*keys, "model.width", "model.widths")}
    family = NETWORKS.label(needs["model.name"]) + (f" {needs['model.depth']} deep" if needs["model.depth"] else "")
    family += f", {needs['normalization.name']} norm" if needs["normalization.name"] != "none" else ""
    family += ", without shortcuts" if needs["residual.skip"] is False else ""
    widths: list[int] = list(needs["model.widths"] or [needs["model.width"] or 0])
    text = f"widths {widths}" if len(widths) > 1 else f"width {widths[0]}"
    return _Network(f"{family}, {text}" if any(widths) else family, needs, family, tuple(widths))


def ntk_figure(runs: Sequence[RunRecord]) -> Any:
    """Figures 1 and 5 over the number of parameters, a line for each network; Figure 3 over the epochs."""
    over_size = {
        "ntk_relative": "NTK: change / norm at start", "ntk_correlation": "NTK: correlation",
        "param_change": "norm of the parameters' change",
    }  # fmt: skip
    over_epochs = {"ntk_norm": "NTK: norm", "ntk_correlation": "NTK: correlation", "param_norm": "parameter norm"}
    families: dict[str, list[RunRecord]] = {}
    for run in runs:
        families.setdefault(_network(run).family, []).append(run)
    looks = dict(zip(families, style.looks(style.SPARE_COLORS), strict=False))
    with style.new_figure(12.5, 6.6) as figure:
        panels = figure.subplots(2, 3)
        for axes, (key, label) in zip(panels[0], over_size.items(), strict=True):
            for family, own in families.items():
                points: dict[tuple[float, str], list[float]] = {}  # seeds are averaged, and other settings are not
                for run in own:
                    size, value = outcome(run, "parameters"), at_end(key, last=True)(run)
                    if math.isfinite(size) and math.isfinite(value):
                        points.setdefault((size, run.identity), []).append(value)
                sizes = [size for size, _ in sorted(points)]
                means = [sum(values) / len(values) for _, values in sorted(points.items())]
                line, color = looks[family]
                axes.plot(sizes, means, line, marker="o", markersize=4, color=color, label=style.text(family))
            axes.set(xlabel="parameters", title=label, xscale="log")
        panels[0][0].set_yscale("log")
        epochs = sorted({row["epoch"] for run in runs for row in run.diagnostics() if "ntk_norm" in row})
        for axes, (key, label) in zip(panels[1], over_epochs.items(), strict=True):
            for run in runs:
                rows = [row for row in run.diagnostics() if math.isfinite(number(row.get(key)))]
                line, color = looks[_network(run).family]
                axes.plot([r["epoch"] for r in rows], [r[key] for r in rows], line, color=color, linewidth=1, alpha=0.7)
            axes.set(xlabel="epoch", title=f"{label}, every run", xscale="symlog")
            axes.set_xticks(epochs, map(str, epochs))
            axes.set_xticks([], minor=True)
        panels[1][0].set_yscale("log")
        handles, labels = panels[0][0].get_legend_handles_labels()
        style.legend_below(figure, handles, labels, 3, fontsize=8)
    return figure
