"""What a running training reports to: its JSONL record, the progress display and the Weights & Biases mirror.

The record in the run directory is the source of truth; the other two only show it.
"""

from farkas_exp.tracking.console import Progress
from farkas_exp.tracking.jsonl import JsonlWriter, truncate_rows
from farkas_exp.tracking.wandb import WandbMirror

__all__ = ["JsonlWriter", "Progress", "WandbMirror", "truncate_rows"]
