"""Write what runs have measured, epoch by epoch, into one small file that a repository can keep.

    python scripts/records.py RUNS_DIR FILE.jsonl

A line is a run, in the order of their names: its name, arm, seed, state, last figures and seconds, the figures of each
epoch (errors in percent), and, where it was measured, how active the units of each kind were (shares of the points).
Paths, commands and machines are left out.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from farkas_exp.machine.errors import UserError  # noqa: E402
from farkas_exp.machine.files import write_text  # noqa: E402
from farkas_exp.machine.terminal import unreadable_text  # noqa: E402
from farkas_exp.report.activity import by_kind  # noqa: E402
from farkas_exp.report.arms import group_arms  # noqa: E402
from farkas_exp.runs import RunRecord, survey  # noqa: E402
from farkas_exp.runs.jsonfiles import json_line  # noqa: E402


def line_of(run: RunRecord, arm: str) -> dict[str, Any]:
    """The figures of a run, numbers rounded to what a plot can show."""
    rows, last = run.metrics(), run.result or run.progress
    series = {"train_loss", "train_error", run.key("loss"), run.key("error")}
    figures = {
        "run": run.path.parent.name,
        "arm": arm,
        "seed": run.seed,
        "state": run.state,
        "epoch": run.epoch,
        "epochs": run.epochs,
        **{key: last.get(key) for key in (run.key("error"), "train_error", "seconds", "reason") if key in last},
        "by_epoch": {key: [row.get(key) for row in rows] for key in sorted(series)},
        "units": [{"epoch": row.get("epoch"), **shares} for row in run.diagnostics() if (shares := by_kind(row))],
    }  # fmt: skip
    return json.loads(json_line(figures), parse_float=lambda text: float(f"{float(text):.6g}"))  # type: ignore[no-any-return]


def main() -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs_dir")
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    try:
        found = survey(given.runs_dir)
        arms = group_arms(found.records)
        lines = [json_line(line_of(run, arm.label)) for arm in arms for run in arm.runs]
        write_text(given.file, "".join(sorted(lines)))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(lines)} runs in {given.file}")
    if left_out := unreadable_text(found.unreadable):
        print(left_out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
