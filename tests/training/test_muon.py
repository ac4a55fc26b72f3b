"""Muon: which parameters it takes, one step against PyTorch's own optimizers, and checkpoints of both parts."""

import copy

import pytest
import torch
from torch import nn

from farkas_exp.config.schema import OptimizerConfig
from farkas_exp.machine.errors import UserError
from farkas_exp.training.optimizer import build_optimizer, hidden_apart, optimizer_state, parameter_groups
from tests.networks import build, images

MUON = OptimizerConfig(name="muon", weight_decay=0.05)
NETWORKS = {
    "farkasnet18": {"blocks": [1, 1], "widths": [4, 8], "image_size": 8, "normalization": "batch"},
    "farkas_vit": {"depth": 1, "width": 8, "image_size": 8, "normalization": "layer"},
}  # fmt: skip
has_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")


def network(name, layout=torch.contiguous_format):
    return build(name, in_channels=3, **NETWORKS[name]).to(memory_format=layout)


def train_step(net, optimizer, seed=0):
    logits = net(images(4, 3, 8, 8, seed=seed))
    optimizer.zero_grad()
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    optimizer.step()


def hidden_names(net):
    names = {parameter: name for name, parameter in net.named_parameters()}
    groups = hidden_apart(parameter_groups(net, 0.05), net)
    assert sorted(names[p] for group in groups for p in group["params"]) == sorted(names.values())
    return {names[p] for group in groups if group["hidden"] for p in group["params"]}


def test_it_takes_the_weights_of_all_layers_but_the_first_and_the_last():
    assert hidden_names(network("farkas_vit")) == {
        "blocks.0.inputs.weight", "blocks.0.output.weight", "blocks.1.layer.weight", "blocks.1.output.weight",
    }  # fmt: skip
    found = hidden_names(network("farkasnet18"))
    assert "stages.0.0.first.layer.weight" in found
    assert not found & {"stem.layer.weight", "classifier.weight"}
    assert all(name.endswith("layer.weight") for name in found)
    projected = build("resnet18", blocks=[1], widths=[4], head="random_projection")
    assert hidden_names(projected) == {"stages.0.0.first.layer.weight", "stages.0.0.last.layer.weight"}


@has_muon
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", NETWORKS)
def test_steps_are_those_of_pytorchs_muon_and_adamw(name, layout):
    net = network(name, layout)
    other = copy.deepcopy(net)
    optimizer = build_optimizer(net, MUON, 0.01)
    hidden = hidden_names(net)
    theirs = dict(other.named_parameters())
    matrices = {key: nn.Parameter(value.detach().clone().flatten(1)) for key, value in theirs.items() if key in hidden}
    weights = [value for key, value in theirs.items() if value.dim() > 1 and key not in hidden and "places" not in key]
    rest = [value for key, value in theirs.items() if key not in hidden and all(value is not each for each in weights)]
    adamw = torch.optim.AdamW(
        [{"params": weights, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], lr=0.01
    )
    muon = torch.optim.Muon(matrices.values(), lr=0.01, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        train_step(net, optimizer, seed=step)
        other.zero_grad()
        train_step(other, adamw, seed=step)
        for key, matrix in matrices.items():
            matrix.grad = theirs[key].grad.flatten(1)
        muon.step()
        with torch.no_grad():
            for key, matrix in matrices.items():
                theirs[key].copy_(matrix.view(theirs[key].shape))
    for key, value in net.named_parameters():  # the iteration is in bfloat16, so the order of sums counts
        torch.testing.assert_close(value, theirs[key], rtol=2e-2, atol=2e-3, msg=key)
    assert all(parameter.grad is not None for parameter in net.parameters())


@has_muon
def test_the_update_has_singular_values_near_one_and_the_size_of_adamws():
    net = network("farkas_vit")
    layer = net.blocks[0].inputs
    before = layer.weight.detach().clone()
    train_step(net, build_optimizer(net, OptimizerConfig(name="muon", weight_decay=0.0), 0.01))
    values = torch.linalg.svdvals(layer.weight.detach() - before) / (0.01 * 0.2 * 24**0.5)
    assert float(values.max()) < 1.5
    assert float(values.median()) > 0.5


@has_muon
@pytest.mark.parametrize("name", NETWORKS)
def test_it_goes_on_from_a_checkpoint_as_if_it_had_not_been_stopped(name):
    net = network(name, torch.channels_last)
    optimizer = build_optimizer(net, MUON, 0.01)
    train_step(net, optimizer)
    other = network(name, torch.channels_last)
    other.load_state_dict(net.state_dict())
    continued = build_optimizer(other, MUON, 0.01)
    continued.load_state_dict(copy.deepcopy(optimizer_state(optimizer)))
    for each in (optimizer, continued):
        for group in each.param_groups:
            group["lr"] = 0.003 * group["lr_scale"]
    train_step(net, optimizer, seed=1)
    train_step(other, continued, seed=1)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in net.state_dict().items())


@has_muon
def test_a_network_without_hidden_layers_is_refused():
    """It would be trained by AdamW alone, and reported as Muon's."""
    with pytest.raises(UserError, match=r"^optimizer.name: muon is for the matrices of hidden layers, .*; use adamw$"):
        build_optimizer(nn.Sequential(nn.Linear(3, 2)), MUON, 0.01)


def test_a_pytorch_without_muon_is_one_line(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(UserError, match=r"optimizer.name: muon needs PyTorch 2.9 or newer, not .*; use adamw"):
        build_optimizer(network("farkas_vit"), MUON, 0.01)
