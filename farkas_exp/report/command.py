"""The command line of the report: `python -m farkas_exp.report [what] runs_dir=... [out=DIR] [format=...]`."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from farkas_exp.config.schema import WandbConfig
from farkas_exp.machine.commands import command
from farkas_exp.machine.errors import UserError, unknown
from farkas_exp.machine.terminal import printable
from farkas_exp.registry import EXPERIMENTS, REPORTS
from farkas_exp.report.environments import environment_note
from farkas_exp.report.render import FOLDER, FORMATS, Report, formats_of, show
from farkas_exp.runs import RunRecord, Runs, survey
from farkas_exp.runs.command import folder_at, one_of, read_words
from farkas_exp.runs.query import not_among, selected

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
    """The help, with every registered report."""
    reports = "\n".join(f"  {name:<26}{REPORTS[name].summary}" for name in REPORTS)
    return HELP.format(formats=", ".join(FORMATS), modes=", ".join(LOG_MODES), reports=reports)


@dataclass(frozen=True)
class Request:
    """The request of a command line."""

    what: str = "arms"
    runs_dir: Path = Path("runs")
    out: Path | None = None
    formats: tuple[str, ...] = ("md", "csv", "tex", "html", "png")
    log: Literal["offline", "online"] | None = None
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the files go."""
        return self.out if self.out is not None else self.runs_dir / FOLDER


@command(help_text)
def main(arguments: Sequence[str]) -> None:
    """Render what is requested to the terminal and into files."""
    request = parse_request(arguments)
    rendering = REPORTS[request.what]
    unnamed = not rendering.needs_runs and request.runs_dir == Request.runs_dir and not request.runs_dir.exists()
    found = Runs([]) if unnamed else survey(request.runs_dir)
    records = selected(found.records, request.filters)
    if not records and rendering.needs_runs:
        wanted = " ".join(f"{key}={values[-1]}" for key, values in request.filters.items())
        raise UserError(
            f"runs_dir: no run in {request.runs_dir}" + (f" with {wanted}" if wanted else "")
            + (f" ({found.left_out})" if found.left_out else "")
        )  # fmt: skip
    files = _show(rendering.build(records), request, found, records)
    for path in files:
        print(printable(path))
    if request.log and files:
        from farkas_exp.runs.wandb import log_files

        log_files(files, request.what, WandbConfig(mode=request.log), request.folder)


def render_experiment(experiment: str, runs_dir: Path, paths: Sequence[Path]) -> list[Path]:
    """Render the report of an experiment at the end of its sweep; a table of arms for an unregistered one.

    It shows all runs in `runs_dir` with the setting of those in `paths`, the sweep's (data, epochs, batch size and so
    on), whatever command trained them: a sweep over one row still gives the whole table, as far as it is there.
    """
    entry = EXPERIMENTS.get(experiment)
    rendering = REPORTS[str(entry.source) if entry else "arms"]
    found = survey(runs_dir)
    own = {path.resolve() for path in paths}
    shared = rendering.imported(rendering.shared)
    settings = [shared(record.config) for record in found.records if record.path.resolve() in own]
    records = [record for record in found.records if shared(record.config) in settings]
    request = Request(rendering.name, runs_dir)
    if not records:
        return []
    return _show(rendering.build(records), request, found, records)


def _show(report: Report, request: Request, found: Runs, records: Sequence[RunRecord]) -> list[Path]:
    """Show a report of these runs, with what is not among them and where they were not trained alike."""
    if not isinstance(report, Report):
        raise UserError(f"report: {request.what} has to return a Report, not {type(report).__name__}")
    said = (not_among(records, request.filters), found.left_out and f"{found.left_out}.", environment_note(records))
    notes = [note for note in said if note]
    return show(report, request.folder, request.formats, sys.stdout, notes, records)


def parse_request(arguments: Sequence[str]) -> Request:
    """The request of a command line."""
    words = [argument if "=" in argument else f"what={argument}" for argument in arguments]
    own = {
        "what": _report,
        "runs_dir": folder_at("runs_dir"),
        "out": folder_at("out"),
        "format": formats_of,
        "log": one_of("log", LOG_MODES),
    }
    values, filters = read_words(words, own)
    values["formats"] = values.pop("format", Request.formats)
    return Request(**values, filters=filters)


def _report(name: str) -> str:
    if name not in REPORTS:
        raise unknown("report", name, [*REPORTS, "runs_dir=...", "out=...", "format=...", "log=..."])
    return name
