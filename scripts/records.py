"""Keep what runs have measured in one small file that a repository can hold, and make runs of it again.

    python scripts/records.py keep RUNS_DIR FILE.jsonl
    python scripts/records.py restore FILE.jsonl RUNS_DIR
    python scripts/records.py compare FILE.jsonl OTHER.jsonl

A line is a run, in the order of their names: its name, arm, seed and state, the settings that differ from the defaults,
the outcome, the figures of each epoch (errors in percent), how active the units of each layer were where that was
measured (shares of the points), and with which software and device it was trained. Figures have six digits, shares
four. Weights, commands and paths are left out. Restored runs give the same tables and figures, and a sweep skips those
that are done; an unfinished one begins anew. `compare` shows how far the same runs, by settings and seed, ended from
each other: in two files, by two devices or versions.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from farkas_exp.config import Config, declared, parse  # noqa: E402
from farkas_exp.config.identity import identify  # noqa: E402
from farkas_exp.config.options import keys_of  # noqa: E402
from farkas_exp.config.parsing import schema_defaults  # noqa: E402
from farkas_exp.machine.errors import UserError, in_one_line  # noqa: E402
from farkas_exp.machine.files import write_text  # noqa: E402
from farkas_exp.report.arms import group_arms  # noqa: E402
from farkas_exp.report.maps import layers_of  # noqa: E402
from farkas_exp.runs import RunDirectory, RunRecord, open_run, read_starts, survey, write_json, write_record  # noqa: E402
from farkas_exp.runs.directory import FINISHED, write_state  # noqa: E402
from farkas_exp.runs.jsonfiles import json_line  # noqa: E402
from farkas_exp.runs.record import evaluated_on, write_result  # noqa: E402

DECIDING = {key.partition(".")[0] for key, field in keys_of(Config) if declared(field).decides}
TELLING = {"seed", "experiment", "arm", "plugins", "compile", "channels_last", "diagnostics"}
"""Settings that decide no number, and are kept; the others say where and how a run was made, not what it is."""
OF_A_MACHINE = {"images_per_second", "epoch_seconds", "peak_memory_bytes", "time"}
"""Columns of an epoch that no table of runs shows."""
OF_A_PLACE = {"command", "host", "platform", "wandb_sweep"}
OUTCOME = ("state", "epoch", "data", "result", "starts")
DIGITS = 6
DIGITS_OF_A_SHARE = 4


def line_of(run: RunRecord, arm: str) -> dict[str, Any]:
    """What is kept of a run."""
    config = {key: value for key, value in run.config.items() if key in DECIDING | TELLING}
    return {
        "run": f"{run.slug}-{run.identity}",
        "arm": arm,
        "seed": run.seed,
        "state": run.state,
        "epoch": run.epoch,
        "config": _without_folder(_differences(config, schema_defaults())),
        "data": run.data,
        "result": _rounded(run.result),
        "by_epoch": _rounded(
            _columns([{k: v for k, v in row.items() if k not in OF_A_MACHINE} for row in run.metrics()])
        ),
        "activity": _rounded(_activity(run.diagnostics()), DIGITS_OF_A_SHARE),
        "starts": [
            {key: start[key] for key in start if key not in OF_A_PLACE} for start in read_starts(RunDirectory(run.path))
        ],
    }


def _differences(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are not the defaults, nested as they are."""
    found = {}
    for key, value in values.items():
        default = defaults.get(key)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            value = _differences(value, default)
            default = {}
        if key not in defaults or value != default:
            found[key] = value
    return found


def _without_folder(config: dict[str, Any]) -> dict[str, Any]:
    dataset = config.get("dataset", {})
    return {**config, "dataset": {**dataset, "root": Path(dataset["root"]).name}} if "root" in dataset else config


def _activity(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the measurements of a run: their epochs, and of each layer the share of dead points and of active units."""
    measured = [(row.get("epoch"), layers_of(row)) for row in rows]
    measured = [(epoch, layers) for epoch, layers in measured if layers and len(layers) == len(measured[0][1])]
    return {
        "epoch": [epoch for epoch, _ in measured],
        "layers": [
            {"name": each[0].get("name"), "dead_points": [layer.get("dead_points") for layer in each]}
            | {"active": _columns([layer.get("active") or {} for layer in each])}
            for each in zip(*(layers for _, layers in measured), strict=True)
        ],
    }


def _measurements(activity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that `_activity` was made of, as far as it keeps them."""

    def at(index: int, layer: Mapping[str, Any]) -> dict[str, Any]:
        active = {kind: shares[index] for kind, shares in layer["active"].items()}
        return {"name": layer["name"], "dead_points": layer["dead_points"][index], "active": active}

    return [
        {"epoch": epoch, "layers": [at(index, layer) for layer in activity["layers"]]}
        for index, epoch in enumerate(activity["epoch"])
    ]


def _rounded(value: Any, digits: int = DIGITS) -> Any:
    """`value` with so many digits of every number in it."""
    return json.loads(json_line({"of": value}), parse_float=lambda text: float(f"{float(text):.{digits}g}"))["of"]


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {key: [row.get(key) for row in rows] for key in dict.fromkeys(key for row in rows for key in row)}


def _rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def keep(runs_dir: Path, file: Path) -> None:
    """Write the runs of a folder into a file."""
    found = survey(str(runs_dir))
    lines = [json_line(line_of(run, arm.label)) for arm in group_arms(found.records) for run in arm.runs]
    write_text(file, "".join(sorted(lines)))
    print(f"{len(lines)} runs in {file}")
    if found.left_out:
        print(found.left_out)


@dataclass(frozen=True)
class Kept:
    """What a line holds beside the settings of its run."""

    metrics: list[dict[str, Any]]
    diagnostics: list[dict[str, Any]]
    state: str
    epoch: int
    data: dict[str, str]
    result: dict[str, Any] | None
    starts: list[dict[str, Any]]

    def write(self, run: RunDirectory, config: Config) -> None:
        """Write the files of the run, its outcome last."""
        run.path.mkdir(parents=True)
        record = write_record(run, config, self.data)
        for path, rows in ((run.metrics, self.metrics), (run.diagnostics, self.diagnostics)):
            write_text(path, "".join(map(json_line, rows)))
        write_json(run.environment, {"starts": self.starts})
        error = f"{evaluated_on(record['config'])}_error"
        last = self.metrics[-1].get(error) if self.metrics else None
        write_state(run, self.state, epoch=self.epoch, epochs=config.epochs, **{error: last})
        if self.result:
            write_result(run, record, self.result)


def restore(file: Path, runs_dir: Path) -> None:
    """Make the runs of a file in a folder; those that are there stay as they are.

    Raises:
        UserError: a line is no run, or its settings have another identity in this version.
    """
    made = there = 0
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
            config = parse({**line["config"], "seed": line["seed"], "runs_dir": str(runs_dir)})
            run, identity = open_run(config), identify(config).hash
            if identity != line["run"].rpartition("-")[2]:
                raise UserError(f"{line['run']}: its settings have the identity {identity} in this version")
            kept = Kept(_rows(line["by_epoch"]), _measurements(line["activity"]), **{key: line[key] for key in OUTCOME})
            if run.record.exists():
                there += 1
            else:
                kept.write(run, config)
                made += 1
        except (UserError, ValueError, TypeError, KeyError, AttributeError) as error:
            what = str(error) if isinstance(error, UserError) else in_one_line(error)
            raise UserError(f"{file}, line {number}: {what}") from None
    print(f"{made} runs made in {runs_dir}" + (f", {there} were there" if there else ""))


def compare(file: Path, other: Path) -> None:
    """Print the errors of the runs that have ended in both files, their differences and what is typical of them.

    Raises:
        UserError: a line is no run, or no run has ended in both.
    """
    first, second = _ended(file), _ended(other)
    both = sorted(first.keys() & second.keys())
    if not both:
        raise UserError(f"no run has ended in both of {file} and {other}")
    print(f"| run | seed | {file.stem} | {other.stem} | difference |\n| :-- | --: | --: | --: | --: |")
    differences = []
    for key in both:
        errors = [_error(ended[key]) for ended in (first, second)]
        shown = ["failed" if error is None else f"{error:.2f}" for error in errors]
        difference = None if None in errors else errors[1] - errors[0]  # type: ignore[operator]
        differences += [] if difference is None else [difference]
        last = "–" if difference is None else f"{difference:+.2f}"
        print(f"| {first[key]['arm']} | {key[1]} | {' | '.join(shown)} | {last} |")
    if len(differences) > 1:
        size = (statistics.fmean(each**2 for each in differences) / 2) ** 0.5
        print(
            f"\n{len(differences)} differences: mean {statistics.fmean(differences):+.2f}, standard deviation"
            f" {statistics.stdev(differences):.2f}, largest {max(map(abs, differences)):.2f} points. A run's own part,"
            f" the root of half their mean square: {size:.2f}."
        )


def _ended(file: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The lines of the runs with an outcome, by identity and seed."""
    try:
        lines = [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()]
        return {(line["run"].rpartition("-")[2], line["seed"]): line for line in lines if line["result"]}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file}: {in_one_line(error)}") from None


def _error(line: Mapping[str, Any]) -> float | None:
    """The error of a run's end on its evaluation set, None of one that failed."""
    result = line["result"]
    on = evaluated_on(line["config"])
    return None if result["status"] != FINISHED else result[f"{on}_error"]


def main() -> int:
    """Keep, restore or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("keep", "restore", "compare"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    actions: dict[str, Callable[[Path, Path], None]] = {"keep": keep, "restore": restore, "compare": compare}
    try:
        actions[given.what](given.source, given.target)
    except (UserError, OSError, UnicodeDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
