"""Where the project is."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def tracked(*folders):
    """The files under version control, relative to the checkout."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", *folders], capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("needs the files' list of a git checkout")
    return {Path(line) for line in listed.stdout.splitlines() if (ROOT / line).is_file()}
