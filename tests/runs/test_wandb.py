"""The W&B mirror: what it records is read back from its file; what fails never reaches the training."""

import builtins
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from farkas_exp.config.schema import WandbConfig
from farkas_exp.machine.errors import UserError
from farkas_exp.runs import wandb as wandb_mirror
from farkas_exp.runs import wandb_service as service
from farkas_exp.runs.wandb import WandbMirror, told_by
from tests.wandb_file import complete, read_wandb_file
from tests.wandb_server import closed_port, wandb_server

pytestmark = pytest.mark.usefixtures("private_home")

CONFIG = {"model": {"name": "resnet18"}, "lr": {"value": 0.1, "milestones": [60, 120]}, "seed": 3}


def start(run_dir: Path, mode: Any = "offline", run_id: str = "abc-s3", **more: Any) -> WandbMirror:
    run_dir.mkdir(parents=True, exist_ok=True)
    settings = WandbConfig(mode=mode, tags=("extra",))
    return WandbMirror.start(settings, run_dir, run_id, "resnet18 seed 3", "table1", ["cifar10"], CONFIG, **more)


def recorded(run_dir: Path) -> dict[str, Any]:
    (path,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    return complete(path)


def test_offline_run_holds_config_metrics_summary_and_exit_code(tmp_path: Path) -> None:
    mirror = start(tmp_path)
    for epoch in (1, 2, 3):
        error = float("nan") if epoch == 2 else 50.0
        mirror.log({"epoch": epoch, "train_loss": 1 / epoch, "test_error": error, "x": None})
    mirror.finish(0, {"test_error": 50.0, "status": "finished", "reason": None})
    found = recorded(tmp_path)
    assert (found["id"], found["name"], found["group"]) == ("abc-s3", "resnet18 seed 3", "table1")
    assert found["project"] == "farkas-layers"
    assert sorted(found["tags"]) == ["cifar10", "extra"]
    assert {key: found["config"][key] for key in CONFIG} == CONFIG
    assert [row["_step"] for row in found["history"]] == [1, 2, 3]
    assert [row["train_loss"] for row in found["history"]] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert math.isnan(float(found["history"][1]["test_error"]))
    assert found["summary"]["test_error"] == 50.0
    assert found["summary"]["status"] == "finished"
    assert found["exit_code"] == 0


def test_several_runs_in_one_process_stay_apart(tmp_path: Path) -> None:
    first = start(tmp_path / "a", run_id="a")
    second = start(tmp_path / "b", run_id="b")
    first.log({"epoch": 1, "train_loss": 1.0})
    second.log({"epoch": 1, "train_loss": 2.0})
    first.finish()
    second.log({"epoch": 2, "train_loss": 3.0})
    second.finish()
    assert [row["train_loss"] for row in recorded(tmp_path / "a")["history"]] == [1.0]
    assert [row["train_loss"] for row in recorded(tmp_path / "b")["history"]] == [2.0, 3.0]
    assert recorded(tmp_path / "a")["id"] == "a"


def test_wandb_is_asked_to_continue_a_run_of_that_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    asked: dict[str, Any] = {}
    monkeypatch.setattr(wandb, "init", lambda **arguments: asked.update(arguments))
    start(tmp_path, mode="online")
    assert (asked["id"], asked["resume"], asked["dir"]) == ("abc-s3", "allow", str(tmp_path))
    assert asked["settings"].mode == "online"


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mirror = start(tmp_path)
    mirror.log({"epoch": 1, "train_loss": 1.0})
    mirror.finish()
    assert capfd.readouterr() == ("", "")


def test_no_exception_of_wandb_reaches_the_training_and_one_warning_says_so(tmp_path: Path) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(f"no {name}\nat all")

    warnings: list[str] = []
    mirror = WandbMirror(Broken(), tmp_path, warnings.append)
    mirror.log({"epoch": 1})
    mirror.log({"epoch": 2})
    mirror.finish(0, {"a": 1})
    assert len(warnings) == 1
    assert "no log at all" in warnings[0]
    assert "wandb sync" not in warnings[0]  # there is nothing to synchronise
    assert "\n" not in warnings[0]


def assert_names_a_folder(warning: str, parent: Path, prefix: str) -> None:
    folder = Path(warning.split("wandb sync ")[1])
    assert folder.is_dir()
    assert folder.parent == parent
    assert folder.name.startswith(prefix)


def in_a_process(code: str, folder: Path, mode: str, **variables: str) -> str:
    """What code prints in a process of its own, where a `mirror` is started in this mode and adds to `warnings`."""
    start = (
        "import sys\nfrom pathlib import Path\nfrom farkas_exp.config.schema import WandbConfig\n"
        "from farkas_exp.runs import wandb\nwarnings = []\n"
        f"if {mode == 'online'}: wandb.INIT_TIMEOUT = wandb.FINISH_TIMEOUT = 2.0\n"
        f"mirror = wandb.WandbMirror.start(WandbConfig(mode={mode!r}), Path({str(folder)!r}), 'run', 'n', None, [],\n"
        "    {'a': 1}, warnings.append)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", start + code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables},
        capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("trouble", ["no key", "silent"])  # and refused: see test_wandb_runs
def test_online_trouble_costs_bounded_time_and_the_run_goes_on_offline(tmp_path: Path, trouble: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(20)
        port = silent.getsockname()[1] if trouble == "silent" else closed_port()
        key = {} if trouble == "no key" else {"WANDB_API_KEY": "x" * 40}
        code = (
            "for epoch in (1, 2): mirror.log({'epoch': epoch, 'train_loss': 1.0})\n"
            "mirror.finish(0, {'x': 1})\nprint(*warnings, sep='\\n')\n"
        )
        said = in_a_process(code, tmp_path, "online", WANDB_BASE_URL=f"http://127.0.0.1:{port}", **key)
    (warning,) = said.splitlines()
    assert "going on offline" in warning
    assert_names_a_folder(warning, tmp_path / "wandb", "offline-run-")
    found = recorded(tmp_path)
    assert [row["_step"] for row in found["history"]] == [1, 2]
    assert found["exit_code"] == 0


@pytest.mark.parametrize("falls_silent", [False, True])
def test_a_server_that_falls_silent_under_way_costs_bounded_time_and_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, falls_silent: bool
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    warnings: list[str] = []
    with wandb_server() as (address, speaking):
        monkeypatch.setenv("WANDB_BASE_URL", address)
        monkeypatch.setattr(wandb_mirror, "INIT_TIMEOUT", 10.0)
        monkeypatch.setattr(wandb_mirror, "FINISH_TIMEOUT", 2.0)
        mirror = start(tmp_path, "online", warn=warnings.append)
        mirror.log({"epoch": 1, "train_loss": 2.0})
        if falls_silent:
            speaking.clear()
        begin = time.monotonic()
        for epoch in range(2, 50):
            mirror.log({"epoch": epoch, "train_loss": 1.0})
        mirror.finish(0, {"test_error": 3.0})
        waited = time.monotonic() - begin
    assert waited < 120, "W&B itself tries for hours"
    sys.modules["wandb"].teardown()  # ends W&B's own process, which writes the file
    (path,) = tmp_path.glob("wandb/run-*/run-*.wandb")
    assert [row["_step"] for row in read_wandb_file(path)["history"]] == list(range(1, 50))
    if falls_silent:
        (warning,) = warnings
        assert_names_a_folder(warning, tmp_path / "wandb", "run-")
    else:
        assert warnings == []


def test_disabled_does_not_even_import_wandb(tmp_path: Path) -> None:
    code = (
        "mirror.log({'epoch': 1})\nmirror.finish(1, {'a': 1})\n"
        "assert 'wandb' not in sys.modules and 'torch' not in sys.modules\n"
    )
    in_a_process(code, tmp_path, "disabled")
    assert not list(tmp_path.glob("wandb*"))


@pytest.mark.parametrize(
    ("given", "variables", "told"),
    [
        ({}, {}, ("offline", "farkas-layers", None)),
        ({}, {"WANDB_MODE": "online", "WANDB_PROJECT": "p", "WANDB_ENTITY": "e"}, ("online", "p", "e")),
        ({}, {"WANDB_MODE": "dryrun"}, ("offline", "farkas-layers", None)),
        ({}, {"WANDB_MODE": "disabled"}, ("disabled", "farkas-layers", None)),
        ({}, {"WANDB_MODE": "", "WANDB_PROJECT": "", "WANDB_ENTITY": ""}, ("offline", "farkas-layers", None)),
        ({}, {"WANDB_DISABLED": "true", "WANDB_MODE": "online"}, ("disabled", "farkas-layers", None)),
        ({}, {"WANDB_DISABLED": "false", "WANDB_MODE": "online"}, ("online", "farkas-layers", None)),
        ({"mode": "offline"}, {"WANDB_DISABLED": "true", "WANDB_MODE": "online"}, ("offline", "farkas-layers", None)),
        (
            {"mode": "offline", "project": "q", "entity": "f"},
            {"WANDB_MODE": "online", "WANDB_PROJECT": "p", "WANDB_ENTITY": "e"},
            ("offline", "q", "f"),
        ),
    ],
)
def test_the_configuration_wins_over_wandbs_variables_and_these_over_the_defaults(given, variables, told) -> None:
    found = told_by(WandbConfig(**given), variables)
    assert (found.mode, found.project, found.entity) == told


def test_a_run_follows_wandbs_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    mirror = WandbMirror.start(WandbConfig(), tmp_path, "i", "n", None, [], CONFIG)
    mirror.finish()
    monkeypatch.setenv("WANDB_DISABLED", "true")
    WandbMirror.start(WandbConfig(), tmp_path, "j", "n", None, [], CONFIG).finish()
    assert recorded(tmp_path)["project"] == "theirs", "the one run there"


@pytest.mark.parametrize(
    ("given", "variables", "words"),
    [
        ({"tags": ("x" * 65,)}, {}, "wandb.tags: "),
        ({"tags": ("",)}, {}, "wandb.tags: '' has 0 characters"),
        ({"tags": ("a\nb",)}, {}, "wandb.tags: "),
        ({"project": ""}, {}, "wandb.project: "),
        ({"project": " "}, {}, "wandb.project: "),
        ({"project": "a/b"}, {}, "wandb.project: 'a/b' has '/'"),
        ({"project": "p" * 129}, {}, "wandb.project: "),
        ({}, {"WANDB_PROJECT": "a#b"}, "wandb.project: "),
        ({"entity": "my team"}, {}, "wandb.entity: "),
        ({"entity": ""}, {}, "wandb.entity: "),
        ({}, {"WANDB_ENTITY": "a/b"}, "wandb.entity: "),
        ({"name": "n" * 129}, {}, "wandb.name: "),
        ({"name": "a\x1bb"}, {}, "wandb.name: "),
        ({"group": ""}, {}, "wandb.group: "),
        ({}, {"WANDB_MODE": "ofline"}, "WANDB_MODE (in the environment): unknown 'ofline'; did you mean 'offline'"),
    ],
)
def test_what_wandb_would_refuse_is_refused_in_one_line(given, variables, words) -> None:
    with pytest.raises(UserError) as raised:
        told_by(WandbConfig(**given), variables)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    told_by(WandbConfig(**{"mode": "disabled", **given}), variables)  # nobody is there to refuse it


def test_the_rules_are_wandbs_own() -> None:
    """W&B takes what passes here, and refuses what is refused here of its project and tags."""
    import wandb

    wandb.Settings(project="p" * 128, run_tags=["t" * 64])
    for wrong in ({"project": "p" * 129}, {"project": "a:b"}, {"run_tags": ["t" * 65]}, {"run_tags": [""]}):
        with pytest.raises(Exception, match=r"(?i)project|tag"):
            wandb.Settings(**wrong)


def test_long_names_of_the_runs_own_are_cut(tmp_path: Path) -> None:
    mirror = WandbMirror.start(WandbConfig(mode="offline"), tmp_path, "i", "n" * 300, "g" * 300, ["t" * 300], CONFIG)
    mirror.finish()
    found = recorded(tmp_path)
    assert (found["name"], found["group"], found["tags"]) == ("n" * 128, "g" * 128, ["t" * 64])


def processes_of_wandb() -> list[int]:
    return list(service._children())


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def end(pid: int, sent: signal.Signals) -> None:
    """Kill or stop a process, and wait until it is: a signal takes its time on a busy machine."""
    os.kill(pid, sent)
    deadline = time.monotonic() + 60
    while service._children().get(pid, "T") not in "Tt" and time.monotonic() < deadline:
        time.sleep(0.005)


def assert_mirrored_without_a_warning(folder: Path) -> None:
    warnings: list[str] = []
    mirror = start(folder, run_id="b", warn=warnings.append)
    mirror.log({"epoch": 1, "train_loss": 2.0})
    mirror.finish()
    assert warnings == []
    assert [row["train_loss"] for row in recorded(folder)["history"]] == [2.0]


@needs_proc
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_after_its_process_was_killed_or_stopped_the_next_run_has_its_mirror(tmp_path: Path, sent: int) -> None:
    first = start(tmp_path / "a", run_id="a")
    first.finish()
    complete(next((tmp_path / "a").glob("wandb/offline-run-*/run-*.wandb")))
    (pid,) = processes_of_wandb()
    end(pid, sent)
    assert_mirrored_without_a_warning(tmp_path / "b")
    assert pid not in processes_of_wandb()


@needs_proc
def test_a_process_that_dies_after_the_look_at_it_costs_the_next_run_nothing(tmp_path: Path, monkeypatch) -> None:
    start(tmp_path / "a", run_id="a").finish()
    for pid in processes_of_wandb():
        os.kill(pid, signal.SIGKILL)
    monkeypatch.setattr(service, "prepare", lambda: None)  # it was well a moment ago
    assert_mirrored_without_a_warning(tmp_path / "b")


@pytest.mark.parametrize(
    "name", ["MailboxClosedError", "HandleAbandonedError", "ConnectionResetError", "BrokenPipeError"]
)
def test_at_whatever_moment_of_the_call_it_dies(tmp_path: Path, monkeypatch, name: str) -> None:
    start(tmp_path / "a", run_id="a").finish()
    from wandb.sdk import mailbox

    errors, started = [{**vars(builtins), **vars(mailbox)}[name]()], wandb_mirror._started

    def dies_once(*arguments: Any) -> Any:
        if errors:
            raise errors.pop()
        return started(*arguments)

    monkeypatch.setattr(wandb_mirror, "_started", dies_once)
    assert_mirrored_without_a_warning(tmp_path / "b")


@needs_proc
@pytest.mark.parametrize("moment", ["before the finish", "after the finish"])
def test_a_stopped_process_of_wandb_does_not_hang_the_end_of_the_command(tmp_path: Path, moment: str) -> None:
    code = (
        "import os, signal\nfrom farkas_exp.runs import wandb_service as service\n"
        "wandb.CALL_TIMEOUT = wandb.FINISH_TIMEOUT = 1.0\nmirror.log({'epoch': 1, 'train_loss': 1.0})\n"
        f"if {moment == 'after the finish'}: mirror.finish()\n"
        "[os.kill(pid, signal.SIGSTOP) for pid in service._children()]\n"
        "mirror.finish()\nprint(len(warnings), [w for w in warnings if 'stuck' not in w])\n"
    )
    said = in_a_process(code, tmp_path, "offline").strip()
    assert said == ("1 []" if moment == "before the finish" else "0 []")


def test_a_call_that_does_not_come_back_costs_bounded_time_and_the_mirror(tmp_path, monkeypatch) -> None:
    class Stuck:
        def log(self, *arguments: Any, **more: Any) -> None:
            threading.Event().wait()

    forgotten, warnings = [], []
    monkeypatch.setattr(service, "forget", lambda: forgotten.append(1))
    monkeypatch.setattr(wandb_mirror, "CALL_TIMEOUT", 0.05)
    mirror = WandbMirror(Stuck(), tmp_path, warnings.append)
    mirror.log({"epoch": 1})
    mirror.log({"epoch": 2})
    mirror.finish(0, {"a": 1})
    assert (len(warnings), len(forgotten)) == (1, 1), "nothing is asked of it any more"
