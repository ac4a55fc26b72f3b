"""How long it takes to look at many run directories: makes them, then times status, collection, table and a sweep.

    python benchmarks/many_runs.py [runs=10000] [folder=/tmp/...]

The directories are written as the trainer writes them, 1000 identities of ten seeds at the default size.
"""

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from farkas_exp import runs
from farkas_exp.config import Config, parse, to_dict
from farkas_exp.config.identity import identify
from farkas_exp.launch import cli
from farkas_exp.machine.errors import UserError
from farkas_exp.report.arms import arms_table, group_arms
from farkas_exp.runs import status
from farkas_exp.runs.jsonfiles import sealed
from farkas_exp.runs.record import name_of

SEEDS = 10
STATES = (runs.FINISHED,) * 7 + (runs.FAILED, runs.CRASHED, runs.RUNNING)


def make_runs(folder: Path, count: int) -> None:
    """Write `count` run directories: seven of ten finished, one failed, one crashed, one that was running."""
    for number in range(count):
        arm, seed = divmod(number, SEEDS)
        values = {
            "model": {"name": ("resnet18", "farkasnet18")[arm % 2]},
            "lr": {"value": 0.001 * (1 + arm // 2)},
            "dataset": {"name": "cifar10"},
            "seed": seed,
        }
        config = parse(values)
        identity = identify(config)
        run = runs.RunDirectory(folder / identity.folder / f"seed_{seed}")
        state = STATES[number % len(STATES)]
        epochs = 200 if state in runs.DONE else 100
        _write(run, config, epochs, state)
        facts = {"state": state, "epoch": epochs, "epochs": 200, "test_error": 90 / epochs, "eta_seconds": 60.0}
        run.state.write_text(json.dumps({**facts, "host": "node", "pid": 1, "updated": time.time()}))
        run.lock.touch()


def _write(run: runs.RunDirectory, config: Config, epochs: int, state: str) -> None:
    """Write record, metrics and result of a run, without waiting for the disk."""
    run.path.mkdir(parents=True)
    identity = identify(config)
    named = {"schema": runs.SCHEMA, "identity": identity.hash, "slug": identity.slug, "seed": config.seed}
    record = sealed({**named, "wandb_id": "x", "config": to_dict(config)})
    run.record.write_text(json.dumps(record, indent=1))
    rows = [{"epoch": epoch, "test_error": 90 / epoch, "train_loss": 1 / epoch} for epoch in range(1, epochs + 1)]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if state in runs.DONE:
        figures = {"best_test_error": 90 / epochs, "test_loss": 0.4, "seconds": 100.0, "parameters": 1}
        result = {"schema": runs.SCHEMA, "status": state, "reason": None, "epochs": epochs, **rows[-1], **figures}
        run.result.write_text(json.dumps(sealed({**result, "run": name_of(record)})))


SWEEP = ("-m", "model=resnet18,farkasnet18", "normalization=none,batch", "lr=small,large", "epochs=3")
"""A sweep over groups and single keys, of eight identities and as many seeds as it takes."""


def make_sweep(folder: Path, seeds: int) -> list[str]:
    """Write the finished runs of a sweep, and return the command line that recognises them."""
    for model, norm, rate in itertools.product(("resnet18", "farkasnet18"), ("none", "batch"), (0.01, 0.1)):
        values = {
            "model": {"name": model}, "normalization": {"name": norm}, "lr": {"value": rate}, "epochs": 3,
            "dataset": {"name": "digits"}, "augmentation": {"crop_padding": 1, "flip": False, "cutout": 0},
        }  # fmt: skip
        for seed in range(seeds):
            config = parse({**values, "seed": seed, "runs_dir": str(folder)})
            _write(runs.open_run(config), config, 3, runs.FINISHED)
    return [*SWEEP, "dataset=digits", f"seed=range({seeds})", f"runs_dir={folder}"]


def timed(what: str, call: Callable[[], object]) -> None:
    """Print how long `call` takes."""
    begin = time.perf_counter()
    with redirect_stdout(StringIO()):
        call()
    print(f"{what:58} {time.perf_counter() - begin:6.2f} s", flush=True)


def main() -> int:
    """Make the runs in a temporary folder, or use those that an earlier call left in `folder`."""
    given = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    if len(given) != len(sys.argv) - 1 or not given.keys() <= {"runs", "folder"}:
        raise UserError("usage: python benchmarks/many_runs.py [runs=10000] [folder=DIR]")
    count = int(given.get("runs", 10000))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(given.get("folder", temporary)) / "many_runs"
        if not folder.exists():
            timed(f"making {count} run directories", lambda: make_runs(folder, count))
        watcher = status.Watcher(folder)
        timed("python -m farkas_exp.status (without the imports)", lambda: status.main([f"runs_dir={folder}"]))
        timed("... state=running", lambda: status.main([f"runs_dir={folder}", "state=running"]))
        timed("watch=true, the first look", watcher.look)
        timed("watch=true, every further look", watcher.look)
        timed("runs.collect, for the report", lambda: runs.collect(folder))
        records = runs.collect(folder)
        timed("the table of all arms, from the collected runs", lambda: arms_table(group_arms(records)))
        seeds = max(1, 3 * count // 80)
        command = make_sweep(folder.parent / "sweep", seeds)
        timed(f"python -m farkas_exp -m ..., {8 * seeds} finished runs", lambda: cli.main(command))
        timed("the metrics of all runs", lambda: [record.metrics() for record in records])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
