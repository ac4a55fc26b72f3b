"""The forms in which the library takes a group: its name, a mapping of its keys, or the group itself."""

import dataclasses

import pytest
import torch

from farkas_exp import create_model
from farkas_exp.config.schema import InitConfig, ModelConfig
from farkas_exp.initialization.apply import initialize


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
