"""The data sets that are folders of image files, in memory and streamed."""

from farkas_exp.registry import DATASETS

_ROOM = "farkas_exp.data.files"
_PRINTS = f"{_ROOM}.prints:of_folder"
_STREAMED = dict.fromkeys(("root", "label", "image_size", "num_classes", "cache", "workers", "draft", "copies"))

DATASETS.register(
    "image_folder", f"{_ROOM}.image_folder:load", image_files=True, named_by_folder=True, prints=_PRINTS,
    options=dict.fromkeys(("root", "label", "image_size", "cache", "workers")),
)  # fmt: skip
for _name, _facts in {"imagenet": {"label": "ImageNet"}, "streamed_folder": {"named_by_folder": True}}.items():
    DATASETS.register(
        _name, f"{_ROOM}.streamed:StreamedData", streamed=True, image_files=True, prints=_PRINTS, options=_STREAMED,
        **_facts,
    )  # fmt: skip
