"""The Weights & Biases mirror of a run directory.

It shows what the run directory records and is never needed to read it. Nothing that W&B does may stop or change a
training: every call is guarded, and online trouble (no key, no network, a refused or silent server) costs a bounded
time, after which the run goes on offline, with one line that says how to upload it later.
"""

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from farkas_exp.config import WandbConfig
from farkas_exp.errors import UserError

INIT_TIMEOUT = 20.0
"""Seconds that a server gets to answer at the start of a run."""

FINISH_TIMEOUT = 60.0
"""Seconds that the upload gets at the end of a run; what is left can be synchronised from the disk."""


class WandbMirror:
    """One W&B run that mirrors one run directory. Made by `start`; without a W&B run every call does nothing.

    A run that is continued keeps its id; offline this makes a second folder of that id, which `wandb sync` joins to
    the first. The step of W&B is the epoch.
    """

    def __init__(
        self, run: Any, directory: Path, warn: Callable[[str], object], finish_timeout: float = FINISH_TIMEOUT
    ) -> None:
        self._run, self._directory, self._warn, self._finish_timeout = run, directory, warn, finish_timeout
        self._warned, self._online = False, False

    @classmethod
    def start(
        cls,
        settings: WandbConfig,
        run_dir: Path,
        run_id: str,
        name: str,
        group: str | None,
        tags: Sequence[str],
        config: Mapping[str, Any],
        *,
        init_timeout: float = INIT_TIMEOUT,
        finish_timeout: float = FINISH_TIMEOUT,
        warn: Callable[[str], object] | None = None,
    ) -> "WandbMirror":
        """Start the W&B run of a run directory, or continue it.

        Args:
            settings: mode, project and entity; its name, group and tags win over the arguments of that name.
            run_dir: where W&B keeps its files (in `wandb/`).
            run_id: the stable id of the run.
            name: what W&B calls the run.
            group: what W&B groups the run under.
            tags: its tags; those of `settings` are added.
            config: the resolved configuration.
            init_timeout: seconds until a server that does not answer is given up.
            finish_timeout: seconds that the upload gets at the end.
            warn: called with one line when something went wrong; by default it goes to standard error.
        """
        warn = warn or _warn
        mirror = cls(None, run_dir, warn, finish_timeout)
        if settings.mode == "disabled":
            return mirror
        arguments = {
            "project": settings.project,
            "entity": settings.entity,
            "dir": str(run_dir),
            "id": run_id,
            "resume": "allow",
            "name": settings.name or name,
            "group": settings.group or group,
            "tags": [*tags, *(tag for tag in settings.tags if tag not in tags)],
            "config": dict(config),
        }
        if settings.mode == "online":
            try:
                mirror._run = _init("online", arguments, init_timeout, finish_timeout)
                mirror._online = True
                return mirror
            except Exception as error:  # noqa: BLE001 - whatever W&B raises, the training goes on
                _teardown()
                mirror._complain(error, "W&B is not reachable, going on offline")
        try:
            mirror._run = _init("offline", arguments, init_timeout, finish_timeout)
        except Exception as error:  # noqa: BLE001
            _teardown()
            mirror._complain(error, "W&B does not start, going on without it")
        return mirror

    @property
    def active(self) -> bool:
        """Whether there is a W&B run behind the mirror."""
        return self._run is not None

    def log(self, row: Mapping[str, Any]) -> None:
        """Mirror one row of metrics; its 1-based `epoch` is the step."""
        values = {key: value for key, value in row.items() if value is not None}
        self._guarded(lambda run: run.log(values, step=int(row["epoch"])))

    def finish(self, exit_code: int = 0, summary: Mapping[str, Any] | None = None) -> None:
        """Close the W&B run with the outcome of the run: `exit_code` other than 0 marks it as failed."""
        if summary:
            values = {key: value for key, value in summary.items() if value is not None}
            self._guarded(lambda run: run.summary.update(values))
        begin = time.monotonic()
        self._guarded(lambda run: run.finish(exit_code=exit_code))
        # A server that went silent is no error to W&B: it gives up without a word when its time is over.
        if self._online and time.monotonic() - begin >= self._finish_timeout:
            self._complain(TimeoutError(f"no answer in {self._finish_timeout:.0f} s"), "W&B did not take everything")
        self._run = None

    def _guarded(self, call: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:  # noqa: BLE001 - whatever W&B raises, the training goes on
            self._complain(error, "W&B fails, the run directory has the whole record")

    def _complain(self, error: Exception, what: str) -> None:
        """One warning per run, on one line."""
        if self._warned:
            return
        self._warned = True
        reason = " ".join(str(error).split()) or type(error).__name__
        where = self._directory / "wandb" / ("run-*" if self._online else "offline-run-*")
        self._warn(f"wandb: {what} ({reason[:160]}); upload it later with: wandb sync {where}")


def log_files(
    files: Sequence[Path], name: str, settings: WandbConfig, directory: Path, *,
    init_timeout: float = INIT_TIMEOUT, finish_timeout: float = FINISH_TIMEOUT,
) -> None:  # fmt: skip
    """Log rendered tables and figures as one artifact (type `report`), in a W&B run of its own.

    The pictures among them are shown in that run, too. Offline the artifact lies in `directory`/wandb until it is
    synchronised.

    Args:
        files: what is logged.
        name: of the artifact.
        settings: mode, project and entity.
        directory: where W&B keeps its files (in `wandb/`).
        init_timeout: seconds until a server that does not answer is given up.
        finish_timeout: seconds that the upload gets at the end.

    Raises:
        UserError: W&B does not start; the message says why in one line.
    """
    assert settings.mode != "disabled"
    arguments = {
        "project": settings.project, "entity": settings.entity, "dir": str(directory), "name": name,
        "group": settings.group or "reports", "job_type": "report", "tags": list(settings.tags),
    }  # fmt: skip
    try:
        run = _init(settings.mode, arguments, init_timeout, finish_timeout)
    except Exception as error:  # noqa: BLE001 - whatever W&B raises
        _teardown()
        raise UserError(f"wandb: it does not start ({' '.join(str(error).split())[:160]})") from None
    import wandb

    artifact = wandb.Artifact(name, type="report")
    for path in files:
        artifact.add_file(str(path), name=path.name)
    run.log_artifact(artifact)
    pictures = {path.stem: wandb.Image(str(path)) for path in files if path.suffix == ".png"}
    if pictures:
        run.log(pictures)
    run.finish()


_Online = Literal["online", "offline"]


def _init(mode: _Online, arguments: dict[str, Any], init_timeout: float, finish_timeout: float) -> Any:
    # W&B's reports about itself would make a process wait 20 s at its end for a server that is silent.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    settings = wandb.Settings(
        mode=mode,
        init_timeout=init_timeout,
        finish_timeout=finish_timeout,
        login_timeout=init_timeout,
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        save_code=False,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_graphql_retry_max=2,
        x_graphql_timeout_seconds=math.ceil(init_timeout),
    )
    wandb.setup(wandb.Settings(silent=True, console="off"))  # or the login prints its own lines
    # A second init without a finish would silently give back the other run.
    return wandb.init(**arguments, settings=settings, reinit="create_new")


def _teardown() -> None:
    """Stop the W&B service after a failed start: its state would spoil the next one."""
    try:
        import wandb

        wandb.teardown(exit_code=1)
    except Exception:
        logging.getLogger(__name__).debug("wandb.teardown failed", exc_info=True)


def _warn(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
