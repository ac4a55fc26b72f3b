"""Commands in a process of its own that finds the packages of `tests/plugin`."""

import os
import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT

SMALL = [
    "augmentation=digits", "batch_size=50", "epochs=1", "device=cpu", "wandb.mode=disabled",
    "progress=none", "failure.epochs=0",
]  # fmt: skip


def python(
    *arguments: str, installed: bool | str = False, tmp_path: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Python with the small packages of `tests/plugin` on its path, or one installed, with an entry point."""
    paths = [str(ROOT), str(ROOT / "tests" / "plugin")]
    if installed:
        assert tmp_path is not None
        module = installed if isinstance(installed, str) else "farkas_shiny"
        info = tmp_path / "site" / f"{module}-1.0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[farkas_exp.plugins]\nown = {module}\n")
        paths.append(str(info.parent))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
    )


def command(*arguments: str, **options: object) -> "subprocess.CompletedProcess[str]":
    """`python -m farkas_exp`."""
    return python("-m", "farkas_exp", *arguments, **options)  # type: ignore[arg-type]
