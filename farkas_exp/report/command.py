"""The command line of the report: `python -m farkas_exp.report [what] runs_dir=... [out=DIR] [format=...]`."""

import dataclasses
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from farkas_exp.config import Config, WandbConfig
from farkas_exp.errors import UserError, unknown
from farkas_exp.machine.home import ensure_home
from farkas_exp.report.arms import setting
from farkas_exp.runs import RunRecord, collect

WHAT = (
    "arms",
    "table1",
    "table2",
    "table3",
    "table4",
    "table1_mini",
    "table3_mini",
    "figure5",
    "fixup_rates",
    "deep_narrow",
    "claims",
    "figures",
    "separation",
    "landscape",
    "without_normalization",
    "identity",
    "linear_residual_landscape",
    "exact_fit",
    "lecture",
    "linear_residual_ratio",
    "residual_scaling",
    "landscape_toys",
)
COMPUTED = (
    "figures", "identity", "linear_residual_landscape", "exact_fit",
    "lecture", "linear_residual_ratio", "residual_scaling", "landscape_toys",
)  # fmt: skip
"""What can be rendered without runs: Figure 1, and what the theory says."""
FORMATS = ("md", "csv", "tex", "html", "png", "pdf")
LOG_MODES = ("offline", "online")

HELP = f"""\
python -m farkas_exp.report [WHAT] [KEY=VALUE ...]

Renders tables and figures from run directories.

WHAT     {", ".join(WHAT)} (default: arms, one row per arm of all runs)
runs_dir=runs             where the runs are
out=DIR                   where the files go (default: report/ in runs_dir)
format=md,csv,tex,html,png    which files are written; choices: {", ".join(FORMATS)}; none for the terminal only
log=offline               also log the files as an artifact of Weights & Biases; choices: {", ".join(LOG_MODES)}
any key of a run's configuration, such as dataset=digits, epochs=20, seed=0, lr=0.1 or model.variant=authors,
shows only the runs with that value; several values are separated by commas.

example: python -m farkas_exp.report table1 runs_dir=runs dataset=cifar10 out=results/table1
"""


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (of this process by default); a user's mistake is one line and status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if any(argument in ("-h", "--help", "help") for argument in arguments):
        print(HELP, end="")
        return 0
    ensure_home()  # matplotlib and W&B ask for one
    try:
        request = parse_request(arguments)
        run(request)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    return 0


def run(request: Request) -> list[Path]:
    """Render what is asked for to the terminal and into files; return the files."""
    unnamed = request.what in COMPUTED and request.runs_dir == Request.runs_dir and not request.runs_dir.exists()
    records = [] if unnamed else selected(collect(request.runs_dir), request.filters)
    if not records and request.what not in COMPUTED:
        wanted = " ".join(f"{key}={','.join(values)}" for key, values in request.filters.items())
        raise UserError(f"runs_dir: no run in {request.runs_dir}" + (f" with {wanted}" if wanted else ""))
    files = _render(request, records)
    for path in files:
        print(path)
    if request.log and files:
        from farkas_exp.tracking.wandb import log_files

        log_files(files, request.what, WandbConfig(mode=request.log), request.folder)
    return files


EXPERIMENTS = {"table1_mini_cifar10": "table1_mini", "table1_controls": "table1"}
"""What is rendered at the end of an experiment's sweep, where it is not of the experiment's name."""


def render_experiment(experiment: str, runs_dir: Path, paths: Sequence[Path]) -> list[Path]:
    """Render what an experiment is for, at the end of its sweep: its table or figure, or else all its arms.

    Shown are the runs in `runs_dir` in the setting of the sweep's own (the same data, epochs, batch size and so on),
    whatever command has trained them: a sweep over one row still gives the whole table as far as it is there.

    Args:
        experiment: the name of the experiment.
        runs_dir: where the runs are.
        paths: the run directories of the sweep.
    """
    from farkas_exp.report import paper, without_normalization

    what = EXPERIMENTS.get(experiment, experiment if experiment in WHAT else "arms")
    shared = without_normalization.budget if what == without_normalization.EXPERIMENT else paper.common_setting
    records = collect(runs_dir)
    own = {path.resolve() for path in paths}
    settings = [shared(record.config) for record in records if record.path.resolve() in own]
    records = [record for record in records if shared(record.config) in settings]
    return _render(Request(what, runs_dir), records) if records else []


def _render(request: Request, records: Sequence[RunRecord]) -> list[Path]:
    from farkas_exp.report import render

    return render.RENDERERS[request.what](records, request.folder, request.formats, sys.stdout)


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
            if argument not in WHAT:
                raise unknown("report", argument, [*WHAT, "runs_dir=...", "out=...", "format=...", "log=..."])
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


def filter_keys() -> dict[str, str]:
    """Every key that runs can be chosen by, and the dotted key of the configuration that it means.

    A group stands for its name (`dataset=digits`), or for its value (`lr=0.1`).
    """
    keys: dict[str, str] = {}
    hints = typing.get_type_hints(Config)
    for f in dataclasses.fields(Config):
        if not dataclasses.is_dataclass(hints[f.name]):
            keys[f.name] = f.name
            continue
        names = [inner.name for inner in dataclasses.fields(hints[f.name])]
        keys |= {f"{f.name}.{name}": f"{f.name}.{name}" for name in names}
        short = next((name for name in ("name", "value") if name in names), None)
        if short:
            keys[f.name] = f"{f.name}.{short}"
    del keys["runs_dir"]
    return keys


def selected(records: Sequence[RunRecord], filters: Mapping[str, tuple[str, ...]]) -> list[RunRecord]:
    """The records whose configuration has one of the wanted values at every key of `filters`."""

    def fits(record: RunRecord) -> bool:
        config = {**record.config, "seed": record.seed}
        return all(any(_same(setting(config, key), text) for text in texts) for key, texts in filters.items())

    return [record for record in records if fits(record)]


def _same(value: Any, text: str) -> bool:
    if isinstance(value, bool) or value is None:
        return text.lower() == {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, (int, float)):
        try:
            return float(text) == float(value)
        except ValueError:
            return False
    return str(value) == text
