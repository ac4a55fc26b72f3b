"""The tables of "Truth or backpropaganda?" with our runs beside the paper's numbers."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from farkas_exp.registry import NETWORKS
from farkas_exp.report.arms import model_name
from farkas_exp.report.kinds import ANY, Column, Kind, Kinds, kinds_table
from farkas_exp.report.landscape import at_end
from farkas_exp.report.render import Report
from farkas_exp.runs import RunRecord
from farkas_exp.runs.query import is_plain, number, setting

_AGGREGATION = {f"aggregation.{key}": ANY for key in ("name", "margin", "learn_lambda")}
_METHODS = ("regularizer.", "attack.", "callback.", "dropout.")


def _before_and_after(key: str, title: str, form: str) -> list[Column]:
    return [Column(f"{title}, {when}", at_end(key, last), form) for when, last in (("before", False), ("after", True))]


def _of_network(kinds: Sequence[Kind], plain: str) -> list[Kind]:
    """The rows for a plain network, which is the paper's, and for its Farkas twin."""
    twin = NETWORKS[plain].twin
    found = []
    for name in (plain, *([twin] if twin else [])):
        for kind in kinds:
            own = {} if is_plain(name) else _AGGREGATION
            label = kind.label if is_plain(name) else f"{kind.label}, {model_name(name)}"
            found.append(Kind(label, {"model.name": name, **own, **kind.needs}, kind.paper if is_plain(name) else {}))
    return found


_STARTS: Mapping[str, Mapping[str, Any]] = {
    "default": {"init.name": "pytorch"},
    "Lemma 1": {"init.name": "local_minimum"},
    "all zero": {"init.name": "zero"},
    "biases + 20": {"init.name": "bias_shift", "init.bias": 20.0},
    "biases in U(-50, 50)": {"init.name": "bias_uniform", "init.bias": 50.0},
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
    "biases in U(-50, 50)": ("84.67800", "2.30260", "1190.23500", ".00702"),
}
"""Loss and norm of the gradient, each before and after training."""


def _starts(numbers: Mapping[str, Sequence[str]], columns: Sequence[Column], momentum: float) -> list[Kind]:
    return [
        Kind(
            label,
            {"optimizer.momentum": momentum, **_STARTS[label]},
            dict(zip((c.title for c in columns), numbers[label], strict=True)),
        )
        for label in _STARTS
        if label in numbers
    ]


def local_minima_mlp(records: Sequence[RunRecord]) -> Report:
    """Table 1."""
    columns = [
        *_before_and_after("loss", "loss", ".4f"),
        *_before_and_after("grad_norm", "gradient", ".4f"),
        *_before_and_after("hessian_min", "min. eigenvalue", ".4f"),
    ]
    kinds = Kinds(_of_network(_starts(TABLE1, columns, 0.9), "mlp"), ("init.", *_METHODS))
    notes = ("The paper takes the figures over the whole training set, here over diagnostics.images of it.",)
    return _report("local_minima_mlp", "An MLP from bad starts", records, kinds, columns, notes)


def local_minima_resnet(records: Sequence[RunRecord]) -> Report:
    """Table 5."""
    columns = [*_before_and_after("loss", "loss", ".5f"), *_before_and_after("grad_norm", "gradient", ".5f")]
    kinds = Kinds(_of_network(_starts(TABLE5, columns, 0.0), "resnet18"), ("init.", *_METHODS))
    notes = ("A classifier that has failed is at ln 10 = 2.302585 (100 classes: 4.60517).",)
    return _report("local_minima_resnet", "ResNet-18 from bad starts", records, kinds, columns, notes)


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


def norm_bias(records: Sequence[RunRecord]) -> Report:
    """Tables 2, 3 and 8: the paper's accuracies as errors."""
    rows = []
    for normalized, network in itertools.product((False, True), dict.fromkeys(name for name, _ in NORM_BIAS)):
        accuracies = NORM_BIAS.get((network, normalized))
        for index, name in enumerate(("none", "weight_decay", "norm_bias")):
            own = {} if name == "none" else {"regularizer.strength": ANY, "regularizer.norm_squared": ANY}
            label = f"{model_name(network)}{', normalized data' if normalized else ''}, {name.replace('_', ' ')}"
            needs = {"dataset.normalize": normalized, "regularizer.name": name, **own}
            paper = {"test error (%)": f"{100 - float(accuracies[index]):.2f}"} if accuracies else {}
            rows += _of_network([Kind(label, needs, paper)], network)
    columns = _before_and_after("param_norm", "parameter norm", ".1f")
    notes = ("The paper's fixup34 is ResNet-20 with FixUp; its MLP has 4 layers. Its numbers are of 10 runs.",)
    kinds = Kinds(rows, _METHODS)
    return _report("norm_bias", "No regularizer, weight decay, or norm-bias", records, kinds, columns, notes)


RANK = {
    "natural": (94.66, 0.00, 31.98),
    "RankMax": (93.66, 0.00, 22.01),
    "RankMin": (94.44, 0.00, 31.53),
    "adversarial": (79.37, 35.38, 74.27),
    "RankMax, adversarial": (80.00, 35.55, 74.92),
    "RankMin, adversarial": (78.34, 33.68, 73.19),
}
"""Accuracy in percent on test images, under an attack within 8/255, and within 1/255."""


def rank(records: Sequence[RunRecord]) -> Report:
    """Table 4: the paper's accuracies as errors."""
    columns = [
        Column("error at 8/255 (%)", at_end("robust_error 8/255", last=True)),
        Column("error at 1/255 (%)", at_end("robust_error 1/255", last=True)),
        *_before_and_after("effective_rank", "effective rank", ".1f"),
    ]
    heads = ("test error (%)", *(column.title for column in columns[:2]))
    rows = []
    for label, accuracies in RANK.items():
        needs: dict[str, Any] = {}
        for name, word in (("rank_max", "RankMax"), ("rank_min", "RankMin")):
            if word in label:
                keys = ("threshold", "last_epochs", "every_epochs")
                needs |= {"callback.name": name, **{f"callback.{key}": ANY for key in keys}}
        if "adversarial" in label:
            keys = ("steps", "step_size", "epsilon", "random_start")
            needs |= {"attack.name": "pgd", **{f"attack.{key}": ANY for key in keys}}
        paper = {head: f"{100 - accuracy:.2f}" for head, accuracy in zip(heads, accuracies, strict=True)}
        rows.append(Kind(label, needs, paper))
    kinds = Kinds(_of_network(rows, "resnet18"), _METHODS)
    notes = ("The paper projects in 15 additional epochs; here in the last 15.",)
    return _report("rank", "RankMin and RankMax", records, kinds, columns, notes)


def ntk_width(records: Sequence[RunRecord]) -> Report:
    """Figure 1: one row per network and width."""
    columns = [
        Column("NTK correlation", at_end("ntk_correlation", last=True), ".4f"),
        Column("NTK change", at_end("ntk_relative", last=True), ".4f"),
        *_before_and_after("param_norm", "parameter norm", ".1f"),
    ]
    measured = [run for run in records if any("ntk_correlation" in row for row in run.diagnostics())]
    names = dict.fromkeys(str(setting(run.config, "model.name")) for run in measured)
    networks = sorted(names, key=lambda name: list(NETWORKS).index(name) if name in NETWORKS else len(NETWORKS))
    widths = sorted({number(setting(run.config, "model.width")) for run in measured})
    rows = [
        Kind(
            f"{model_name(name)}{f', width {width:g}' if width == width else ''}",
            {"model.name": name, "model.width": width if width == width else None},
        )
        for name in networks
        for width in dict.fromkeys(widths)
    ]
    notes = (
        "The correlation is that of the tangent kernels before and after training. The paper: it goes to 1 with the"
        " width for MLPs and convolutional networks without shortcuts, and falls for residual ones with batch norm.",
    )
    return _report("ntk_width", "The tangent kernel before and after training", measured, Kinds(rows), columns, notes)


def _report(
    name: str, title: str, records: Sequence[RunRecord], kinds: Kinds, columns: Sequence[Column], notes: Sequence[str]
) -> Report:
    table = kinds_table(name, title, records, kinds, columns, notes, {"dataset.name": "cifar10"})
    return Report(name, (table,))
