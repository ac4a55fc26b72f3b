"""`python -m farkas_exp compare RUN RUN`: what differs between runs, and their curves in one picture."""

import itertools
import string
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from farkas_exp.config.options import shown
from farkas_exp.machine.commands import command
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.output import say
from farkas_exp.machine.terminal import printable
from farkas_exp.report import style
from farkas_exp.report.curves import TRAIN_LOSS
from farkas_exp.report.environments import counting_starts
from farkas_exp.report.render import FOLDER, FORMATS, Report, formats_of, show
from farkas_exp.report.tables import Table, tabulate
from farkas_exp.report.training_figures import EACH
from farkas_exp.runs import RunRecord, query, record_at
from farkas_exp.runs.command import folder_at, paths_and_words

MOST = len(string.ascii_uppercase)

HELP = f"""\
python -m farkas_exp compare RUN RUN [RUN ...] [out=DIR] [format=png]

Shows in which settings runs differ, also in those that decide no number and in the machine, what came out, and their
curves in one picture.

RUN           a run directory, such as runs/resnet18-.../seed_0; at least two, and at most {MOST}
out=DIR       where the files go (default: report/ beside the first run's folder)
format=png    which files are written; choices: {", ".join(FORMATS)}; none for the terminal only

example: python -m farkas_exp compare runs/resnet18-.../seed_0 runs/farkasnet18-.../seed_0
"""


@command(HELP)
def main(arguments: Sequence[str]) -> None:
    """Print the tables, and write the files."""
    paths, given = paths_and_words(arguments, ("out", "format"))
    if not 2 <= len(paths) <= MOST:
        raise UserError(f"compare: expected 2 to {MOST} run directories, got {len(paths)}; see compare --help")
    formats = formats_of(given.get("format", "png"))
    records = [record_at(path) for path in paths]
    out = folder_at("out")(given["out"]) if "out" in given else records[0].path.parent.parent / FOLDER
    for file in show(report(records), out, formats, sys.stdout, records=records):
        say(printable(file))


def report(records: Sequence[RunRecord]) -> Report:
    """What differs between the runs, and what came of them; the curves of all."""
    named = dict(zip(string.ascii_uppercase, records, strict=False))
    notes = tuple(
        f"{letter}: {record.path}" + (f" ({record.damage_note})" if record.damage else "")
        for letter, record in named.items()
    )
    different = _different(records)
    title = "What differs" if different else "Nothing differs"
    differ = _table(title, "setting", different, named, notes, "compare")
    outcomes = _outcomes(records)
    said = tuple(text for start, text in EACH.items() if any(key.startswith(start) for key in outcomes))
    outcome = _table("What came of it", "figure", outcomes, named, said, "compare_results")
    return Report("compare", (differ, outcome), {"compare": lambda: curves(named)})


def _different(records: Sequence[RunRecord]) -> dict[str, list[str]]:
    """A row for each difference: settings that decide numbers, seed, data, software and machine, other settings.

    Where the machine itself differs, that is the row of `device`, and not what was asked for.
    """
    settings = [query.effective_settings(record.config) for record in records]
    facts = [_facts(record) for record in records]
    rows: dict[str, list[str]] = {}
    for flats in (settings, facts, [_others(record.config) for record in records]):
        for key in dict.fromkeys(itertools.chain(query.different_keys(flats), _partly(flats))):
            rows.setdefault(query.short(key), [shown(flat[key]) if key in flat else "–" for flat in flats])
    return rows


def _partly(flats: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that some have and others lack, unless they are at their default."""
    defaults = query.default_settings()
    told = [key for flat in flats for key in flat if key not in defaults or flat[key] != defaults[key]]
    return [key for key in told if any(key not in other for other in flats)]


def _others(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide no number, apart from where the run is."""
    deciding = query.deciding_settings(config)
    every = query.deciding_settings(config, schema=None)
    return {key: value for key, value in every.items() if key not in (*deciding, "seed", "runs_dir")}


STARTED = ("farkas_exp", "commit", "torch", "cuda", "host", "device", "threads", "world_size", "compile", "kernels")
"""What is compared of the starts of a run whose epochs count."""


def _facts(record: RunRecord) -> dict[str, Any]:
    facts: dict[str, Any] = {"seed": record.seed, "data": query.fingerprint(record)}
    starts = counting_starts(record)
    for key in STARTED:
        if values := list({repr(start[key]): start[key] for start in starts if key in start}.values()):
            facts[key] = values[0] if len(values) == 1 else ", then ".join(map(shown, values))
    return facts


def _outcomes(records: Sequence[RunRecord]) -> dict[str, list[str]]:
    results = [record.result or {} for record in records]
    rows = {"state": [record.state for record in records], "epochs": [f"{r.epoch}/{r.epochs}" for r in records]}
    for key in dict.fromkeys(key for result in results for key in result):
        if key not in ("schema", "status", "epochs", "reason"):
            rows[key.replace("_", " ")] = [_figure(result.get(key)) for result in results]
    if any(result.get("reason") for result in results):
        rows["reason"] = [result.get("reason") or "–" for result in results]
    return rows


def _figure(value: Any) -> str:
    if not isinstance(value, (int, float)):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 or isinstance(value, int) else f"{value:.4g}"


def _table(
    title: str, head: str, rows: Mapping[str, Sequence[str]], named: Mapping[str, RunRecord], notes: tuple[str, ...],
    name: str,
) -> Table:  # fmt: skip
    flat = [{head: key, **dict(zip(named, values, strict=True))} for key, values in rows.items()]
    return tabulate(title, (head, *named), ((key, *values) for key, values in rows.items()), notes, flat, name)


def curves(named: Mapping[str, RunRecord]) -> Any:
    """Error and training loss of each run against the epoch, those of failed and unfinished runs included."""
    from matplotlib.ticker import MaxNLocator

    with style.new_figure(9.6, 4.2 + 0.2 * (len(named) // 2)) as figure:
        error, loss = figure.subplots(1, 2)
        sets = " or ".join(sorted({record.evaluated_on for record in named.values()}))
        looks = style.looks((*style.KIND_COLORS.values(), *style.SPARE_COLORS))
        for (letter, record), (line, color) in zip(named.items(), looks, strict=False):
            rows = record.metrics()
            on = f", {record.evaluated_on} error" if " or " in sets else ""
            for axes, key in ((error, record.key("error")), (loss, "train_loss")):
                epochs, values = [row["epoch"] for row in rows], [query.number(row.get(key)) for row in rows]
                marker = "o" if len(rows) == 1 else None
                label = style.text(f"{letter}: {record.slug}, seed {record.seed} ({record.state}{on})")
                axes.plot(epochs, values, color=color, linestyle=line, marker=marker, label=label)
        for axes, label in ((error, f"{sets} error (%)"), (loss, TRAIN_LOSS["train_loss"])):
            axes.set_ylabel(label)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles, labels = loss.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=1)
    return figure
