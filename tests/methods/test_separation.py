import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from farkas_exp.config.identity import deciding_values, identify
from farkas_exp.data.arrays.moons import make_moons
from farkas_exp.data.base import Batching
from farkas_exp.data.build import build_data
from farkas_exp.initialization.apply import initialize
from farkas_exp.launch import execution
from farkas_exp.layers.watching import watch_pre_activations
from farkas_exp.machine.errors import UserError
from farkas_exp.measures.activity import dead_samples
from farkas_exp.methods.base import Training, build_methods, execution_mode, penalized
from farkas_exp.methods.norm_bias import norm_bias
from farkas_exp.methods.separation import separation_penalty, slack_sum
from farkas_exp.models.create import create_model
from farkas_exp.runs import read_run
from farkas_exp.training.building import build_model
from scripts import separation_seeds as by_hand
from tests.composing import composed
from tests.configs import config


def naive_penalty(layers, c, rho, units, points, conv_point="image", reduction="sum"):
    """Equations 13, 15 and 17 term by term, over slack variables that are as small as Equations 12 and 14 allow."""
    total = 0.0
    for z in layers:
        channels = z.shape[1]
        by_unit = [z[:, j].flatten() for j in range(channels)]
        if z.dim() == 2 or conv_point == "image":
            by_point = [z[i].flatten() for i in range(len(z))]
        else:
            by_point = list(z.permute(0, 2, 3, 1).reshape(-1, channels))
        scale = {"sum": 1, "layer_mean": 1, "balanced": len(by_point)}[reduction]
        for kind in ([by_unit] if units else []) + ([by_point] if points else []):
            for values in kind:
                above, below = max(0.0, 1 - max(values.tolist())), max(0.0, 1 + min(values.tolist()))
                total += ((c + rho) * above + (c - rho) * below) * scale / (1 if reduction == "sum" else len(kind))
    return total


@pytest.mark.parametrize(("units", "points"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("conv_point", ["image", "position"])
def test_the_penalty_is_the_papers_sum_of_slacks(units, points, conv_point):
    torch.manual_seed(0)
    layers = [torch.randn(5, 4), torch.randn(5, 4), 0.3 * torch.randn(5, 7), 0.5 * torch.randn(3, 4, 2, 2)]
    for c, rho in ((0.5, 0.0), (0.5, 0.01), (1.0, -0.2)):
        options = {"units": units, "points": points, "conv_point": conv_point}
        for reduction in ("sum", "layer_mean", "balanced"):
            got = separation_penalty(layers, coefficient=c, rho=rho, reduction=reduction, **options)
            wanted = naive_penalty(layers, c, rho, units, points, conv_point, reduction)
            assert float(got) == pytest.approx(wanted, rel=1e-5)


def test_balanced_constraints_weigh_alike_however_many_points_and_units_there_are():
    dead = [torch.zeros(85, 4), torch.zeros(30, 7)]  # violates every constraint by 1
    for reduction, each in (("layer_mean", 2.0), ("balanced", 85.0 + 30.0), ("sum", None)):  # 2 c in each layer
        parts = [float(separation_penalty(dead, units=u, points=not u, reduction=reduction)) for u in (True, False)]
        assert parts == ([each, each] if each else [11.0, 115.0])


def test_a_choice_of_the_constraints_is_balanced_and_no_run_of_the_raw_sums():
    for name in ("sep_u", "sep_p", "sep_up"):
        given = ("model=rect_mlp", "dataset=moons", f"regularizer={name}")
        balanced, raw = composed(*given), composed(*given, "regularizer.reduction=sum")
        assert (balanced.regularizer.reduction, raw.regularizer.reduction) == ("balanced", "sum")
        assert identify(balanced).hash != identify(raw).hash
        assert "reduction" not in str(deciding_values(raw)), "known runs of raw sums keep their hash"


def test_the_penalty_is_recorded_and_the_loss_is_without_it(tmp_path):
    """Norm-bias far from its norm: kappa mu^2 outweighs the rest."""
    options = {"regularizer": {"name": "norm_bias", "strength": 1.0, "norm_squared": 1e6}, "lr": {"value": 1e-9}}
    biased = execution.execute(config(tmp_path, epochs=1, **options))
    plain = execution.execute(config(tmp_path, epochs=1, lr={"value": 1e-9}))
    rows = [read_run(Path(outcome.path)).metrics()[0] for outcome in (biased, plain)]
    assert rows[0]["train_penalty"] == pytest.approx(1e6, rel=0.01)
    assert rows[0]["train_loss"] == pytest.approx(rows[1]["train_loss"], rel=1e-3)
    assert "train_penalty" not in rows[1]


def test_a_separating_layer_has_no_penalty_and_a_dead_one_has_all_of_it():
    separating = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert float(separation_penalty([separating])) == 0
    dead = torch.zeros(3, 2)  # every unit and every point violates both of its constraints by 1
    assert float(separation_penalty([dead])) == pytest.approx(0.5 * 2 * (2 + 3))


def test_the_slacks_of_a_layer_count_half_unless_told_otherwise():
    z = torch.tensor([[0.5, -3.0], [0.0, 2.0]])  # the first unit lacks 0.5 above and 1 below, the second nothing
    assert float(slack_sum(z, 0)) == pytest.approx(0.5 * (0.5 + 1.0))
    assert float(slack_sum(z, 0, 0.5, 0.1)) == pytest.approx(0.6 * 0.5 + 0.4 * 1.0)


NOTHING: Any = None
"""Of what a method does not look at."""


def regularizers(model, **options):
    return build_methods(Training(config(regularizer=options), model, NOTHING, model))


@pytest.mark.parametrize("rho", [0.0, 0.01])
def test_at_zero_weights_the_first_layer_gets_the_gradient_of_the_asymmetry_only(rho):
    """dg_U/dW = -2 rho mean(x) and dg_U/db = -2 rho: the extremes share their gradient among all (tied) points."""
    torch.manual_seed(0)
    model = create_model("mlp", 2, in_channels=2, image_size=1, depth=3, width=4)
    initialize(model, "zero")
    points = torch.randn(20, 2, 1, 1)
    _, (penalty,) = penalized(regularizers(model, name="sep_u", strength=1.0, rho=rho), model, points)
    penalty.backward()
    layer = model.hidden[0].layer
    mean = points.flatten(1).mean(0)
    assert torch.allclose(layer.weight.grad, (-2 * rho * mean).expand(4, 2), atol=1e-7)
    assert torch.allclose(layer.bias.grad, torch.full((4,), -2 * rho), atol=1e-7)


@pytest.mark.parametrize(("name", "layers"), [("farkasnet34", 5), ("resnet34", 5), ("farkas_rect_conv", 10)])
def test_every_layer_is_watched_and_the_logits_stay_the_same(name, layers):
    torch.manual_seed(0)
    sizes = {} if "rect" in name else {"blocks": (2,), "widths": (4,)}
    model = create_model(name, 10, **sizes)
    images = torch.rand(4, 3, 8, 8)
    with watch_pre_activations(model) as seen:
        logits = model(images)
    assert len(seen) == layers
    assert torch.allclose(logits, model(images), atol=1e-6)
    assert all((z < 0).any() for _, z in seen)  # not yet rectified
    assert not any(module._forward_pre_hooks for module in model.modules())
    gradients = []
    for include_output in (False, True):
        methods = regularizers(model, name="sep_up", strength=1.0, include_output=include_output)
        got, (penalty,) = penalized(methods, model, images)
        assert torch.allclose(got, logits, atol=1e-6)
        gradients.append(torch.autograd.grad(penalty, model.classifier.weight, allow_unused=True)[0])
    assert gradients[0] is None
    assert gradients[1] is not None


@pytest.mark.parametrize("name", ["sep_u", "sep_p", "sep_up"])
def test_the_term_of_a_step_is_the_strength_times_the_constraints_of_the_configuration(name):
    model, images = create_model("rect_conv", 3, in_channels=1, image_size=4, depth=2, width=3), torch.rand(4, 1, 4, 4)
    options = {"coefficient": 0.7, "rho": 0.2, "conv_point": "position", "reduction": "layer_mean"}
    methods = regularizers(model, name=name, strength=0.3, include_output=True, **options)
    logits, (penalty,) = penalized(methods, model, images)
    with watch_pre_activations(model) as seen:
        model(images)
    which = {"units": name != "sep_p", "points": name != "sep_u"}
    expected = separation_penalty([*(z for _, z in seen), logits], **which, **options)
    assert penalty.item() == pytest.approx(0.3 * expected.item())
    assert not vars(methods[0])["seen"], "the graph of a step is not kept for the next one"


@pytest.mark.parametrize(("width", "depth", "networks"), [(4, 10, 150), (4, 50, 40), (3, 5, 200)])
def test_dead_points_of_random_networks_are_as_frequent_as_the_theory_says(width, depth, networks):
    points, _ = make_moons(85, 0.1, torch.Generator().manual_seed(0))
    images = points.float().view(-1, 2, 1, 1)
    shares = []
    for seed in range(networks):
        model = create_model("mlp", 2, in_channels=2, image_size=1, depth=depth, width=width)
        initialize(model, "xavier", seed=seed)
        shares.append(dead_samples(model, images))
    mean, error = torch.tensor(shares).mean(), torch.tensor(shares).std() / math.sqrt(networks)
    theory = 1 - (1 - 2**-width) ** depth  # the paper's A.2: symmetric weights without biases
    assert abs(mean - theory) < 4 * error + 0.005


def test_norm_bias_by_hand_and_weight_decay_is_its_case_of_norm_zero():
    parameters = [torch.tensor([3.0, 4.0]), torch.tensor([[2.0]])]
    assert float(norm_bias(parameters, 100.0)) == 71.0
    assert float(norm_bias(parameters, 20.0)) == 9.0
    assert float(norm_bias(parameters)) == 29.0
    assert float(norm_bias([torch.ones(301, dtype=torch.bfloat16)])) == 301, "which bfloat16 has no number for"
    assert float(norm_bias([torch.tensor([2.0, 1e-6]).double()])) == pytest.approx(4 + 1e-12, rel=1e-15)


def test_the_norm_is_that_of_the_trainable_parameters():
    model = nn.Linear(2, 1)
    nn.init.constant_(model.weight, 3.0)
    nn.init.constant_(model.bias, 5.0).requires_grad_(False)
    made = config(regularizer={"name": "norm_bias", "strength": 0.5, "norm_squared": 8.0})
    (method,) = build_methods(Training(made, model, NOTHING, model))
    penalty = method.penalty(torch.zeros(1))
    assert penalty.item() == 0.5 * abs(9 + 9 - 8)


def test_weight_decay_as_a_regularizer_is_twice_its_factor_in_sgd():
    steps = []
    for own, factor in ((True, 0.0), (False, 2 * 0.01)):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=factor)
        logits = model(torch.ones(4, 3))
        loss = F.cross_entropy(logits, torch.tensor([0, 1, 1, 0]))
        (loss + (0.01 * norm_bias(model.parameters()) if own else 0)).backward()
        optimizer.step()
        steps.append(model.weight.detach())
    assert torch.allclose(*steps, atol=1e-7)


def test_norm_bias_draws_the_norm_to_mu_and_weight_decay_below_it():
    def final_norm(name, **options):
        made = config(
            model={"name": "mlp", "depth": 2, "width": 32, "blocks": None, "widths": None},
            regularizer={"name": name, **options},
        )
        points, labels = make_moons(100, 0.1, torch.Generator().manual_seed(0))
        images = points.float().view(-1, 2, 1, 1)
        torch.manual_seed(0)
        model = create_model("mlp", 2, in_channels=2, image_size=1, depth=2, width=32)
        methods = build_methods(Training(made, model, NOTHING, model))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        for _ in range(400):
            logits, penalties = penalized(methods, model, images)
            optimizer.zero_grad()
            sum(penalties, F.cross_entropy(logits, labels)).backward()
            optimizer.step()
        return math.sqrt(sum(float(p.detach().pow(2).sum()) for p in model.parameters()))

    free = final_norm("none")
    decayed = final_norm("weight_decay", strength=0.005)
    biased = final_norm("norm_bias", strength=0.005, norm_squared=100.0)
    assert biased == pytest.approx(10, rel=0.01)
    assert decayed < 0.95 * free
    assert decayed < biased


def test_a_compiled_network_cannot_be_watched():
    with pytest.raises(UserError, match="use compile=auto or none"):
        execution_mode(config(regularizer={"name": "sep_u", "strength": 1.0}, compile="default"), "default")


def test_the_constraints_alone_train_without_the_cross_entropy(tmp_path):
    """The classifier, which no constraint is about, keeps its weights; the hidden layers do not."""
    moons = {"dataset": {"name": "moons", "train_limit": None}, "epochs": 2, "batch_size": 85}
    moons |= {"model": {"name": "mlp", "depth": 3, "width": 4, "blocks": None, "widths": None}}
    moons |= {"augmentation": {"crop_padding": 0, "flip": False, "cutout": 0}}
    for alone in (True, False):
        constraints = {"name": "sep_up", "strength": 0.1, "reduction": "balanced", "alone": alone}
        made = config(tmp_path, **moons, regularizer=constraints, optimizer={"weight_decay": 0.0})
        weights = torch.load(Path(execution.execute(made).path) / "checkpoint.pt", weights_only=True)["model"]
        first = initial_weights(made)
        assert torch.equal(weights["classifier.weight"], first["classifier.weight"]) == alone
        assert not torch.equal(weights["hidden.0.layer.weight"], first["hidden.0.layer.weight"])


def initial_weights(made):
    data = build_data(made.dataset, made.augmentation, Batching(made.batch_size, made.seed))
    return build_model(made, data, torch.device("cpu")).state_dict()


@pytest.mark.parametrize("reduction", ["sum", "balanced"])
@pytest.mark.parametrize("method", ["sep_u", "sep_p", "sep_up"])
def test_the_trainer_written_by_hand_has_the_same_penalty_for_every_seed(method: str, reduction: str) -> None:
    z = 2 * torch.randn(3, 4, 7, 5, generator=torch.Generator().manual_seed(0))  # layers, seeds, points, units
    chosen = {"units": method != "sep_p", "points": method != "sep_u", "reduction": reduction}
    ours = sum(separation_penalty(list(z[:, seed]), **chosen) for seed in range(4))
    assert float(by_hand.penalty(z, method, reduction)) == pytest.approx(float(ours))


def test_the_trainer_written_by_hand_trains() -> None:
    best, last = by_hand.train("sep_up", depth=3, width=4, seeds=3, epochs=60)
    assert float(best.min()) > 0.8
    assert bool((best >= last).all())


def test_the_command_of_the_trainer_written_by_hand_says_no_spread_of_one_seed(capsys) -> None:
    small = ["--depth=1", "--epochs=1"]
    assert by_hand.main([*small, "--seeds=1"]) == 0
    assert re.fullmatch(r"(\w+ training accuracy: \d\.\d{3} \(n = 1\)\n){2}", capsys.readouterr().out)
    assert by_hand.main([*small, "--seeds=2"]) == 0
    assert re.fullmatch(r"(\w+ training accuracy: [\d.]{5} ± [\d.]{5} \(n = 2\)\n){2}", capsys.readouterr().out)
    assert by_hand.main([*small, "--seeds=0"]) == 2
    assert capsys.readouterr().err == "error: --seeds: 0 is out of range; it must be at least 1\n"
