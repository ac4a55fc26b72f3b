import pytest
import torch
from torch import nn

from farkas_exp.config.schema import OptimizerConfig
from farkas_exp.machine.errors import UserError
from farkas_exp.models.create import create_model
from farkas_exp.registry import OPTIMIZERS
from farkas_exp.training.optimizer import (
    build_optimizer,
    keep_rates,
    optimizer_state,
    parameter_groups,
    set_learning_rate,
)
from tests.configs import config


def test_adamw_decays_beside_the_gradient():
    model = create_model("mlp", 10, in_channels=1, image_size=2, depth=1, width=3)
    own = config(optimizer={"name": "adamw", "weight_decay": 0.5}).optimizer
    optimizer, weight = build_optimizer(model, own, 0.1), model.get_parameter("classifier.weight")
    before = weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before * (1 - 0.1 * 0.5) - 0.1)  # Adam's first step has the length lr


@pytest.mark.parametrize("name", ["resnet18", "farkasnet18", "farkasnet50"])
def test_weights_decay_and_nothing_else_does(name):
    model = create_model(name, 10, normalization={"name": "batch", "affine": True})
    decayed, free = parameter_groups(model, 5e-4)
    assert (decayed["weight_decay"], free["weight_decay"]) == (5e-4, 0.0)
    assert all(parameter.dim() in (2, 4) for parameter in decayed["params"])
    assert all(parameter.dim() == 1 for parameter in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_the_weights_of_every_kind_of_convolution_decay():
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Conv3d(1, 2, 3), nn.ConvTranspose2d(1, 2, 3), nn.BatchNorm2d(2))
    decayed, free = parameter_groups(model, 5e-4)
    assert [id(parameter) for parameter in decayed["params"]] == [id(layer.weight) for layer in model[:3]]
    assert len(free["params"]) == 5


def test_decay_all_decays_every_parameter():
    (group,) = parameter_groups(create_model("farkasnet18", 10), 5e-4, "all")
    assert group["weight_decay"] == 5e-4


@pytest.mark.parametrize("name", ["resnet50_imagenet", "farkasnet50_imagenet", "farkas_mlp"])
def test_all_but_biases_is_the_rule_by_name_of_the_authors_code(name):
    model = create_model(name, 10, normalization={"name": "batch", "affine": True}, aggregation={"learn_lambda": True})
    decayed, free = parameter_groups(model, 1e-4, "all_but_biases")
    assert (decayed["weight_decay"], free["weight_decay"]) == (1e-4, 0.0)
    assert set(free["params"]) == {p for name, p in model.named_parameters() if "bias" in name}
    assert set(decayed["params"]) == {p for name, p in model.named_parameters() if "bias" not in name}


def test_fixup_trains_its_scalars_with_a_tenth_of_the_learning_rate_and_decays_them():
    model = create_model("fixup34", 10)
    optimizer = build_optimizer(model, config().optimizer, 0.1)
    set_learning_rate(optimizer, 0.05)
    by_rate = {round(group["lr"], 6): group for group in optimizer.param_groups}
    scalars = [p for group in optimizer.param_groups if group["lr_scale"] == 0.1 for p in group["params"]]
    assert set(by_rate) <= {0.05, 0.005}
    assert by_rate[0.005]["weight_decay"] == 5e-4
    assert scalars
    others = [p for p in model.parameters() if all(p is not scalar for scalar in scalars)]
    assert {p.numel() for p in scalars} == {1, 10}  # the scalars, and the bias of the classifier
    assert all(p.dim() >= 2 for p in others)


def test_by_the_common_rule_fixup_is_trained_as_the_authors_code_trains_any_network():
    model = create_model("fixup34", 10)
    decayed, free = parameter_groups(model, 5e-4, scalars="common")
    assert [(group["weight_decay"], group["lr_scale"]) for group in (decayed, free)] == [(5e-4, 1.0), (0.0, 1.0)]
    assert set(free["params"]) == {p for name, p in model.named_parameters() if "bias" in name}
    assert set(decayed["params"]) == {p for name, p in model.named_parameters() if "bias" not in name}


def test_sgd_is_the_papers():
    group = build_optimizer(create_model("resnet18", 10), config().optimizer, 0.1).param_groups[0]
    assert (group["momentum"], group["nesterov"], group["dampening"], group["lr"]) == (0.9, False, 0, 0.1)


@pytest.mark.parametrize("nesterov", [False, True])
def test_two_steps_of_sgd_by_hand(nesterov):
    """v = g, then v = mu v + g, where g includes the decay; the step is v, or g + mu v with Nesterov's momentum."""
    model, lr, mu, decay = nn.Linear(1, 1, bias=False), 0.1, 0.9, 0.3
    made = OptimizerConfig("sgd", momentum=mu, weight_decay=decay, nesterov=nesterov)
    optimizer = build_optimizer(model, made, lr)
    weight, velocity = float(model.weight.detach()), 0.0
    for gradient in (2.0, -1.0):
        model.weight.grad = torch.full_like(model.weight, gradient)
        optimizer.step()
        gradient += decay * weight
        velocity = mu * velocity + gradient
        weight -= lr * (gradient + mu * velocity if nesterov else velocity)
        assert float(model.weight.detach()) == pytest.approx(weight, rel=1e-5)


def test_two_steps_of_adam_by_hand():
    """m and v, corrected for their start at zero, with the decay in the gradient (Kingma and Ba 2015)."""
    layer, lr = nn.Linear(1, 1, bias=False), 0.1
    optimizer = build_optimizer(layer, OptimizerConfig("adam", weight_decay=0.0), lr)
    assert isinstance(optimizer, torch.optim.Adam)
    assert not isinstance(optimizer, torch.optim.AdamW)
    weight, first, second = float(layer.weight.detach()), 0.0, 0.0
    for step, gradient in enumerate((2.0, -1.0), start=1):
        layer.weight.grad = torch.full_like(layer.weight, gradient)
        optimizer.step()
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        weight -= lr * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)) ** 0.5 + 1e-8)
        assert float(layer.weight.detach()) == pytest.approx(weight, rel=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_optimizers_make_one_pass_over_the_parameters(name):
    assert build_optimizer(nn.Linear(2, 2), OptimizerConfig(name), 0.1).defaults["fused"] is True


def test_a_parameter_that_is_not_trained_has_no_group_and_a_shared_one_only_one():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].weight.requires_grad_(False)
    model[1].bias = model[0].bias
    grouped = [id(parameter) for group in parameter_groups(model, 0.1) for parameter in group["params"]]
    assert sorted(grouped) == sorted([id(model[0].bias), id(model[1].weight)])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_rates_on_the_device_are_changed_in_place_and_saved_as_numbers(name):
    model = torch.nn.Linear(2, 2)
    optimizer = build_optimizer(model, OptimizerConfig(name=name), 0.5)
    plain = optimizer_state(optimizer)
    keep_rates(optimizer, torch.device("cpu"))
    rates = [group["lr"] for group in optimizer.param_groups]
    set_learning_rate(optimizer, 0.25)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        assert group["lr"] is rate, "a recorded step reads this memory"
        assert float(rate) == 0.25 * group["lr_scale"]
        assert group.get("capturable", True)
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer_state(optimizer)["param_groups"]] == [
        group["lr"] for group in plain["param_groups"]
    ]
    keep_rates(optimizer, None)
    assert all(type(group["lr"]) is float and not group.get("capturable") for group in optimizer.param_groups)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda groups, lr: torch.optim.SGD(groups[:1], lr=lr), "own leaves 2 of the parameters"),
        (lambda groups, lr: torch.optim.SGD([each for group in groups for each in group["params"]], lr=lr),
         "own: its builder has to return an optimizer of the parameter groups"),
        (lambda groups, lr: None, "own: its builder has to return an optimizer of the parameter groups"),
    ],
)  # fmt: skip
def test_an_optimizer_that_does_not_train_all_parameters_by_their_groups_is_refused(monkeypatch, made, message):
    monkeypatch.setattr(OPTIMIZERS, "_entries", dict(OPTIMIZERS._entries))
    OPTIMIZERS.register("own", lambda groups, lr, config, fused: made(groups, lr))
    with pytest.raises(UserError, match=f"^optimizer.name: {message}"):
        build_optimizer(create_model("mlp", depth=1, image_size=2), OptimizerConfig("own"), 0.1)


def test_a_network_without_anything_to_train_is_refused():
    network = create_model("mlp", depth=1, image_size=2).requires_grad_(False)
    with pytest.raises(UserError, match=r"^model: it has no parameters to train$"):
        build_optimizer(network, OptimizerConfig(), 0.1)
