"""The command line: Hydra composes, the schema checks, `sweep.execute` runs; a mistake is one line and status 2.

Imports no torch, so that `--help`, `--cfg job` and the skipping of finished runs answer at once.
"""

import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from farkas_exp import launchers, runs, sweep
from farkas_exp.config import parse, schema_defaults, unknown_key
from farkas_exp.errors import UserError, unknown
from farkas_exp.launchers.local_parallel import visible_gpus
from farkas_exp.sweep import OK, TO_BE_CONTINUED, USAGE, Outcome, SweepWatch
from farkas_exp.usage import help_text


def config_dir() -> str:
    """The folder of the YAML files: inside the installed package, or `conf/` of a checkout."""
    installed = Path(__file__).parent / "conf"
    return str(installed if installed.is_dir() else Path(__file__).resolve().parent.parent / "conf")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    if arguments is not None:
        sys.argv = ["farkas_exp", *arguments]
    given = sys.argv[1:]
    if {"--help", "-h"} & set(given):
        print(help_text(Path(config_dir())))
        return OK
    # argparse wants its flags together: `model=... -m seed=0,1` is as good as `-m model=... seed=0,1`.
    sys.argv[1:] = sorted(given + packing(given), key=lambda argument: argument not in ("-m", "--multirun"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors, and we say them in one line
    ConfigStore.instance().store(name="schema", node=schema_defaults())
    launchers.register()
    outcomes: list[Outcome] = []
    SweepWatch.directory = None
    cut = None
    try:
        hydra.main(config_path=config_dir(), config_name="config", version_base="1.3")(_Job(outcomes))()
    except (HydraException, OmegaConfBaseException) as error:
        return _complain(_one_line(error))
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != TO_BE_CONTINUED:
            raise
        cut = "fail_fast=true" if outcomes and outcomes[-1].status in _ENDS_A_FAST_SWEEP else "stopped by a signal"
    except OSError as error:  # the sweep's own folder
        return _complain(f"runs_dir: cannot write to {error.filename or SweepWatch.directory}: {error.strerror}")
    if SweepWatch.directory is not None:
        return _end_of_sweep(SweepWatch.directory, given, cut)
    if cut and not outcomes:
        return TO_BE_CONTINUED
    if outcomes and outcomes[-1].status == sweep.REFUSED:
        return _complain(outcomes[-1].note)
    return outcomes[-1].exit_status if outcomes else OK  # no outcome: --help, --cfg and the like


def packing(arguments: Sequence[str]) -> list[str]:
    """What `packing=N` on the command line means to Hydra: the local launcher with N processes for each GPU.

    A launcher that the command line names itself stays.
    """
    values = [argument.partition("=")[2] for argument in arguments if argument.startswith("packing=")]
    if not values or not values[-1].isdecimal() or any(a.startswith("hydra/launcher=") for a in arguments):
        return []
    processes = int(values[-1]) * max(1, len(visible_gpus()))
    return [] if processes < 2 else ["hydra/launcher=local_parallel", f"hydra.launcher.n_jobs={processes}"]


_ENDS_A_FAST_SWEEP = (runs.CRASHED, sweep.DISK, sweep.REFUSED)


class _Job:
    """The task that Hydra runs for every combination of overrides; also unpickled on a cluster's machines."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        self.outcomes = outcomes
        self.__name__ = "farkas_exp"

    def __call__(self, composed: DictConfig) -> float | None:
        values: Any = OmegaConf.to_container(composed, resolve=True)
        job = HydraConfig.get()
        in_sweep = job.mode == RunMode.MULTIRUN
        try:
            outcome = sweep.execute(parse(values))
        except UserError as error:  # not raised from here: Hydra would print a second report of it
            outcome = Outcome(sweep.REFUSED, " ".join(job.overrides.task), str(error))
        self.outcomes.append(outcome)
        if in_sweep or outcome.status != sweep.REFUSED:
            print(f"{outcome.status}: {outcome.path}" + (f" ({outcome.note})" if outcome.note else ""), flush=True)
        if in_sweep:
            sweep.record_outcome(Path(job.sweep.dir), int(job.job.num), list(job.overrides.task), outcome)
        if outcome.status == runs.INTERRUPTED:
            raise SystemExit(TO_BE_CONTINUED)
        if outcome.status in _ENDS_A_FAST_SWEEP and values.get("fail_fast"):
            raise SystemExit(TO_BE_CONTINUED)
        return None


def _end_of_sweep(directory: Path, given: Sequence[str], cut: str | None) -> int:
    outcomes = sweep.read_outcomes(directory) if directory.is_dir() else []
    return sweep.summarize(outcomes, time.monotonic() - SweepWatch.started, given, cut)


def _complain(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return USAGE


def _one_line(error: Exception) -> str:
    """What Hydra or OmegaConf found wrong, as one line that names the key and what would be right."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override}: this cannot be read as KEY=VALUE ({text.splitlines()[0].strip()})"
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return str(unknown(group, name, [option for option in error.options if option != "schema"]))
    key = re.search(r"Could not (?:override|append to config|delete from config) '([^'@]+)", text)
    if key and not text.startswith("In '"):
        return str(unknown_key(key.group(1)))
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
