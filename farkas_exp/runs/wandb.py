"""The Weights & Biases mirror of a run directory.

Nothing that W&B does may stop or change a training: every call is guarded. Trouble online (no key, no network, a server
that refuses or is silent) costs a bounded time; then the run goes on offline, with a line on how to upload it later.
"""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from farkas_exp.config import Config, recorded
from farkas_exp.config.schema import WandbConfig, WandbMode
from farkas_exp.machine.errors import UserError, message_of, unknown
from farkas_exp.machine.output import warn as print_warning
from farkas_exp.runs import FINISHED, open_run, read_run
from farkas_exp.runs import wandb_service as service
from farkas_exp.runs.record import agent_run

INIT_TIMEOUT = 20.0
"""Seconds a server has to answer at the start of a run."""

FINISH_TIMEOUT = 60.0
"""Seconds the upload has at the end of a run; the rest can be synchronised from the disk."""

CALL_TIMEOUT = 15.0
"""Seconds W&B's own process on this machine has for any other call."""

LONGEST_NAME, LONGEST_TAG = 128, 64
"""The most characters that W&B accepts in a name and in a tag."""

MODES = get_args(WandbMode)
_MODE_WORDS = {"dryrun": "offline", "run": "online"}  # W&B's own older words


def told_by(settings: WandbConfig, environment: Mapping[str, str] = os.environ) -> WandbConfig:
    """The settings, completed by W&B's own variables, or else by the defaults.

    A value of the configuration wins over WANDB_MODE, WANDB_PROJECT and WANDB_ENTITY, and `wandb.mode` also over
    WANDB_DISABLED. An empty variable does not count.
    """
    mode = settings.mode
    if mode is None and environment.get("WANDB_DISABLED", "").strip().lower() in ("1", "true", "yes", "on", "t", "y"):
        mode = "disabled"
    if mode is None:
        said = environment.get("WANDB_MODE", "").strip().lower() or "offline"
        mode = _MODE_WORDS.get(said, said)
        if mode not in MODES:
            raise unknown("WANDB_MODE (in the environment)", said, MODES)
    project, entity = environment.get("WANDB_PROJECT") or "farkas-layers", environment.get("WANDB_ENTITY") or None
    own = {key: value for key, value in vars(settings).items() if value is not None}
    told = WandbConfig(**{"project": project, "entity": entity, **own, "mode": mode})
    if mode != "disabled":
        _check_names(told)
    return told


def _check_names(told: WandbConfig) -> None:
    """Refuse what W&B would refuse: the run would lose its whole mirror."""
    places = {"project": "/\\#?%:", "entity": "/\\#?%:", "group": "", "name": ""}
    for key, forbidden in places.items():
        value = getattr(told, key)
        if value is None:
            continue
        where = f"wandb.{key}"
        if not value.strip() or len(value) > LONGEST_NAME:
            raise UserError(f"{where}: {value[:40]!r} has {len(value)} characters; W&B takes 1 to {LONGEST_NAME}")
        bad = [c for c in value if c in forbidden or not c.isprintable() or (key == "entity" and c.isspace())]
        if bad:
            raise UserError(f"{where}: {value!r} has {bad[0]!r}, which W&B does not take; leave it out")
    for tag in told.tags:
        if not tag.strip() or len(tag) > LONGEST_TAG:
            raise UserError(f"wandb.tags: {tag[:40]!r} has {len(tag)} characters; W&B takes 1 to {LONGEST_TAG}")
        if not tag.isprintable():
            raise UserError(f"wandb.tags: {tag!r} has a control character, which W&B does not take; leave it out")


def mirror_of(config: Config, run_dir: Path, record: Mapping[str, Any]) -> "WandbMirror":
    """Start or continue the W&B run of a run with this record."""
    name = f"{record['slug']}-s{config.seed}"
    group = "/".join(filter(None, (config.experiment, config.arm or f"{record['slug']}-{record['identity']}")))
    tags = [tag for tag in (config.experiment, config.model.name, config.dataset.name) if tag]
    nested = recorded(config)
    # an agent's parameters are flat keys, which would take the place of groups of the same name
    nested = {"config": nested} if agent_run() else nested
    return WandbMirror.start(config.wandb, run_dir, record["wandb_id"], name, group, tags, nested)


def report_done(config: Config) -> None:
    """Report a run that was done before to the agent that asked for it; nothing without one."""
    record = read_run(open_run(config).path) if agent_run() else None
    if record is None or record.result is None:
        return
    result = record.result
    facts = {"slug": record.slug, "identity": record.identity, "wandb_id": agent_run()}
    mirror = mirror_of(config, record.path, facts)
    for row in record.metrics():
        mirror.log(row)
    mirror.finish(int(result["status"] != FINISHED), summary_of(result, record.evaluated_on))


def summary_of(result: Mapping[str, Any], evaluated_on: str) -> dict[str, Any]:
    """What of a result W&B shows as the summary of the run."""
    keys = ("status", "reason", f"{evaluated_on}_error", f"best_{evaluated_on}_error", "seconds")
    return {key: result.get(key) for key in keys}


class WandbMirror:
    """The W&B run of a run directory, made by `start`; without one every call does nothing.

    A continued run keeps its id; offline, W&B makes a second folder, which `wandb sync` joins to the first. The step
    is the epoch.
    """

    def __init__(self, run: Any, directory: Path, warn: Callable[[str], object]) -> None:
        self._run, self._directory, self._warn = run, directory, warn
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
        warn: Callable[[str], object] = print_warning,
    ) -> "WandbMirror":
        """Start the W&B run of a run directory, or continue it; W&B keeps its files there, in `wandb/`.

        Name and group of the settings win over the arguments, and tags are added up. `warn` is called with a line on
        trouble.
        """
        mirror = cls(None, run_dir, warn)
        told = told_by(settings)
        if told.mode == "disabled":
            return mirror
        arguments = {
            "project": told.project,
            "entity": told.entity,
            "dir": str(run_dir),
            "id": run_id,
            "resume": "allow",
            "name": told.name or name[:LONGEST_NAME],
            "group": told.group or (group and group[:LONGEST_NAME]),
            "tags": list(dict.fromkeys([*(tag[:LONGEST_TAG] for tag in tags), *told.tags])),
            "config": dict(config),
        }
        failed: dict[str, Exception] = {}
        for mode in ("online", "offline") if told.mode == "online" else ("offline",):
            try:
                mirror._run, mirror._online = _init(mode, arguments), mode == "online"
                break
            except Exception as error:  # noqa: BLE001 - whatever W&B raises, the training goes on
                failed[mode] = error
        if "offline" in failed:
            mirror._complain(failed["offline"], "W&B does not start, going on without it")
        elif failed:
            mirror._complain(failed["online"], "W&B is not reachable, going on offline")
        return mirror

    def log(self, row: Mapping[str, Any]) -> None:
        """Mirror a row of metrics; its 1-based `epoch` is the step."""
        values = {key: value for key, value in row.items() if value is not None}
        self._guarded(lambda run: run.log(values, step=int(row["epoch"])))

    def finish(self, exit_code: int = 0, summary: Mapping[str, Any] | None = None) -> None:
        """Close the W&B run; an `exit_code` other than 0 marks it as failed."""
        if summary:
            values = {key: value for key, value in summary.items() if value is not None}
            self._guarded(lambda run: run.summary.update(values))
        begin = time.monotonic()
        self._guarded(lambda run: run.finish(exit_code=exit_code), FINISH_TIMEOUT)
        # W&B raises no error for a silent server: it just gives up when the time is over.
        if self._online and time.monotonic() - begin >= FINISH_TIMEOUT:
            self._complain(TimeoutError(f"no answer in {FINISH_TIMEOUT:.0f} s"), "W&B did not take everything")
        self._run = None

    def _guarded(self, call: Callable[[Any], object], more_seconds: float = 0.0) -> None:
        run = self._run
        if run is None:
            return
        try:
            service.within(CALL_TIMEOUT + more_seconds, lambda: call(run))
        except service.Unanswered as error:
            self._run = None
            service.forget()
            self._complain(error, "W&B's own process is stuck, going on without it")
        except Exception as error:  # noqa: BLE001 - whatever W&B raises, the training goes on
            self._complain(error, "W&B fails, the run directory has the whole record")

    def _complain(self, error: Exception, what: str) -> None:
        """Warn once per run, in one line that says how to upload what is on the disk."""
        if self._warned:
            return
        self._warned = True
        folders = (self._directory / "wandb").glob("run-*" if self._online else "offline-run-*")
        newest = max((folder for folder in folders if folder.is_dir()), key=lambda folder: folder.name, default=None)
        hint = f"; upload it later with: wandb sync {newest}" if newest else ""
        self._warn(f"wandb: {what} ({message_of(error, 160)}){hint}")


def log_files(files: Sequence[Path], name: str, settings: WandbConfig, directory: Path) -> None:
    """Log rendered tables and figures as one artifact (type `report`) in a W&B run of its own.

    That run shows the pictures. Offline, the artifact is in `directory`/wandb until it is synchronised.
    """
    told = told_by(settings)
    if told.mode == "disabled":
        return
    assert told.mode is not None
    arguments = {
        "project": told.project, "entity": told.entity, "dir": str(directory), "name": name,
        "group": told.group or "reports", "job_type": "report", "tags": list(told.tags),
    }  # fmt: skip
    try:
        run = _init(told.mode, arguments)
    except Exception as error:  # noqa: BLE001 - whatever W&B raises
        raise UserError(f"wandb: does not start ({message_of(error, 160)})") from None
    try:
        service.within(2 * FINISH_TIMEOUT + CALL_TIMEOUT, lambda: _log_all(run, files, name))
    except service.Unanswered as error:
        service.forget()
        raise UserError(f"wandb: does not take the files ({error})") from None


def _log_all(run: Any, files: Sequence[Path], name: str) -> None:
    import wandb

    artifact = wandb.Artifact(name, type="report")
    for path in files:
        artifact.add_file(str(path), name=path.name)
    run.log_artifact(artifact)
    pictures = {path.stem: wandb.Image(str(path)) for path in files if path.suffix == ".png"}
    if pictures:
        run.log(pictures)
    run.finish()


def _init(mode: str, arguments: dict[str, Any]) -> Any:
    """Start a W&B run. On failure end W&B's own process, whose state would spoil the next start.

    A process of an earlier run that dies between the look at it and the call is replaced by a new one.
    """
    service.prepare()
    is_old = service.is_known()
    try:
        run = service.within(2 * INIT_TIMEOUT + CALL_TIMEOUT, lambda: _started(mode, arguments))
    except Exception as error:
        service.forget()
        if is_old and service.hung_up(error):
            return _init(mode, arguments)
        raise
    service.guard()
    return run


def _started(mode: str, arguments: dict[str, Any]) -> Any:
    # or W&B's error reports make a process wait 20 s at its end for a silent server
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    settings = wandb.Settings(
        mode=mode,  # type: ignore[arg-type]
        init_timeout=INIT_TIMEOUT,
        finish_timeout=FINISH_TIMEOUT,
        login_timeout=INIT_TIMEOUT,
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        save_code=False,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_graphql_retry_max=2,
        x_graphql_timeout_seconds=math.ceil(INIT_TIMEOUT),
    )
    wandb.setup(wandb.Settings(silent=True, console="off"))  # or the login prints its own lines
    # "create_new": a second init without a finish would return the first run
    return wandb.init(**arguments, settings=settings, reinit="create_new")
