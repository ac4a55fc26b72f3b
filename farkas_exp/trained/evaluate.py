"""`python -m farkas_exp evaluate RUN [dataset=...]`: the errors of a trained network."""

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from farkas_exp.config.texts import keep_texts
from farkas_exp.machine.commands import command
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.output import plural, say
from farkas_exp.machine.terminal import printable
from farkas_exp.runs.command import paths_and_words

HELP = """\
python -m farkas_exp evaluate RUN [dataset=NAME] [dataset.KEY=VALUE ...] [device=cpu]

Evaluates the network of a run directory: by default on the run's own data, where it gives what the record says, and
otherwise on other data with the same classes, which are resized and standardized as the run's own.

example: python -m farkas_exp evaluate runs/resnet18-.../seed_0 dataset=image_folder dataset.root=photographs
         python -m farkas_exp evaluate runs/resnet18-.../seed_0 dataset.validation=0
"""


@command(HELP)
def main(arguments: Sequence[str]) -> None:
    """Print the figures, one a line, beside the record's own if those are of the same images."""
    path, options = parse_arguments(arguments)
    from farkas_exp.trained.run import load

    run = load(path, options.pop("device", None))
    asked = dict(options)
    found = run.evaluate(options.pop("dataset", None), **options)
    recorded = run.result if not asked and run.epoch == run.record.epoch else {}
    more = f" and {plural(run.steps, 'step')}" if run.steps else ""
    say(f"{printable(path)}, after {plural(run.epoch, 'epoch')}{more}:")
    for key, value in found.items():
        unit = " %" if "error" in key else ""
        remark = f"  (recorded: {recorded[key]!r})" if key in recorded else ""
        say(f"  {key.replace('_', ' ')}: {value!r}{unit}{remark}")


def parse_arguments(arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The run directory, and the other words by their keys, `dataset.` left out."""
    paths, words = paths_and_words(arguments, ("dataset", "dataset.", "device"))
    if len(paths) != 1:
        raise UserError(f"evaluate: expected one run directory, got {' '.join(paths) or 'none'}; see evaluate --help")
    values = {key: _value(f"{key}={value}") if "." in key else value for key, value in words.items()}
    return paths[0], {key.removeprefix("dataset."): value for key, value in values.items()}


def _value(argument: str) -> Any:
    try:
        override = OverridesParser.create().parse_override(*keep_texts([argument]))
    except HydraException:
        raise UserError(f"{argument}: not KEY=VALUE; put a value with special characters in quotes") from None
    if override.is_sweep_override():
        raise UserError(f"{argument}: one value at a time")
    return override.value()
