"""A sweep: what its runs share, its folder, and what no sweep can do."""

import itertools
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from farkas_exp.launch.outcomes import USAGE
from farkas_exp.launch.planned import Planned
from farkas_exp.machine import distributed
from farkas_exp.machine.errors import UserError


@dataclass
class Sweep:
    """The sweep that this process leads or works for: what all of its runs share, decided once, at its beginning."""

    wanted: Path
    runs_dir: Path
    experiment: str | None = None
    fail_fast: bool = False
    started: float = field(default_factory=time.monotonic)
    repeated: int = 0

    @classmethod
    def of(cls, config: DictConfig) -> "Sweep":
        """The sweep of a command's configuration.

        Raises:
            UserError: its folder is none.
        """
        wanted = config.hydra.sweep.get("dir")
        if not isinstance(wanted, str) or not wanted.strip():
            raise UserError(f"hydra.sweep.dir: expected the name of a folder, got {wanted!r}")
        fail_fast = bool(config.get("fail_fast"))
        return cls(Path(wanted).absolute(), Path(str(config.runs_dir)), config.get("experiment"), fail_fast)

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which must not make a folder of its own."""
        self.directory  # noqa: B018 - made now
        return dict(vars(self))

    @property
    def has_begun(self) -> bool:
        """Whether a job of it has left an outcome."""
        return "directory" in vars(self)

    @cached_property
    def directory(self) -> Path:
        """The folder where the jobs of this sweep leave their outcomes, made at its first use and nobody else's.

        It is hydra.sweep.dir where that is new, and otherwise a numbered folder in it.

        Raises:
            UserError: it cannot be made.
        """
        candidates = itertools.chain([self.wanted], (self.wanted / f"sweep_{n}" for n in itertools.count(2)))
        try:
            self.wanted.parent.mkdir(parents=True, exist_ok=True)
            for folder in candidates:
                with suppress(FileExistsError):
                    folder.mkdir()
                    return folder
        except OSError as error:
            raise UserError(f"runs_dir: cannot write to {error.filename or self.wanted}: {error.strerror}") from None
        raise AssertionError


class SweepWatch(Callback):
    """Hydra callback: says where the outcomes of a sweep are kept, and refuses what no sweep can do."""

    current: Sweep | None = None
    refusal: str | None = None
    known: ClassVar[dict[tuple[str, ...], Planned]] = {}
    """The runs of combinations of overrides that have been composed and not yet looked at."""

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
            in_this_process = str(config.hydra.launcher.get("_target_")).endswith(
                ("SequentialLauncher", "BasicLauncher")
            )
            if distributed.current().are_several and not in_this_process:
                raise UserError(ONE_LAUNCHER)
        except (UserError, OmegaConfBaseException, AttributeError, TypeError) as error:
            SweepWatch.refusal = " ".join(str(error).split())
            raise SystemExit(USAGE) from None


NEEDS_VALIDATION = (
    "dataset.validation: 0 leaves a search nothing but the test set to choose on; hold out a part of the training set, "
    "for example dataset.validation=0.1"
)


ONE_LAUNCHER = (
    "hydra/launcher: this command is several processes already, which train one run after the other; leave the launcher"
    " (and packing) out, or start one process"
)


def is_search(sweeper: Any) -> bool:
    """Whether Hydra's sweeper chooses runs by the objective of those before, as Optuna's does; a grid does not."""
    return "optuna" in str(sweeper.get("_target_", "")).lower()


def _holds_out_images(config: DictConfig) -> bool:
    """Whether `dataset.validation` is given; a search over it is left to each run's own check."""
    given = [*(config.hydra.sweeper.get("params") or {}), *(item.split("=")[0] for item in config.hydra.overrides.task)]
    return config.dataset.get("validation") != 0 or "dataset.validation" in given
