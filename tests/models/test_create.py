"""The forms in which the library takes a group: its name, its keys, or the group itself; and what it refuses."""

import dataclasses

import pytest
import torch
from torch import nn

from farkas_exp import convert, create_model
from farkas_exp.config.schema import InitConfig, ModelConfig
from farkas_exp.initialization.apply import initialize
from farkas_exp.machine.errors import UserError


@pytest.mark.parametrize("blocks", [{"blocks": (1, 1)}, {"blocks": [1, 1]}])
def test_a_network_given_by_name_by_mapping_or_by_group_is_the_same(blocks):
    whole = {**blocks, "widths": (4, 8)}
    for model, options in (
        ("resnet18", whole),
        ({"name": "resnet18", **whole}, {}),
        ({"name": "resnet18", **blocks}, {"widths": (4, 8)}),
        ({"name": "resnet18", **whole, "widths": (9, 9)}, {"widths": (4, 8)}),
        (dataclasses.replace(ModelConfig("resnet18"), blocks=(1, 1)), {"widths": (4, 8)}),
    ):
        torch.manual_seed(0)
        built = create_model(model, **options).state_dict()
        torch.manual_seed(0)
        wanted = create_model("resnet18", blocks=(1, 1), widths=(4, 8)).state_dict()
        assert all(torch.equal(built[name], wanted[name]) for name in wanted)
        assert built.keys() == wanted.keys()


def test_an_initialization_given_by_name_by_mapping_or_by_group_draws_the_same():
    drawn = []
    for init, options in (
        ("kaiming", {"last_scale": 0.5}),
        ({"name": "kaiming", "last_scale": 0.5}, {}),
        ({"name": "kaiming"}, {"last_scale": 0.5}),
        (InitConfig("kaiming", last_scale=0.5), {}),
    ):
        network = create_model("resnet18", blocks=(1, 1), widths=(4, 8))
        initialize(network, init, seed=3, **options)
        drawn.append(torch.cat([weight.flatten() for weight in network.parameters()]))
    assert all(torch.equal(each, drawn[0]) for each in drawn)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet43", {}, r"model.name: unknown 'resnet43'; did you mean 'resnet34'"),
        ("mlp", {"blocks": [1]}, r"model.blocks: .* here; it needs another model.name: the options of mlp are model.d"),
        ("resnet18", {"variant": "authors"}, r"model.variant: authors does nothing here; it needs .*=farkasnet18 or"),
        ("fixup34", {"normalization": "batch"}, r"normalization.name: batch .* takes a normalization, not fixup34"),
        ("resnet18", {"blocks": [1, 1]}, r"model.blocks: 2 stages in blocks \[1, 1\] but 4 in widths"),
        ("resnet18", {"widths": [8, 8]}, r"model.widths: 4 stages in blocks .* but 2 in widths \[8, 8\]"),
        ("resnet18", {"blocks": [0], "widths": [8]}, r"model.blocks\[0\]: 0 is out of range; it must be at least 1"),
        ("fixup34", {"widths": [16, 8, 8]}, r"model.widths: \[16, 8, 8\] shrinks"),
        ("allconv_residual", {"blocks": (1, 1), "widths": (8, 4)}, r"model.widths: \[8, 4\] shrinks; allconv_residual"),
        ("farkasnet50", {"blocks": [1], "widths": [7]}, r"model.widths: \[7\] is too narrow .* >= 8"),
        ("farkas_mlp", {"width": 1}, r"model.width: 1 is too narrow for farkas_mlp; it must be >= 2"),
        ("mlp", {"depth": 0}, r"model.depth: 0 is out of range"),
        ("mlp", {"width": 0}, r"model.width: 0 is out of range"),
        ("linear_residual", {"depth": 0}, r"model.depth: 0 is out of range"),
        ("resnet50_imagenet", {"downsample": "stride"}, r"model.downsample: "),
        ("resnet18", {"image_size": 7}, r"dataset.image_size: 7 is too small for resnet18 .* must be >= 8"),
        ("resnet18", {"image_size": 8, "normalization": "instance"}, r"dataset.image_size: 8 .*>= 16"),
        ("allconv_residual", {"image_size": 2}, r"dataset.image_size: 2 is too small for allconv_residual"),
        ("resnet50_imagenet", {"image_size": 31}, r"dataset.image_size: 31 .* for resnet50_imagenet with 4 stages"),
        ("farkasnet50_imagenet", {"image_size": 31}, r"dataset.image_size: 31 is too small .* with 4 stages"),
        ("farkas_mlp", {"normalization": "instance"}, r"normalization.name: instance needs images"),
        ("farkasnet18", {"aggregation": "max"}, r"aggregation.name: unknown 'max'"),
        ("farkasnet18", {"aggregation": {"margin": -1.0}}, r"aggregation.margin: -1.0 is out of range"),
        ("farkasnet18", {"activation": "tanh"}, r"activation.name: unknown 'tanh'"),
        ("farkasnet18", {"normalization": "batchnorm"}, r"normalization.name: unknown 'batchnorm'"),
        ("farkasnet18", {"normalization": {"name": "batch", "position": "behind"}}, r"normalization.position: unknown"),
    ],
)
def test_what_cannot_be_built_names_its_key(name, options, message):
    """Options that a network does not have, and positions: of all networks in test_catalogue.py."""
    with pytest.raises(UserError, match=message):
        create_model(name, **options)


@pytest.mark.parametrize(
    ("name", "normalization"),
    [("resnet18", "dyt"), ("resnet18", "group"), ("resnet18", "rms"), ("farkas_mlp", "batch"), ("farkas_vit", "layer")],
)
def test_what_is_made_without_memory_is_filled_by_reset_parameters(name, normalization):
    sizes = {"blocks": (1,), "widths": (8,)} if name == "resnet18" else {"depth": 1, "width": 8}
    options = {**sizes, "image_size": 8, "normalization": {"name": normalization, "affine": True}}
    with torch.device("meta"):
        empty = create_model(name, **options)
    empty.to_empty(device="cpu")
    for value in (*empty.parameters(), *empty.buffers()):
        value.data.fill_(7)
    torch.manual_seed(0)
    made = create_model(name, **options)
    for module in empty.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    drawn = {name for name, value in made.named_parameters() if value.unique().numel() > 1}
    for name, value in made.state_dict().items():
        found = empty.state_dict()[name]
        assert found.abs().max() < 5 if name in drawn else torch.equal(found, value), name


def test_a_completion_made_without_memory_is_filled_by_reset_parameters():
    network = convert(nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.ReLU()), margin=0.5).network
    (bias,) = (value for name, value in network.named_parameters() if "completion" in name)
    start = bias.clone()
    nn.init.constant_(bias, 7)
    network.get_submodule("completion__1").reset_parameters()
    assert torch.equal(bias, start)
