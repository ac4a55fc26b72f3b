"""Copies of a data set with smaller images: `python scripts/resize_images.py /data/imagenet size=160`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from farkas_exp.machine import signals

if __name__ == "__main__":
    sys.exit(signals.command("farkas_exp.data.files.resize"))
