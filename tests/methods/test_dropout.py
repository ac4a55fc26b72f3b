from typing import Any, cast

import pytest
import torch

from farkas_exp.config.schema import DropoutConfig
from farkas_exp.layers.activation import Activation
from farkas_exp.machine.errors import UserError
from farkas_exp.methods.base import Training, build_methods, execution_mode
from farkas_exp.methods.dropout import dropout_rate, set_dropout
from farkas_exp.models.create import create_model
from tests.configs import config


def test_the_rate_falls_linearly_to_zero_at_its_share_of_the_run():
    half = DropoutConfig(rate=0.4, anneal=0.5)
    assert [dropout_rate(half, epoch, 8) for epoch in range(6)] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0, 0.0])
    assert dropout_rate(DropoutConfig(rate=0.4, anneal=0.0), 7, 8) == 0.4


def test_each_epoch_begins_with_its_rate_of_the_whole_run():
    model: Any = create_model("mlp", in_channels=1, image_size=2, depth=2, width=4)
    made = config(epochs=10, dropout={"rate": 0.4, "anneal": 0.5})
    (method,) = build_methods(Training(made, model, cast(Any, None), model))
    rates = []
    for epoch in range(7):
        method.begin_epoch(epoch)
        rates.append({module.dropout for module in model.modules() if isinstance(module, Activation)})
    assert [rate for (rate,) in rates] == pytest.approx([0.4, 0.32, 0.24, 0.16, 0.08, 0.0, 0.0])


@pytest.mark.parametrize("name", ["resnet34", "farkasnet34"])
def test_dropout_acts_behind_every_activation_in_training_mode_only(name):
    torch.manual_seed(0)
    model = create_model(name, 10, blocks=(1,), widths=(64,))
    images = torch.rand(2, 3, 8, 8)
    model.eval()
    clean = model(images)
    set_dropout(model, 0.5)
    assert torch.equal(model(images), clean)
    model.train()
    assert not torch.equal(model(images), model(images))
    outputs = []
    for module in model.modules():
        if isinstance(module, Activation):
            module.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
    model(images)
    assert len(outputs) == 3  # the fused end of a residual block would have passed its activation by
    set_dropout(model, 0.0)
    assert torch.allclose(model(images), clean, atol=1e-6)


def test_a_dropped_share_is_the_rate_and_the_rest_is_scaled():
    activation = Activation("relu")
    activation.dropout = 0.3
    output = activation(torch.ones(100_000))
    assert float((output == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(output.max()) == pytest.approx(1 / 0.7)


def test_a_falling_rate_is_not_recorded():
    falling, constant = {"rate": 0.1}, {"rate": 0.1, "anneal": 0.0}
    assert execution_mode(config(dropout=falling), "graph") == "none"
    assert execution_mode(config(dropout=constant), "graph") == "graph"
    assert execution_mode(config(), "graph") == "graph"
    assert execution_mode(config(compile="none", dropout=falling), "none") == "none"
    with pytest.raises(UserError, match=r"compile: default would freeze the dropout rate"):
        execution_mode(config(compile="default", dropout=falling), "default")
