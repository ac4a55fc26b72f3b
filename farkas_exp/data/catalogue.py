"""The data sets, each registered beside its loader in `arrays`, or in `files.folders`; without PyTorch."""

from importlib import import_module
from pkgutil import iter_modules

from farkas_exp.data import arrays

for _module in iter_modules(arrays.__path__, f"{arrays.__name__}."):
    import_module(_module.name)
import_module("farkas_exp.data.files.folders")
