"""The data sets by name: those in memory, each registered beside its loader in `arrays`, and folders of image files.

Imports no PyTorch.
"""

from importlib import import_module
from pkgutil import iter_modules

from farkas_exp.data import arrays
from farkas_exp.registry import DATASETS

for _module in iter_modules(arrays.__path__, f"{arrays.__name__}."):
    import_module(_module.name)

_FILES = "farkas_exp.data.files"
_PRINTS = f"{_FILES}.prints:of_folder"
_STREAMED = dict.fromkeys(("root", "label", "image_size", "num_classes", "cache", "workers", "draft", "copies"))

DATASETS.register(
    "image_folder", f"{_FILES}.image_folder:load", image_files=True, named_by_folder=True, prints=_PRINTS,
    options=dict.fromkeys(("root", "label", "image_size", "cache", "workers")),
)  # fmt: skip
for _name, _facts in {"imagenet": {"label": "ImageNet"}, "streamed_folder": {"named_by_folder": True}}.items():
    DATASETS.register(
        _name, f"{_FILES}.streamed:StreamedData", streamed=True, image_files=True, prints=_PRINTS, options=_STREAMED,
        **_facts,
    )  # fmt: skip
