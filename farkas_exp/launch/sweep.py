"""A sweep: what its runs share, its folder, and what it refuses."""

import itertools
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, flag_override
from omegaconf.errors import OmegaConfBaseException

from farkas_exp.config import Config
from farkas_exp.config.texts import quoted
from farkas_exp.launch.complaints import one_line
from farkas_exp.launch.outcomes import USAGE, Outcome
from farkas_exp.launch.tally import Tally
from farkas_exp.machine import distributed
from farkas_exp.machine.errors import UserError


@dataclass
class Sweep:
    """The sweep that this process leads or works for: what its runs share, decided once at the start.

    `varied` are the keys that have several values in it, `tally` counts the runs that have ended.
    """

    wanted: Path
    runs_dir: Path
    experiment: str | None = None
    fail_fast: bool = False
    started: float = field(default_factory=time.monotonic)
    repeated: int = 0
    varied: frozenset[str] = frozenset()
    tally: Tally = field(default_factory=Tally)

    @classmethod
    def of(cls, config: DictConfig) -> "Sweep":
        """The sweep of a command's configuration.

        Raises:
            UserError: its folder has no name.
        """
        wanted = config.hydra.sweep.dir
        if not isinstance(wanted, str) or not wanted.strip():
            raise UserError(f"hydra.sweep.dir: expected the name of a folder, got {wanted!r}")
        fail_fast = bool(config.get("fail_fast"))
        trials = config.hydra.sweeper.get("n_trials")  # of a search
        tally = Tally(trials if type(trials) is int else None)
        return cls(
            Path(wanted).absolute(), Path(str(config.runs_dir)), config.get("experiment"), fail_fast, tally=tally
        )

    def __getstate__(self) -> dict[str, Any]:
        """The state for another process, which must not make a folder of its own."""
        self.directory  # noqa: B018 - made now
        return dict(vars(self))

    def title(self, number: int, overrides: Sequence[str]) -> str | None:
        """The name of a run on the terminal: its place, and the settings that are not the same for all."""
        own = [override for override in overrides if override.partition("=")[0] in self.varied]
        count = (self.tally.total or 0) + self.tally.passed_over  # runs that no arm is for have their numbers, too
        return " ".join([f"{number + 1}/{count}", *own]) if own else None

    @property
    def has_begun(self) -> bool:
        """Whether it has a folder for outcomes."""
        return "directory" in vars(self)

    @cached_property
    def directory(self) -> Path:
        """The folder for the outcomes of this sweep alone, made at its first use.

        It is hydra.sweep.dir if that is new, else a numbered folder in it.
        """
        candidates = itertools.chain([self.wanted], (self.wanted / f"sweep_{n}" for n in itertools.count(2)))
        try:
            self.wanted.parent.mkdir(parents=True, exist_ok=True)
            for folder in candidates:
                with suppress(FileExistsError):
                    folder.mkdir()
                    return folder
        except OSError as error:
            key = "runs_dir" if self.wanted.is_relative_to(self.runs_dir.absolute()) else "hydra.sweep.dir"
            raise UserError(f"{key}: cannot write to {error.filename or self.wanted}: {error.strerror}") from None
        raise AssertionError


class SweepWatch(Callback):
    """Hydra callback: knows the current sweep, and refuses what a sweep cannot do."""

    current: Sweep | None = None
    refusal: str | None = None
    known: ClassVar[dict[tuple[str, ...], Config | Outcome]] = {}
    """Planned runs that have not been handled yet, by their overrides."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Begin the sweep.

        Raises:
            SystemExit: it is refused. Hydra turns any other exception of a callback into a warning.
        """
        try:
            SweepWatch.current = Sweep.of(config)
            SweepWatch.known.clear()
            if is_search(config.hydra.sweeper) and not _holds_out_images(config):
                raise UserError(NEEDS_VALIDATION)
            launcher = str(config.hydra.launcher.get("_target_"))
            in_this_process = launcher.endswith(("SequentialLauncher", "BasicLauncher"))
            if distributed.current().are_several and not in_this_process:
                raise UserError(
                    "hydra/launcher: this command already is several processes, which train one run after the other;"
                    " omit the launcher (and packing), or start one process"
                )
            if not launcher.startswith("hydra_plugins.farkas_launchers."):  # its jobs know no more than their settings
                own = str(SweepWatch.current.directory)
                with flag_override(config, ["readonly", "struct"], False):
                    config.hydra.sweep.dir = own
                    config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(own)}")
        except (UserError, OmegaConfBaseException, AttributeError, TypeError) as error:
            SweepWatch.refusal = one_line(error)
            raise SystemExit(USAGE) from None


NEEDS_VALIDATION = (
    "dataset.validation: with 0 a search would choose on the test set; hold out part of the training set, for example"
    " dataset.validation=0.1"
)


def is_search(sweeper: Any) -> bool:
    """Whether the sweeper chooses runs by the objective of earlier ones, as Optuna's does; a grid does not."""
    return "optuna" in str(sweeper.get("_target_", "")).lower()


def _holds_out_images(config: DictConfig) -> bool:
    """Whether `dataset.validation` is set; each run checks its own value if that is searched."""
    given = [*(config.hydra.sweeper.get("params") or {}), *(item.split("=")[0] for item in config.hydra.overrides.task)]
    return config.dataset.get("validation") != 0 or "dataset.validation" in given
