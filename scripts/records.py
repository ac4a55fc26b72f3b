"""Keep what runs have measured in one small file that a repository can hold, and make runs of it again.

    python scripts/records.py keep RUNS_DIR FILE.jsonl
    python scripts/records.py restore FILE.jsonl RUNS_DIR
    python scripts/records.py compare FILE.jsonl OTHER.jsonl

A line is a run, in the order of their names: its name, arm, seed and state, the settings that differ from the defaults,
the outcome, the figures of each epoch (errors in percent), how active the units of each layer were where that was
measured (shares of the points), and with which software and device it was trained. Figures have six digits, shares
four. Weights, commands, paths and other measurements are left out. Restored runs give the same tables and figures of
what is kept, and a sweep skips those that are done; an unfinished one begins anew. `compare` shows how far the same
runs, by settings, data and seed, ended from each other: in two files, by two devices or versions.
"""

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from farkas_exp.machine import signals

if __name__ == "__main__":
    signals.take_over()  # what follows takes seconds

from farkas_exp.config import Config, declared, parse
from farkas_exp.config.identity import identify
from farkas_exp.config.options import keys_of
from farkas_exp.config.parsing import schema_defaults
from farkas_exp.machine.commands import command
from farkas_exp.machine.errors import UserError, in_one_line
from farkas_exp.machine.files import scratch_folder, write_text
from farkas_exp.machine.output import plural
from farkas_exp.registry import load_plugins
from farkas_exp.report.arms import group_arms
from farkas_exp.report.maps import layers_of
from farkas_exp.report.tables import tabulate, to_markdown
from farkas_exp.runs import RunDirectory, RunRecord, Runs, Unreadable, open_run, survey, write_record
from farkas_exp.runs.directory import DONE, FINISHED, INTERRUPTED, RUNNING, write_state
from farkas_exp.runs.jsonfiles import json_line, parse_json, write_json
from farkas_exp.runs.measurements import ACTIVITY, Measurements
from farkas_exp.runs.record import evaluated_on, read_data, read_run, read_starts, write_result

DECIDING = {key.partition(".")[0] for key, field in keys_of(Config) if declared(field).decides}
TELLING = {"seed", "experiment", "arm", "plugins", "compile", "channels_last", "diagnostics"}
"""Settings that decide no number, and are kept; the others say where and how a run was made, not what it is."""
OF_A_MACHINE = {"images_per_second", "epoch_seconds", "peak_memory_bytes", "time"}
"""Columns of an epoch that no table of runs shows."""
OF_A_PLACE = {"command", "host", "platform", "wandb_sweep"}
OF_DATA = {"name", "train", "test", "classes", "fingerprint"}
KINDS: dict[str, tuple[type, ...]] = {
    "run": (str,), "arm": (str,), "seed": (int,), "state": (str,), "epoch": (int,), "config": (dict,), "data": (dict,),
    "data_set": (dict,), "result": (dict, type(None)), "by_epoch": (dict,), "activity": (dict,), "starts": (list,),
}  # fmt: skip
"""What is on a line."""
DAMAGE = (UserError, ValueError, TypeError, KeyError, AttributeError, IndexError)
"""What comes of a line, or of the files of a run, that are not what they should be."""
DIGITS = 6
DIGITS_OF_A_SHARE = 4


def line_of(run: RunRecord, arm: str) -> dict[str, Any]:
    """What is kept of a run."""
    load_plugins(run.config.get("plugins", ()))  # they extend the schema
    defaults = schema_defaults()
    measuring = {**defaults["diagnostics"], **run.config.get("diagnostics", {})}
    config = {key: value for key, value in run.config.items() if key in DECIDING | TELLING}
    return {
        "run": f"{run.slug}-{run.identity}",
        "arm": arm,
        "seed": run.seed,
        "state": run.state,
        "epoch": run.epoch,
        "config": _without_folder(_differences(config, defaults)),
        "data": run.data,
        "data_set": {key: value for key, value in read_data(RunDirectory(run.path)).items() if key in OF_DATA},
        "result": _rounded(run.result),
        "by_epoch": _rounded(
            _columns([{k: v for k, v in row.items() if k not in OF_A_MACHINE} for row in run.metrics()])
        ),
        "activity": _rounded(_activity(run.diagnostics(), measuring["images"]), DIGITS_OF_A_SHARE),
        "starts": [
            {key: start[key] for key in start if key not in OF_A_PLACE} for start in read_starts(RunDirectory(run.path))
        ],
    }


def _differences(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are not the defaults, nested as they are, without keys that only another version knows."""
    found = {}
    for key, default in defaults.items():
        value = values.get(key, default)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            value = _differences(value, default)
            default = {}
        if value != default:
            found[key] = value
    return found


def _without_folder(config: dict[str, Any]) -> dict[str, Any]:
    dataset = config.get("dataset", {})
    return {**config, "dataset": {**dataset, "root": Path(dataset["root"]).name}} if "root" in dataset else config


def _activity(rows: Sequence[dict[str, Any]], images: int) -> dict[str, Any]:
    """Of the measurements of a run: their epochs, and of each layer the share of dead points and of active units.

    Where any is not on as many `images` as were asked for first, also on how many each is.
    """
    measured = [(row, layers) for row in rows if (layers := layers_of(row))]
    measured = [(row, layers) for row, layers in measured if len(layers) == len(measured[0][1])]
    on = [row.get("settings", {}).get("images", images) for row, _ in measured]
    return {
        "epoch": [row.get("epoch") for row, _ in measured],
        **({"images": on} if {*on} - {images} else {}),
        "layers": [
            {"name": each[0].get("name"), "dead_points": [layer.get("dead_points") for layer in each]}
            | {"active": _columns([layer.get("active") or {} for layer in each])}
            for each in zip(*(layers for _, layers in measured), strict=True)
        ],
    }


def _measurements(activity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that `_activity` was made of, as far as it keeps them."""

    def at(index: int, layer: Mapping[str, Any]) -> dict[str, Any]:
        active = {kind: shares[index] for kind, shares in layer["active"].items() if shares[index] is not None}
        return {"name": layer["name"], "dead_points": layer["dead_points"][index], "active": active}

    images = activity.get("images", [None] * len(activity["epoch"]))
    return [
        {"epoch": epoch, "layers": [at(index, layer) for layer in activity["layers"]]} | ({"images": on} if on else {})
        for index, (epoch, on) in enumerate(zip(activity["epoch"], images, strict=True))
    ]


def _rounded(value: Any, digits: int = DIGITS) -> Any:
    """`value` with so many digits of every number in it."""
    return json.loads(json_line({"of": value}), parse_float=lambda text: float(f"{float(text):.{digits}g}"))["of"]


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {key: [row.get(key) for row in rows] for key in dict.fromkeys(key for row in rows for key in row)}


def _rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def keep(runs_dir: Path, file: Path) -> None:
    """Write the runs of a folder into a file; name what it does not hold.

    Raises:
        UserError: there are no runs, or the file is another one, or has outcomes or measurements that the folder lacks.
    """
    if file.suffix != ".jsonl" or not file.parent.is_dir():
        raise UserError(f"{file}: expected a file FILE.jsonl in a folder that is there")
    found = survey(str(runs_dir))
    lines, left_out, measures = {}, [*found.unreadable], Counter[str]()
    for arm in group_arms(found.records):
        for run in arm.runs:
            try:
                line = line_of(run, arm.label)
                _settings(line, runs_dir)
                others = {name for row in run.diagnostics() for name in row.get("measures", ())} - {ACTIVITY}
            except DAMAGE as error:
                left_out.append(Unreadable(run.path, f"it could not be restored: {_said(error)}"))
                continue
            lines[_key(line)] = line
            measures.update(others)
    if not lines:
        raise UserError(f"{runs_dir}: no run to keep{_left_out(left_out)}")
    before = _lines(file) if file.exists() else {}
    lost = [(line["run"], what) for key, line in before.items() for what in _lost(line, lines.get(key))]
    if lost:
        counts = " and ".join(plural(n, what) for what, n in Counter(what for _, what in lost).items())
        raise UserError(
            f"{file}: it holds {counts} that {runs_dir} lacks, such as that of {lost[0][0]}; restore or measure them"
            " there first, or choose another file"
        )
    write_text(file, "".join(sorted(map(json_line, lines.values()))))
    print(f"{plural(len(lines), 'run')} in {file}{_left_out(left_out)}")
    if measures:
        print(
            "measurements that are not kept: "
            + ", ".join(f"{name} of {plural(n, 'run')}" for name, n in measures.items())
        )


def _lost(line: Mapping[str, Any], now: Mapping[str, Any] | None) -> list[str]:
    """What of a line is not in the one that takes its place: its outcome, epochs, measurements.

    A run without an outcome that is there may have begun anew, with fewer epochs.
    """
    lost = ["outcome"] if line["result"] and not (now and now["result"]) else []
    parts = {"epoch": "by_epoch", "measurement": "activity"} if now is None or now["result"] else {}
    for what, part in parts.items():
        lost += [what] * len({*line[part].get("epoch", ())} - {*(now or {}).get(part, {}).get("epoch", ())})
    return lost


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"no run ({in_one_line(error)})"


def _left_out(unreadable: Sequence[Unreadable]) -> str:
    return f"\n{Runs([], unreadable).left_out}" if unreadable else ""


def _key(line: Mapping[str, Any]) -> tuple[str, int]:
    """What a run is known by: its identity and seed."""
    return line["run"].rpartition("-")[2], line["seed"]


def _settings(line: Mapping[str, Any], runs_dir: Path) -> Config:
    """The configuration of a line's run, in a folder.

    Raises:
        UserError: its settings are not of this version, or have another identity in it.
    """
    config = parse({**line["config"], "seed": line["seed"], "runs_dir": str(runs_dir)})
    identity = identify(config).hash
    if identity != _key(line)[0]:
        raise UserError(f"{line['run']}: its settings have the identity {identity} in this version")
    return config


def _lines(file: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The lines of a file.

    Raises:
        UserError: a line is no run, or a run once more.
    """
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    for number, text in enumerate(file.read_bytes().splitlines(), 1):
        line = parse_json(text)
        if not isinstance(line, dict):
            raise UserError(f"{file}, line {number}: no run, which is one line of JSON; the file is damaged or another")
        for name, kinds in KINDS.items():
            if type(line.get(name)) not in kinds:
                raise UserError(f"{file}, line {number}: no run: its {name} is {line.get(name)!r:.100}")
        key = _key(line)
        if key in lines:
            raise UserError(f"{file}, line {number}: {line['run']}, seed {line['seed']}, once more; delete one of them")
        lines[key] = line
    return lines


def _write(
    run: RunDirectory, config: Config, line: Mapping[str, Any], metrics: Sequence[dict[str, Any]],
    diagnostics: Sequence[dict[str, Any]],
) -> None:  # fmt: skip
    """Write the files of a line's run.

    Raises:
        UserError: they are not those of such a run.
    """
    run.path.mkdir(parents=True)
    record = write_record(run, config, line["data"])
    asked = Measurements(run, config.diagnostics).settings
    measured = [
        {"epoch": row["epoch"], "layers": row["layers"], "measures": [ACTIVITY]}
        | {"settings": {**asked, "images": row.get("images", asked["images"])}}
        for row in diagnostics
    ]
    for path, rows in ((run.metrics, metrics), (run.diagnostics, measured)):
        write_text(path, "".join(map(json_line, rows)))
    write_json(run.environment, {"data": line["data_set"], "starts": line["starts"]})
    error = f"{evaluated_on(record['config'])}_error"
    last = metrics[-1].get(error) if metrics else None
    write_state(run, line["state"], epoch=line["epoch"], epochs=config.epochs, **{error: last})
    if line["result"]:
        write_result(run, record, line["result"])
    made = read_run(run.path)
    state = INTERRUPTED if line["state"] == RUNNING else line["state"]
    if made is None or made.damage or (made.state, made.epoch) != (state, line["epoch"]):
        why = (made and made.damage) or "its state, epoch, data and result contradict each other"
        raise UserError(f"no run: {why}")


def restore(file: Path, runs_dir: Path) -> None:
    """Make the runs of a file in a folder, each whole or not at all; those that are there stay as they are.

    Raises:
        UserError: a line is no run, or its settings have another identity in this version.
    """
    made, there, others = 0, 0, []
    lines = _lines(file)
    if not lines:
        raise UserError(f"{file}: no run in it")
    runs_dir.mkdir(parents=True, exist_ok=True)
    with scratch_folder(runs_dir, ".restored-") as folder:
        for number, line in enumerate(lines.values(), 1):
            try:
                config = _settings(line, runs_dir)
                run, whole = open_run(config), RunDirectory(folder / str(number))
                metrics, diagnostics = _rows(line["by_epoch"]), _measurements(line["activity"])
                if run.record.exists():
                    there += 1
                    others += [run.path] if line["result"] and _outcome(run) != _rounded(line["result"]) else []
                    continue
                _write(whole, config, line, metrics, diagnostics)
                if run.path.exists() and any(run.path.iterdir()):
                    raise UserError(f"{run.path} is there, without a run.json; move it away")
                run.path.parent.mkdir(parents=True, exist_ok=True)
                whole.path.rename(run.path)
                made += 1
            except DAMAGE as error:
                raise UserError(f"{file}, line {number}: {_said(error)}") from None
    print(f"{plural(made, 'run')} made in {runs_dir}" + (f", {there} were there" if there else ""))
    if others:
        print(f"{len(others)} of those that were there have another outcome than in the file, such as {others[0]}")


def _outcome(run: RunDirectory) -> Any:
    """The result of a run that is there, as a file keeps it; None without one."""
    there = read_run(run.path)
    return there and _rounded(there.result)


def compare(file: Path, other: Path) -> None:
    """Print the errors of the runs that have ended in both files, their differences and what is typical of them.

    Raises:
        UserError: a line is no run, or no run has ended in both.
    """
    first, second = _ended(file), _ended(other)
    in_both = sorted(first.keys() & second.keys())
    both = [key for key in in_both if _same_data(first[key], second[key])]
    if not both:
        raise UserError(f"no run has ended in both of {file} and {other}")
    names = (file.stem, other.stem) if file.stem != other.stem else (str(file), str(other))
    rows, differences = [], []
    for key in both:
        errors = [_error(ended[key]) for ended in (first, second)]
        shown = ["failed" if error is None else f"{error:.2f}" for error in errors]
        difference = None if None in errors else errors[1] - errors[0]  # type: ignore[operator]
        differences += [] if difference is None else [difference]
        last = "–" if difference is None else f"{difference:+.2f}"
        rows.append((first[key]["arm"], str(key[1]), *shown, last))
    notes = [
        f"Only in {name}: {plural(len(ended) - len(in_both), 'ended run')}."
        for name, ended in zip(names, (first, second), strict=True) if len(ended) > len(in_both)
    ]  # fmt: skip
    notes += [f"On different data, not compared: {plural(n, 'run')}."] if (n := len(in_both) - len(both)) else []
    if len(differences) > 1:
        size = (statistics.fmean(each**2 for each in differences) / 2) ** 0.5
        notes.append(
            f"{len(differences)} differences: mean {statistics.fmean(differences):+.2f}, standard deviation"
            f" {statistics.stdev(differences):.2f}, largest {max(map(abs, differences)):.2f} points. A run's own part,"
            f" the root of half their mean square: {size:.2f}."
        )
    columns = ("run", "seed", *names, "difference")
    print(to_markdown(tabulate("Error at the end (%)", columns, rows, notes)), end="")


def _ended(file: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The lines of the runs with an outcome, by identity and seed."""
    ended = {key: line for key, line in _lines(file).items() if line["result"]}
    for line in ended.values():
        status = line["result"].get("status")
        if status not in DONE or (status == FINISHED and _error(line) is None):
            raise UserError(f"{file}: the result of {line['run']}, seed {line['seed']}, is damaged")
    return ended


def _same_data(line: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether nothing that both lines know of their data differs: neither files nor pixels and labels."""
    known = ((each["data"], each["data_set"].get("fingerprint")) for each in (line, other))
    return all(not (one and two) or one == two for one, two in zip(*known, strict=True))


def _error(line: Mapping[str, Any]) -> float | None:
    """The error of a run's end on its evaluation set, None of one that failed."""
    error = line["result"].get(f"{evaluated_on(line['config'])}_error")
    return None if line["result"].get("status") != FINISHED or type(error) not in (int, float) else error


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("keep", "restore", "compare"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    return parser


@command(lambda: parser().format_help())
def main(arguments: Sequence[str]) -> None:
    """Keep, restore or compare."""
    given = parser().parse_args(arguments)
    actions: dict[str, Callable[[Path, Path], None]] = {"keep": keep, "restore": restore, "compare": compare}
    actions[given.what](given.source, given.target)


if __name__ == "__main__":
    sys.exit(main())
