"""Every experiment of the sibling papers in small, one after another, and one page of what they show.

    python -m farkas_exp.studies mini [runs_dir=runs/siblings_mini] [EXPERIMENT ...]

Each has a folder of its own in `runs_dir`. What is done is skipped, so the same command goes on where it was stopped.
The numbers are those of handwritten digits or of a few hundred steps: they show that everything runs, and how it looks.
"""

import html
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from farkas_exp.machine.errors import unknown
from farkas_exp.machine.files import write_text
from farkas_exp.machine.signals import STATUS
from farkas_exp.registry import EXPERIMENTS, REPORTS

_DIGITS = ("dataset=digits", "batch_size=64")
_SHIFTED = (*_DIGITS, "augmentation=digits")
"""In place of an experiment's own crops and flips, for which digits are too small."""
_SMALL = ("model.blocks=[1,1,1]", "model.widths=[8,16,32]")
SMALL: Mapping[str, Sequence[str]] = {
    "sep_moons_table1": ("epochs=300", "diagnostics.epochs=[0,300]"),
    "sep_moons_60x3": ("epochs=300", "diagnostics.epochs=[0,300]"),
    "sep_representations": ("epochs=300", "diagnostics.epochs=[0,100,200,300]"),
    "sep_moons_grid": ("epochs=100", "model.depth=1,10,30", "model.width=2,4", "diagnostics.epochs=[0,100]"),
    "sep_moons_width1": ("epochs=100", "model.depth=1,10,30", "diagnostics.epochs=[0,100]"),
    "sep_mnist_grid": (*_DIGITS, "epochs=5", "lr.value=0.003", "model.depth=2,12", "model.width=2,4",
                       "diagnostics.epochs=[0,5]"),
    "sep_cifar_depth": (*_DIGITS, "epochs=5", "lr.value=0.003", "model.depth=2,10", "diagnostics.epochs=[0,5]"),
    "sep_zero_init": ("epochs=300", "model.depth=1,10", "model.width=10", "diagnostics.epochs=[0,300]"),
    "allconv_cifar10": ("dataset=digits", "augmentation=digits", "batch_size=16", "epochs=30", "lr.value=0.03",
                        "model.blocks=[2,2]", "model.widths=[16,32]"),
    "local_minima_mlp": (*_DIGITS, "epochs=20", "model.width=16", "diagnostics.epochs=[0,20]",
                         "diagnostics.images=500", "diagnostics.lanczos_steps=30"),
    "local_minima_resnet": (*_DIGITS, *_SMALL, "epochs=20", "diagnostics.epochs=[0,20]", "diagnostics.images=500"),
    "norm_bias": (*_SHIFTED, "epochs=5", "dataset.normalize=true", "diagnostics.epochs=[0,5]",
                  "arm=fixup20_none,fixup20_decay,fixup20_bias,mlp_none,mlp_decay,mlp_bias,farkas_mlp_none,"
                  "farkas_mlp_decay,farkas_mlp_bias"),
    "ntk_width": (*_DIGITS, "epochs=5", "model.width=8,32,128", "diagnostics.epochs=[0,1,5]",
                  "diagnostics.ntk_images=10"),
    "ntk_resnet": (*_DIGITS, "epochs=5", "model.blocks=[1,1,1]", "diagnostics.epochs=[0,1,5]",
                   "diagnostics.ntk_images=5", "arm=default_1,no_bn_1,no_skips_1,neither_1"),
    "rank": (*_SHIFTED, *_SMALL, "epochs=20", "diagnostics.epochs=[0,20]", "model=resnet18",
             "arm=natural,min,max,adversarial,natural_skipless,min_skipless,max_skipless"),
    "rank_mlp": (*_DIGITS, "epochs=20", "model.width=32", "diagnostics.epochs=[0,20]"),
}  # fmt: skip
"""What makes each experiment small. Not among them: those that differ from another one in the data alone."""
COMPUTED = ("lecture", "identity")
"""The reports that need no runs."""
COMMON = (
    "seed=0",
    "hydra/launcher=local_parallel",
    "progress=none",
    "wandb.mode=disabled",
    "checkpoint.every_epochs=0",
)


def command(name: str, folder: Path) -> list[str]:
    """The command line of an experiment in small."""
    own = [f"experiment={name}", *COMMON, *SMALL[name], f"runs_dir={folder / name}"]
    return [sys.executable, "-m", "farkas_exp", *own]


def write_page(names: Sequence[str], folder: Path) -> Path:
    """Render what there is of these experiments, and what is computed, into one page."""
    from farkas_exp.report import page, style, tables
    from farkas_exp.runs import collect

    parts, shown = [], []
    for name in (*names, *COMPUTED):
        entry = EXPERIMENTS.get(name)
        records = collect(folder / name) if (folder / name).is_dir() else []
        if entry and not records:
            continue
        report = REPORTS[str(entry.source) if entry else name].build(records)
        shown += records
        parts.append(f"<h2>{html.escape(entry.title if entry else REPORTS[name].summary)}</h2>")
        parts += [tables.to_html(table) for table in report.tables]
        for description, draw in report.figures.items():
            figure = draw()
            parts.append(page.picture(figure, style.drawn(figure, "png"), description))
    path = folder / "siblings.html"
    write_text(path, page.page("The sibling papers in small", parts, page.origin(shown, folder)))
    return path


def run(words: Sequence[str], run_command: Callable[[Sequence[str]], int]) -> int:
    """Run the named experiments, by default all, and write the page; the first exit status that is not 0."""
    folders = [word.partition("=")[2] for word in words if word.startswith("runs_dir=")]
    names = [word.replace("-", "_") for word in words if not word.startswith("runs_dir=")]
    for name in names:
        if name not in SMALL:
            raise unknown("studies mini", name, SMALL)
    folder, statuses = Path(folders[-1] if folders else "runs/siblings_mini"), []
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or SMALL:
        statuses.append(run_command(command(name, folder)))
        if statuses[-1] == STATUS:
            return STATUS
    print(write_page(names or list(SMALL), folder))
    return next((status for status in statuses if status), 0)
