"""Whether two checkouts train the same weights: every network, without and with batch norm, bit by bit.

    python scripts/compare_weights.py ../before                        every network
    python scripts/compare_weights.py ../before resnet18 farkasnet18   these
    python scripts/compare_weights.py ../before resnet101_imagenet init=pytorch    these settings in both

Trains three small epochs of noise on one thread in both checkouts, by the command line alone, which older versions have
too, and compares the hashes of the checkpoints' weights. A hash belongs to one processor and one version of PyTorch, so
none is kept. A run that fails in its first epoch has none either. FARKAS_EXP_NATIVE=0 in the environment compares the
networks without compiled kernels.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE))

from farkas_exp.registry import NETWORKS  # noqa: E402

SETTING = (
    "normalization=none,batch", "dataset=synthetic", "dataset.train_size=32", "dataset.test_size=16",
    "dataset.image_size=32", "batch_size=16", "epochs=3", "augmentation=none", "wandb.mode=disabled", "device=cpu",
)  # fmt: skip


def weights(checkout: Path, network: str, overrides: Sequence[str], folder: Path) -> dict[str, str]:
    """A hash of the trained weights by network and normalization; a combination that is refused is not there."""
    command = [sys.executable, "-m", "farkas_exp", "-m", f"model={network}", *SETTING, *overrides, f"runs_dir={folder}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.DEVNULL, check=False)
    found = {}
    for path in folder.glob("*/seed_0"):
        if (path / "result.json").exists() and (path / "checkpoint.pt").exists():
            config = json.loads((path / "run.json").read_text(encoding="utf-8"))["config"]
            state = torch.load(path / "checkpoint.pt", map_location="cpu", weights_only=True)["model"]
            digest = hashlib.sha256()
            for key, value in state.items():
                digest.update(key.encode() + value.contiguous().numpy().tobytes())
            found[f"{config['model']['name']} {config['normalization']['name']}"] = digest.hexdigest()[:16]
    return found


def compare(before: Path, networks: Sequence[str], overrides: Sequence[str]) -> bool:
    """Print a line for each combination; whether there are any for each network, and all are the same."""
    same = True
    for network in networks:  # one at a time: the checkpoints of all of them would fill the disk
        with tempfile.TemporaryDirectory() as folder:
            old, new = (weights(checkout, network, overrides, Path(folder) / name) for checkout, name in
                        ((before, "before"), (HERE, "after")))  # fmt: skip
        if not old and not new:
            same = False
            print(f"NOTHING    {network}: no run in either checkout left a checkpoint", flush=True)
        for name in sorted(old | new):
            equal = old.get(name) == new.get(name)
            same &= equal
            print(f"{'same' if equal else 'DIFFERENT'}  {name}: {old.get(name)} {new.get(name)}", flush=True)
    return same


def main() -> int:
    """Compare the checkouts that the command line names."""
    parser = argparse.ArgumentParser(description="Compare the weights that two checkouts train.")
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("words", nargs="*", help="networks (default: all of them), and KEY=VALUE for both checkouts")
    given = parser.parse_args()
    if not (given.before / "farkas_exp").is_dir():
        parser.error(f"before: {given.before} is no checkout; it must hold farkas_exp/")
    networks = [word for word in given.words if "=" not in word]
    overrides = [word for word in given.words if "=" in word]
    return 0 if compare(given.before, networks or list(NETWORKS), overrides) else 1


if __name__ == "__main__":
    sys.exit(main())
