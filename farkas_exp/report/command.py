"""The command line of the report: `python -m farkas_exp.report [what] runs_dir=... [out=DIR] [format=...]`."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from farkas_exp.config import WandbConfig
from farkas_exp.machine.errors import UserError, unknown
from farkas_exp.machine.home import ensure_home
from farkas_exp.machine.output import patient, warn
from farkas_exp.machine.terminal import printable, unreadable_text
from farkas_exp.registry import EXPERIMENTS, REPORTS
from farkas_exp.report.render import FORMATS, show
from farkas_exp.runs import Survey, survey
from farkas_exp.runs.query import filter_keys, selected

LOG_MODES = ("offline", "online")

HELP = """\
python -m farkas_exp.report [REPORT] [KEY=VALUE ...]

Renders tables and figures from run directories.

runs_dir=runs             where the runs are
out=DIR                   where the files go (default: report/ in runs_dir)
format=md,csv,tex,html,png    which files are written; choices: {formats}; none for the terminal only
log=offline               also log the files as an artifact of Weights & Biases; choices: {modes}
any key of a run's configuration, such as dataset=digits, epochs=20, seed=0, lr=0.1 or model.variant=authors,
shows only the runs with that value; several values are separated by commas.

REPORT (default: arms)
{reports}

example: python -m farkas_exp.report table1 runs_dir=runs dataset=cifar10 out=results/table1
"""


def help_text() -> str:
    """The help, with every report that is registered."""
    reports = "\n".join(f"  {name:<26}{REPORTS[name].summary}" for name in REPORTS)
    return HELP.format(formats=", ".join(FORMATS), modes=", ".join(LOG_MODES), reports=reports)


@dataclass(frozen=True)
class Request:
    """What a command line asks for."""

    what: str = "arms"
    runs_dir: Path = Path("runs")
    out: Path | None = None
    formats: tuple[str, ...] = ("md", "csv", "tex", "html", "png")
    log: Literal["offline", "online"] | None = None
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the files go."""
        return self.out if self.out is not None else self.runs_dir / "report"


@patient()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (of this process by default); a user's mistake is one line and status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if any(argument in ("-h", "--help", "help") for argument in arguments):
        print(help_text(), end="")
        return 0
    ensure_home()  # matplotlib and W&B ask for one
    try:
        request = parse_request(arguments)
        run(request)
    except UserError as error:
        warn(f"error: {printable(error)}")
        return 2
    return 0


def run(request: Request) -> list[Path]:
    """Render what is asked for to the terminal and into files; return the files."""
    rendering = REPORTS[request.what]
    unnamed = not rendering.needs_runs and request.runs_dir == Request.runs_dir and not request.runs_dir.exists()
    found = Survey([], []) if unnamed else survey(request.runs_dir)
    records = selected(found.records, request.filters)
    if not records and rendering.needs_runs:
        wanted = " ".join(f"{key}={','.join(values)}" for key, values in request.filters.items())
        left_out = unreadable_text(found.unreadable)
        raise UserError(
            f"runs_dir: no run in {request.runs_dir}" + (f" with {wanted}" if wanted else "")
            + (f" ({left_out})" if left_out else "")
        )  # fmt: skip
    files = show(rendering.build(records), request.folder, request.formats, sys.stdout, found.unreadable)
    for path in files:
        print(path)
    if request.log and files:
        from farkas_exp.runs.wandb import log_files

        log_files(files, request.what, WandbConfig(mode=request.log), request.folder)
    return files


def render_experiment(experiment: str, runs_dir: Path, paths: Sequence[Path]) -> list[Path]:
    """Render what an experiment is for, at the end of its sweep; all its arms where it is not a registered one.

    Shown are the runs in `runs_dir` in the setting of the sweep's own (the same data, epochs, batch size and so on),
    whatever command has trained them: a sweep over one row still gives the whole table as far as it is there.

    Args:
        experiment: the name of the experiment.
        runs_dir: where the runs are.
        paths: the run directories of the sweep.
    """
    entry = EXPERIMENTS.get(experiment)
    rendering = REPORTS[str(entry.source) if entry else "arms"]
    found = survey(runs_dir)
    own = {path.resolve() for path in paths}
    shared = rendering.shared_setting
    settings = [shared(record.config) for record in found.records if record.path.resolve() in own]
    records = [record for record in found.records if shared(record.config) in settings]
    request = Request(rendering.name, runs_dir)
    if not records:
        return []
    return show(rendering.build(records), request.folder, request.formats, sys.stdout, found.unreadable)


def parse_request(arguments: Sequence[str]) -> Request:
    """The request of a command line.

    Raises:
        UserError: an unknown word, key, format or filter, or one given twice.
    """
    values: dict[str, Any] = {}
    filters: dict[str, tuple[str, ...]] = {}
    keys = filter_keys()
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            if argument not in REPORTS:
                raise unknown("report", argument, [*REPORTS, "runs_dir=...", "out=...", "format=...", "log=..."])
            key, value = "what", argument
        if key in values or keys.get(key) in filters:
            raise UserError(f"{key}: given twice")
        if equals and not value:
            raise UserError(f"{key}: a value is missing behind the equals sign")
        if key in ("what", "runs_dir", "out", "format", "log"):
            values[key] = value
        elif key in keys:
            filters[keys[key]] = tuple(value.split(","))
        else:
            raise unknown(key, key, ["runs_dir", "out", "format", "log", *keys])
    formats = tuple(values["format"].split(",")) if "format" in values else Request.formats
    formats = () if formats == ("none",) else formats
    for name in formats:
        if name not in FORMATS:
            raise unknown("format", name, [*FORMATS, "none"])
    if values.get("log") not in (None, *LOG_MODES):
        raise unknown("log", values["log"], LOG_MODES)
    out = Path(values["out"]) if "out" in values else None
    runs_dir = Path(values.get("runs_dir", "runs"))
    return Request(values.get("what", "arms"), runs_dir, out, formats, values.get("log"), filters)
