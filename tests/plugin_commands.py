"""Commands that find the packages of `tests/plugin`, each in a process of its own: what is registered stays so."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from farkas_exp import registry
from farkas_exp.launch.cli import main
from tests.forks import Fork
from tests.paths import ROOT

SMALL = [
    "augmentation=digits", "batch_size=50", "epochs=1", "device=cpu", "wandb.mode=disabled",
    "progress=none", "failure.epochs=0",
]  # fmt: skip
PLUGIN = str(ROOT / "tests" / "plugin")


def forked(work: Callable[[], Any], folder: Path, installed: str | None = None) -> tuple[int, str]:
    """What `work` returned and printed, in a fork with the packages on its path, or one installed by entry point."""
    site = folder / "site"
    if installed:
        info = site / f"{installed}-1.0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {installed.replace('_', '-')}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[farkas_exp.plugins]\nown = {installed}\n")

    def with_packages() -> Any:
        sys.path[:0] = [PLUGIN, str(site)]
        registry._load_entry_points.cache_clear()
        return work()

    return Fork(with_packages, folder / "said").end()


def run(*arguments: str, folder: Path, installed: str | None = None) -> tuple[int, str]:
    """Exit status and output of a command, in a fork."""
    return forked(lambda: main(arguments), folder, installed)


def command(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """`python -m farkas_exp`, which costs a second, and seconds more if it trains."""
    return python("-m", "farkas_exp", *arguments, folder=folder)


def python(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Python with the packages on its path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), PLUGIN]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, cwd=folder
    )
