"""A Slurm of one node on this machine, for tests: everything of it in a folder of its own, on ports of its own.

    python scripts/slurm_cluster.py start FOLDER     prints the line of shell that points commands at it
    python scripts/slurm_cluster.py stop FOLDER

Needs Debian's packages slurm-wlm and munge, and root (it installs them with `install`). Two partitions: `low` is
preempted by `high`, whose jobs requeue it after a grace time. Two pretend GPUs, for scheduling only. No accounting
database: `FOLDER/bin/sacct` answers for it.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
GRACE_SECONDS, KILL_WAIT_SECONDS = 20, 10

SLURM_CONF = """\
ClusterName=farkas
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={controller_port}
SlurmdPort={node_port}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait={kill_wait}
MinJobAge=3600
ReturnToService=2
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:2
PartitionName=low Nodes={host} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace} MaxTime=INFINITE
PartitionName=high Nodes={host} PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE
"""

# submitit asks sacct how its jobs are and waits for ever for one that died if it gets no answer.
SACCT = r"""#!/bin/sh
# Stands in for sacct on a cluster without an accounting database: what slurmctld still knows, in the columns that
# submitit asks for. Arguments are ignored; all jobs are listed.
echo 'JobID|State|NodeList'
scontrol --oneliner show job | sed -nE '
  s/^JobId=([0-9]+) ArrayJobId=([0-9]+) ArrayTaskId=([^ ]*[-,][^ ]*) .* JobState=([A-Z_]+) .*/\2_[\3]|\4|/p; t
  s/^JobId=([0-9]+) ArrayJobId=([0-9]+) ArrayTaskId=([^ ]+) .* JobState=([A-Z_]+) .*/\2_\3|\4|/p; t
  s/^JobId=([0-9]+) .* JobState=([A-Z_]+) .*/\1|\2|/p'
"""


def install() -> None:
    """Install Debian's packages where they are missing.

    Raises:
        SystemExit: they are missing and cannot be installed.
    """
    if all(shutil.which(daemon, path=_path()) for daemon in DAEMONS):
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit("error: Slurm is not installed; as root on Debian: apt-get install slurm-wlm munge")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "slurm-wlm", "munge"]):
        subprocess.run(["apt-get", *command], check=True, env=environment, stdout=subprocess.DEVNULL)


def environment(folder: Path) -> dict[str, str]:
    """The variables that point Slurm's commands at the cluster in `folder`."""
    return {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder / 'bin'}:{_path()}"}


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """A running cluster in `folder`, stopped at the end whatever happens; yields `environment(folder)`."""
    try:
        start(folder)
        yield environment(folder)
    finally:
        stop(folder)


def start(folder: Path) -> None:
    """Write the configuration, start the three daemons and wait until the node is idle.

    Raises:
        SystemExit: not root, or the node does not come up.
    """
    if os.geteuid() != 0:
        sys.exit("error: a cluster of its own needs root")
    _write_files(folder)
    variables = {**os.environ, **environment(folder)}
    munge = folder / "munge"
    owned_by_munge = {"user": "munge", "group": "munge"}
    commands = (
        ([
            "munged", f"--key-file={munge}/key", f"--socket={munge}/socket",
            f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed",
        ], owned_by_munge),
        (["slurmctld", "-c"], {}),
        (["slurmd"], {}),
    )  # fmt: skip
    for command, options in commands:
        subprocess.run(command, check=True, env=variables, stdin=subprocess.DEVNULL, **options)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        shown = subprocess.run(["sinfo", "-h", "-p", "low", "-o", "%t"], env=variables, capture_output=True, text=True)
        if shown.stdout.strip() == "idle":
            return
        time.sleep(0.2)
    sys.exit(
        f"error: the node did not come up; see {folder}/slurmctld.log and slurmd.log\n{shown.stdout}{shown.stderr}"
    )


def _write_files(folder: Path) -> None:
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    munge = folder / "munge"
    munge.mkdir(exist_ok=True)
    (munge / "key").write_bytes(os.urandom(128))
    (munge / "key").chmod(0o400)
    for path in (munge, munge / "key"):
        shutil.chown(path, "munge", "munge")
    ports = [_free_port() for _ in range(2)]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 512
    text = SLURM_CONF.format(
        host=socket.gethostname().split(".")[0], folder=folder, controller_port=ports[0], node_port=ports[1],
        cpus=os.cpu_count(), memory=memory, grace=GRACE_SECONDS, kill_wait=KILL_WAIT_SECONDS,
    )  # fmt: skip
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    (folder / "bin" / "sacct").write_text(SACCT)
    (folder / "bin" / "sacct").chmod(0o755)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def stop(folder: Path) -> None:
    """End the cluster's jobs and daemons, by their pid files; nothing where nothing runs."""
    if (folder / "slurmctld.pid").exists():
        variables = {**os.environ, **environment(folder)}
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["scancel", "--full", "--user=root"], env=variables, capture_output=True, timeout=10)
            _wait(lambda: not _squeue(variables), KILL_WAIT_SECONDS + 10)
    for pid_file in (folder / "slurmd.pid", folder / "slurmctld.pid", folder / "munge" / "pid"):
        with suppress(OSError, ValueError):
            pid = int(pid_file.read_text())
            os.kill(pid, signal.SIGTERM)
            if not _wait(lambda pid=pid: not Path(f"/proc/{pid}").exists(), 10):
                os.kill(pid, signal.SIGKILL)


def _squeue(variables: dict[str, str]) -> str:
    return subprocess.run(["squeue", "-h"], env=variables, capture_output=True, text=True, timeout=10).stdout.strip()


def _wait(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


def main() -> int:
    """The command line; see the module's docstring."""
    match sys.argv[1:]:
        case ["install"]:
            install()
        case ["start", folder]:
            start(Path(folder).resolve())
            print(
                "export " + " ".join(f"{key}={value!r}" for key, value in environment(Path(folder).resolve()).items())
            )
        case ["stop", folder]:
            stop(Path(folder).resolve())
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
