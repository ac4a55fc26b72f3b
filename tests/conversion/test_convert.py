"""Converted networks: what becomes of each layer, the certificate of the whole, and that they train."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from farkas_exp import FarkasConv2d, FarkasLinear, FarkasRule, certify, convert
from farkas_exp.layers.completion import FarkasCompletion
from farkas_exp.machine.errors import UserError
from tests.conversion.networks import IMAGES, conv_norm, forms


def test_the_free_rows_are_kept_and_the_original_is_unchanged():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5), nn.ELU(), nn.Linear(5, 2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    conversion = convert(net, aggregation="mean", margin=0.1)
    conv, linear = conversion.network.get_submodule("0"), conversion.network.get_submodule("3")
    assert isinstance(conv, FarkasConv2d)
    assert isinstance(linear, FarkasLinear)
    assert torch.equal(conv.weight, net[0].weight[:-1])
    assert torch.equal(conv.bias, net[0].bias)
    assert conv.rule == FarkasRule("mean", 0.1, 0.0)
    assert linear.rule.cutoff == pytest.approx(-4.605, abs=1e-3)
    assert type(conversion.network.get_submodule("5")) is nn.Linear
    assert forms(conversion) == ["Farkas layer"] * 2
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert certify(conversion.network, IMAGES).strict


def test_a_normalization_moves_behind_the_activation():
    conversion = convert(conv_norm())
    targets = [str(node.target) for node in conversion.network.graph.nodes if node.op == "call_module"]
    assert targets == ["0", "2", "1", "3", "4"]
    assert conversion.places[0].why == "1 moved behind the activation"
    assert torch.equal(conversion.network.get_submodule("1").running_mean, torch.zeros(6))


@torch.no_grad()
def test_a_removed_batch_norm_is_folded_into_the_layer_as_it_evaluates():
    net = conv_norm(bias=False)
    conversion = convert(net, normalization="remove")
    layer = conversion.network.get_submodule("0")
    torch.testing.assert_close(layer(IMAGES)[:, :-1], net[1](net[0](IMAGES))[:, :-1])
    assert conversion.notes == []
    assert not any(isinstance(module, nn.BatchNorm2d) for module in conversion.network.modules())


@torch.no_grad()
def test_a_kept_normalization_is_completed():
    net = conv_norm()
    conversion = convert(net, normalization="keep")
    assert forms(conversion) == ["completion"]
    completion = next(m for m in conversion.network.modules() if isinstance(m, FarkasCompletion))
    before = net[:2](IMAGES)
    torch.testing.assert_close(completion(before)[:, :-1], before[:, :-1])
    found = certify(conversion.network, IMAGES)
    assert len(found) == 1
    assert min(each.margin - each.lambda_b for each in found.values()) > -1e-5


class Halved(nn.Conv2d):
    """A convolution as other packages have them, which computes on its weight."""

    def forward(self, images):
        return F.conv2d(images, self.weight / 2, self.bias)


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.Conv2d(4, 8, 3, padding=1, groups=4), "groups=4: its filters see different channels"),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), "groups=4: its filters see different channels"),
        (nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular"), "padding_mode=circular"),
        (nn.ConvTranspose2d(4, 8, 3), "a transposed convolution"),
        (nn.Conv2d(4, 8, 3, stride=2, dilation=2, padding="valid"), ""),
        (nn.Conv2d(4, 8, 3, bias=False), "with a bias"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 8, 3)), "a ParametrizedConv2d"),
        (Halved(4, 8, 3), "a Halved"),
    ],
)
def test_convolutions_of_every_kind(layer, why):
    conversion = convert(nn.Sequential(layer, nn.ReLU()), margin=0.2)
    (place,) = conversion.places
    assert (place.form, place.why) == ("Farkas layer" if why in ("", "with a bias") else "completion", why)
    found = certify(conversion.network, -torch.rand(2, 4, 9, 9))
    assert found.strict
    assert found.active


def test_what_cannot_be_converted_says_why():
    net = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 1), nn.ReLU(), nn.Flatten(), nn.ReLU())
    net.extend([nn.Linear(1, 4), nn.LeakyReLU(0.2), nn.LSTM(4, 4)])
    conversion = convert(net)
    assert [place.why for place in conversion.places] == [
        "no cutoff is known for it",
        "a single channel cannot be the aggregate of others",
        "the number of its channels is not known",
        "flat on no side: no unit is dead",
    ]
    assert str(conversion).splitlines()[:2] == ["left alone: 4", "  1  left alone: 0 (no cutoff is known for it)"]
    assert str(convert(nn.Linear(2, 2))) == "no activation was found"
    inside = convert(nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16)))
    assert inside.notes == ["0: left alone, the inside of a TransformerEncoderLayer"]


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(nn.ReLU(), IMAGES)


def weight_normed():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 2)))


def hooked(part):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU()), nn.Identity())
    part(net).register_forward_hook(lambda module, inputs, output: 2 * output)
    return net


def with_another_forward():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    net.forward = net[0].forward
    return net


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        (nn.ReLU(), {"normalization": "before"}, "normalization: unknown 'before'"),
        (nn.ReLU(), {"cutoff": 0.5}, "cutoff: 0.5 has no place"),
        (nn.LazyLinear(3), {}, "model: it has lazy layers"),
        ("resnet18", {}, r"model: expected a network \(torch.nn.Module\), got 'resnet18'$"),
        (torchvision.models.resnet18, {}, r"model: expected .*, got resnet18; call it first"),
        (nn.ReLU, {}, r"model: expected .*, got ReLU; call it first"),
        (convert(nn.ReLU()), {}, r"model: expected .*, got a Conversion; give its .network"),
        (None, {}, r"model: expected .*, got a NoneType$"),
        (scripted(), {}, "model: a network of TorchScript cannot be converted"),
        (weight_normed(), {}, r"model: it cannot be copied \(Only Tensors created explicitly"),
        (hooked(lambda net: net), {}, "model: Sequential: it has hooks, which would be lost; take that off first$"),
        (hooked(lambda net: net[2]), {}, "model: 2: it has hooks"),
        (hooked(lambda net: net[3]), {}, "model: 3: it has hooks"),
        (hooked(lambda net: net[1]), {"normalization": "remove"}, "model: 1: it has hooks"),
        (with_another_forward(), {}, "model: Sequential: its forward was replaced"),
        (nn.ReLU(), {"rule": "mean"}, r"rule: expected a FarkasRule, or its fields .*, got 'mean'"),
        (nn.ReLU(), {"margin": "0.1"}, "aggregation.margin: '0.1' is out of range"),
        (nn.ReLU(), {"margin": math.nan}, "aggregation.margin: nan is out of range"),
    ],
)
def test_what_is_asked_wrongly_is_refused(net, options, message):
    with pytest.raises(UserError, match=f"^{message}"):
        convert(net, **options)
    if "model: expected" in message:
        with pytest.raises(UserError, match=f"^{message}"):
            certify(net, IMAGES)


def test_what_a_layer_shares_or_hides_is_not_lost():
    first, tied = nn.Linear(4, 4), nn.Linear(4, 4)
    tied.weight = first.weight
    hooked = nn.utils.spectral_norm(nn.Linear(4, 4))
    twice = nn.Linear(4, 4)
    net = nn.Sequential(first, nn.ReLU(), tied, nn.ReLU(), hooked, nn.ReLU(), twice, nn.ReLU(), twice)
    whys = [place.why for place in convert(net).places]
    assert whys == ["its weight is shared", "its weight is shared", "it has hooks", "used more than once"]


@torch.no_grad()
def test_the_hooks_of_layers_that_stay_are_called():
    converted = convert(hooked(lambda net: net[1])).network.eval()
    twice = converted(IMAGES)
    converted.get_submodule("1")._forward_hooks.clear()
    torch.testing.assert_close(twice, 2 * converted(IMAGES))


class NormAct(nn.BatchNorm2d):
    """A normalization with its activation, as timm has them."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, images):
        torch._assert(images.ndim == 4, "expected four dimensions")
        normed = F.batch_norm(
            images, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )
        return self.act(self.drop(normed))


@torch.no_grad()
@pytest.mark.parametrize("normalization", ["after", "remove", "keep"])
def test_a_normalization_with_its_activation_is_as_the_two_are(normalization):
    apart = conv_norm(bias=False)
    together = nn.Sequential(apart[0], NormAct(6), *apart[3:]).eval()
    together[1].load_state_dict(apart[1].state_dict())
    expected, found = (convert(net, margin=0.1, normalization=normalization) for net in (apart, together))
    assert forms(found) == forms(expected)
    assert [place.why for place in found.places] == [place.why for place in expected.places]
    for training in (False, True):
        outputs = [conversion.network.train(training)(IMAGES) for conversion in (expected, found)]
        torch.testing.assert_close(outputs[1], outputs[0])
    parameters = [len(list(conversion.network.parameters())) for conversion in (expected, found)]
    assert parameters[0] == parameters[1]


@pytest.mark.parametrize("normalization", ["after", "remove", "keep"])
def test_a_normalization_with_its_activation_may_be_called_twice(normalization):
    norm = NormAct(4)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.Conv2d(4, 4, 1), norm)
    conversion = convert(net, margin=0.1, normalization=normalization)
    assert forms(conversion) == ["Farkas layer" if normalization == "remove" else "completion"] * 2
    assert certify(conversion.network, IMAGES).active


def test_a_normalization_that_no_layer_can_take_over_is_left_out():
    over_tokens = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(3), nn.ReLU())  # of (N, 3, 8)
    dropped = nn.Sequential(nn.Linear(8, 6), nn.Dropout(), nn.LayerNorm(6), nn.ReLU())
    for net, name in ((over_tokens, "1"), (dropped, "2")):
        conversion = convert(net, normalization="remove")
        assert conversion.notes == [f"{name}: removed, with no layer to fold it into"]
        assert conversion.network(torch.rand(2, 3, 8)).shape == (2, 3, 6)


class Watching(nn.Module):
    """Its forward looks at values, which no trace can."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, images):
        maps = self.norm(self.layer(images))
        return self.block(maps) if maps.sum() > 0 else maps


def test_a_normalization_that_could_not_be_removed_is_named():
    conversion = convert(Watching(), normalization="remove")
    assert conversion.notes[1:] == ["norm: not removed, in a part that cannot be traced"]
    assert len(convert(Watching()).notes) == 1


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.steps = nn.Parameter(torch.ones(1, dtype=torch.int64), requires_grad=False)
        self.layer = nn.ConvTranspose2d(3, 4, 1, dtype=torch.float64)

    def forward(self, images):
        return F.relu(self.layer(images)) * self.steps


def test_a_completion_has_the_type_of_weights_beside_whole_numbers():
    parameters = convert(Counted()).network.parameters()
    assert {each.dtype for each in parameters} == {torch.int64, torch.float64}


def test_what_compiles_or_distributes_a_network_is_taken_off():
    inner = torch.compile(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), backend="eager")
    conversion = convert(nn.DataParallel(nn.Sequential(inner, nn.Conv2d(4, 4, 1), nn.ReLU())), margin=0.1)
    assert forms(conversion) == ["Farkas layer"] * 2
    assert [note.partition(":")[0] for note in conversion.notes] == ["DataParallel", "OptimizedModule"]
    compiled = torch.compile(conversion.network, backend="eager")
    assert certify(compiled, IMAGES).active
