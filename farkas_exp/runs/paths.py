"""Where a run is: found by the hash of its identity; the slug before it is only for the reader."""

import os
import re
from pathlib import Path

from farkas_exp.config import Config
from farkas_exp.config.identity import identify
from farkas_exp.machine.errors import UserError

SEED = "seed_"
"""What the name of a run directory begins with, before its seed."""
DEBUG = "debug"
"""The folder in `runs_dir` of the runs with `debug`, where nothing takes them for others."""


def run_path(config: Config) -> Path:
    """The run directory of `config`: the one that holds the run, whatever its slug, or a new one.

    A new seed goes beside the existing ones, or into a new folder named by slug and hash.
    """
    identity, seed = identify(config), f"{SEED}{config.seed}"
    root = f"{os.fspath(config.runs_dir)}/{DEBUG}" if config.debug else os.fspath(config.runs_dir)
    names = _folders(root).get(identity.hash, [])
    holders = [name for name in names if os.path.exists(f"{root}/{name}/{seed}/run.json")]
    if len(holders) > 1:
        raise UserError(
            f"runs_dir: {root}/{holders[0]}/{seed} and {root}/{holders[1]}/{seed} are the same run; move one of them"
            f" out of {root}"
        )
    beside = identity.folder if identity.folder in names or not names else names[0]
    return Path(root) / (holders[0] if holders else beside) / seed


_HASH = re.compile(r"-([0-9a-f]{12})$")
_listed: dict[str, tuple[tuple[int, int, int], dict[str, list[str]]]] = {}
"""The last listing, by the state of its folder: a sweep of finished runs lists once, not once a run."""


def _folders(root: str) -> dict[str, list[str]]:
    """The sorted names of the folders in `root` that end in a hash, by that hash; none without `root`."""
    try:
        facts = os.stat(root)
        state = (facts.st_dev, facts.st_ino, facts.st_mtime_ns)
        known = _listed.get(root)
        if known is not None and known[0] == state:
            return known[1]
        names = sorted(os.listdir(root))
    except OSError:  # said by who reads or writes there
        return {}
    found: dict[str, list[str]] = {}
    for name in names:
        if (match := _HASH.search(name)) and not name.startswith("."):
            found.setdefault(match.group(1), []).append(name)
    _listed.clear()  # a process works in one folder at a time
    _listed[root] = (state, found)
    return found
