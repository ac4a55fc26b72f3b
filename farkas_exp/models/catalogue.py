"""The networks and their heads by name, without PyTorch."""

from collections.abc import Mapping
from typing import Any

from farkas_exp.config.options import option
from farkas_exp.config.schema import MOST_PIXELS
from farkas_exp.registry import HEADS, NETWORKS

HEADS.register("linear", "torch.nn:Linear")
HEADS.register("random_projection", "farkas_exp.models.head:RandomProjection")


def _pair(
    plain: str, farkas: str, source: str, labels: tuple[str, str] = ("", ""), appends: bool = False,
    of_farkas: Mapping[str, Any] | None = None, **facts: Any,
) -> None:  # fmt: skip
    """Register a plain network and its Farkas twin, with everything in common but what `of_farkas` says."""
    NETWORKS.register(plain, source, twin=farkas, label=labels[0], **facts)
    NETWORKS.register(farkas, source, farkas=True, appends=appends, label=labels[1], **{**facts, **(of_farkas or {})})


_RECTANGULAR = {"depth": 10, "width": 16, "residual": False}
_pair("mlp", "farkas_mlp", "farkas_exp.models.rectangular:build_mlp", options=_RECTANGULAR, spatial=False)
_pair(
    "rect_conv", "farkas_rect_conv", "farkas_exp.models.rectangular:build_rect_conv",
    options={**_RECTANGULAR, "pool": False},
)  # fmt: skip

_SKELETONS = {
    "18": ("build_basic", (2, 2, 2, 2), (16, 32, 64, 128)),
    "34": ("build_basic", (5, 5, 5), (16, 32, 64)),
    "50": ("build_bottleneck", (3, 4, 6, 3), (64, 128, 256, 512)),
    "101": ("build_bottleneck", (3, 4, 23, 3), (64, 128, 256, 512)),
}
_AUTHORS: dict[str, dict[str, Any]] = {"18": {"blocks": (3, 3, 3), "widths": (16, 32, 64)}, "50": {}, "101": {}}
"""The FarkasNets with a variant of the authors' code, and the defaults that differ in it."""

for _layers, (_source, _blocks, _widths) in _SKELETONS.items():
    _options = {"head_bn": False, "blocks": _blocks, "widths": _widths}
    _variant = {"authors": _AUTHORS.get(_layers), "options": {**_options, "variant": "paper"}}
    _pair(
        f"resnet{_layers}", f"farkasnet{_layers}", f"farkas_exp.models.resnet:{_source}",
        (f"ResNet{_layers}", f"FarkasNet{_layers}"), appends=True, of_farkas=_variant if _layers in _AUTHORS else None,
        chooses_head=True, depth=int(_layers), options=_options,
    )  # fmt: skip

NETWORKS.register(
    "fixup34", "farkas_exp.models.fixup:FixupNet", label="FixUp34", positions=(), scalars=True, depth=34,
    options={"blocks": (5, 5, 5), "widths": (16, 32, 64)},
)  # fmt: skip
_pair(
    "allconv_residual", "farkas_allconv_residual", "farkas_exp.models.allconv:AllConvNet", chooses_head=True,
    options={"blocks": (9, 9, 9), "widths": (64, 128, 256), "bias": False},
)  # fmt: skip
_pair(
    "nf_resnet34", "nf_farkasnet34", "farkas_exp.models.nf_resnet:NFResNet", ("NF-ResNet34", "NF-FarkasNet34"),
    appends=True, positions=(), chooses_head=True, depth=34, options={"blocks": (5, 5, 5), "widths": (16, 32, 64)},
)  # fmt: skip
_pair(
    "densenet40", "farkas_densenet40", "farkas_exp.models.densenet:DenseNet", depth=40,
    options={"blocks": (12, 12, 12), "width": 12},
)  # fmt: skip
_pair(
    "vit", "farkas_vit", "farkas_exp.models.vit:VisionTransformer", ("ViT", "Farkas ViT"), positions=("branch",),
    affine=True, spatial=False, chooses_head=True,
    options={
        "depth": 6, "width": 64, "heads": option(4, at_least=1, at_most=1000),
        "patch": option(4, at_least=1, at_most=MOST_PIXELS), "expansion": option(4, at_least=1, at_most=1000),
    },
)  # fmt: skip
NETWORKS.register("mobilenet_v2", "farkas_exp.models.mobilenet:build_mobilenet", positions=("before",), affine=True)
NETWORKS.register(
    "linear_residual", "farkas_exp.models.linear_residual:LinearResidualNet", positions=(), activated=False,
    spatial=False, chooses_head=True, options={"depth": 10},
)  # fmt: skip

for _layers, _blocks in (("50", (3, 4, 6, 3)), ("101", (3, 4, 23, 3)), ("152", (3, 8, 36, 3))):
    _sizes = {"blocks": _blocks, "widths": (256, 512, 1024, 2048)}
    _pair(
        f"resnet{_layers}_imagenet", f"farkasnet{_layers}_imagenet", "farkas_exp.models.imagenet:build_imagenet",
        (f"ResNet{_layers} imagenet", f"FarkasNet{_layers} imagenet"), appends=True, depth=int(_layers), affine=True,
        positions=("before", "after"), options={**_sizes, "downsample": "conv"},
        of_farkas={"positions": ("after", "before"), "options": {**_sizes, "downsample": "pool"}},
    )  # fmt: skip
