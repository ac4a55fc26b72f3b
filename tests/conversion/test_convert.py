"""Converted networks: what becomes of each layer, the certificate of the whole, and that they train."""

import copy
import math
import warnings
from collections import Counter, OrderedDict

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from farkas_exp import FarkasConv2d, FarkasLinear, FarkasRule, certify, convert, create_model
from farkas_exp.layers.completion import FarkasCompletion
from farkas_exp.layers.farkas import FarkasLayer
from farkas_exp.layers.paths import plain_path
from farkas_exp.machine.errors import UserError


def forms(conversion):
    return [place.form for place in conversion.places]


def conv_norm(**options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, **options), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 2))
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2)
    return net.eval()


IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


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


@pytest.mark.parametrize(
    ("activation", "cutoff"),
    [
        (nn.ELU(2.0), math.log(0.005)),
        (nn.ELU(0.0), 0.0),
        (nn.Softplus(2.0), math.log(0.01 / 0.99) / 2),
        (nn.LeakyReLU(), 0.0),
        (nn.ReLU6(), 0.0),
        (lambda z: F.relu(input=z), 0.0),
        (lambda z: F.elu(z, 2.0), math.log(0.005)),
        (lambda z: z.relu(), 0.0),
        (lambda z: z.clamp(min=0), 0.0),
        (lambda z: torch.clamp(z, 0, 1), 0.0),
        (lambda z: torch.clamp_min(z, 0), 0.0),
        (nn.Hardtanh(0, 2), 0.0),
        (nn.Threshold(0.5, 0), 0.5),
        (lambda z: F.threshold(z, 0.5, 0), 0.5),
        (nn.CELU(2.0), 2 * math.log(0.01)),
    ],
)
def test_each_activation_has_its_cutoff(activation, cutoff):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.activation = nn.Linear(3, 4), activation

        def forward(self, features):
            return self.activation(self.layer(features))

    layer = convert(Net()).network.layer
    assert isinstance(layer, FarkasLinear)
    assert layer.rule.cutoff == pytest.approx(cutoff)


def test_what_a_layer_shares_or_hides_is_not_lost():
    first, tied = nn.Linear(4, 4), nn.Linear(4, 4)
    tied.weight = first.weight
    hooked = nn.utils.spectral_norm(nn.Linear(4, 4))
    twice = nn.Linear(4, 4)
    net = nn.Sequential(first, nn.ReLU(), tied, nn.ReLU(), hooked, nn.ReLU(), twice, nn.ReLU(), twice)
    whys = [place.why for place in convert(net).places]
    assert whys == ["its weight is shared", "its weight is shared", "it has hooks", "used more than once"]


@torch.no_grad()
@pytest.mark.parametrize(
    ("activation", "form"),
    [
        (nn.ReLU(inplace=True), "Farkas layer"),
        (lambda z: F.elu(z, 1.0, True), "Farkas layer"),
        (nn.ReLU(), "completion"),
        (lambda z: F.elu(z, 1.0), "completion"),
    ],
)
def test_a_later_use_of_what_was_overwritten_sees_the_activation(activation, form):
    class PreActivation(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.activation = nn.Linear(4, 5), nn.Linear(5, 5), activation

        def forward(self, relu):
            first = self.first(relu)
            return self.last(self.activation(first)) + first

    net = PreActivation()
    conversion = convert(net, margin=0.1)
    network, features = conversion.network, torch.randn(3, 4)
    assert forms(conversion) == [form]
    if form == "Farkas layer":
        net.first.weight[-1], net.first.bias[-1] = (values[-1] for values in network.first.augmented())
        expected = net(features)
    else:
        (completion,) = (module for module in network.modules() if isinstance(module, FarkasCompletion))
        expected = net.last(activation(completion(net.first(features)))) + net.first(features)
    torch.testing.assert_close(network(features), expected)


def test_functions_follow_the_mode_of_the_converted_network():
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(50, 50)

        def forward(self, features, scale=1.0, mask=None):
            dropped = F.dropout(F.relu(self.layer(features)), training=self.training)
            return scale * dropped if mask is None else mask * dropped

    features = torch.randn(3, 50)
    for given in (Dropping(), Dropping().eval()):
        network = convert(given, margin=0.1).network
        assert network.training == given.training
        network.eval()
        assert torch.equal(network(features), network(features))
        network.train()
        assert not torch.equal(network(features), network(features))


@pytest.mark.parametrize(
    ("activation", "why"),
    [
        (nn.Hardtanh(), "flat on both sides"),
        (lambda z: F.hardtanh(z, -2, 0), "flat on both sides"),
        (torch.rrelu, "no cutoff is known for it"),
        (F.logsigmoid, "no cutoff is known for it"),
        (lambda z: z.clamp(max=1), None),
        (lambda z: z.clamp(1e-6), None),
    ],
)
def test_what_has_no_cutoff_is_left_alone(activation, why):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.activation = nn.Linear(3, 4), activation

        def forward(self, features):
            return self.activation(self.layer(features))

    assert [place.why for place in convert(Net()).places] == [why] * (why is not None)


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


def test_a_normalization_that_no_layer_can_take_over_is_left_out():
    over_tokens = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(3), nn.ReLU())  # of (N, 3, 8)
    dropped = nn.Sequential(nn.Linear(8, 6), nn.Dropout(), nn.LayerNorm(6), nn.ReLU())
    for net, name in ((over_tokens, "1"), (dropped, "2")):
        conversion = convert(net, normalization="remove")
        assert conversion.notes == [f"{name}: removed, with no layer to fold it into"]
        assert conversion.network(torch.rand(2, 3, 8)).shape == (2, 3, 6)


class Named(nn.Sequential):
    pass


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        relu = nn.ReLU()
        self.body = conv_norm()
        self.named = Named(OrderedDict(a=nn.Linear(2, 3), b=relu, c=nn.Linear(3, 2), d=relu))

    def forward(self, images):
        return self.named(self.body(images) if images.sum() > 0 else self.body(-images))


class OtherInTraining(Untraceable):
    def forward(self, images):
        return (self.body(images), images) if self.training else self.named(self.body(images))


@pytest.mark.parametrize("kind", [Untraceable, OtherInTraining])
def test_a_network_that_cannot_be_traced_has_its_sequences_converted(kind):
    conversion = convert(kind().eval(), margin=0.1)
    assert forms(conversion) == ["Farkas layer"] * 3
    (note,) = conversion.notes
    assert note.startswith(f"{kind.__name__}: only its parts, as it cannot be traced: ")
    network = conversion.network
    assert [type(m).__name__ for m in network.body][:3] == ["FarkasConv2d", "ReLU", "BatchNorm2d"]
    assert [type(m).__name__ for m in network.named] == ["FarkasLinear", "ReLU", "FarkasLinear", "ReLU"]
    assert isinstance(network.named.c, FarkasLinear)
    assert certify(network, IMAGES).strict
    assert not network.training


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.facts = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), ["read by others"]

    def forward(self, images):
        return F.relu(self.norm(self.conv(images)) + images)


class Branching(nn.Module):
    """Cannot be traced, and holds what can: a block twice, blocks in a sequence, one that has a second argument."""

    def __init__(self):
        super().__init__()
        self.block = Residual()
        self.blocks = nn.Sequential(self.block, Residual(), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.last = Masked()

    def forward(self, images):
        images = self.block(images if images.sum() > 0 else -images)
        assert self.block.facts
        for block in self.blocks:
            images = block(images)
        return self.last(images, mask=2)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 1)

    def forward(self, images, mask=None):
        return F.relu(self.layer(images)) if mask is None else mask * self.layer(images)


def test_the_parts_of_a_network_that_cannot_be_traced():
    conversion = convert(Branching(), margin=0.1)
    (note,) = conversion.notes
    assert note.startswith("Branching: only its parts, as it cannot be traced: ")
    assert {place.activation: place.form for place in conversion.places} == {
        "block.relu": "completion", "blocks.1.relu": "completion", "blocks.4": "Farkas layer",
    }  # fmt: skip
    network = copy.deepcopy(conversion.network)
    assert network.block is network.blocks[0]
    assert type(network.last) is Masked
    assert certify(network, IMAGES).active


def test_what_cannot_be_traced_in_a_network_is_converted_by_parts():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), Branching(), nn.Conv2d(4, 4, 1), nn.ReLU())
    conversion = convert(net, margin=0.1)
    (note,) = conversion.notes
    assert note.startswith("2: only its parts, as it cannot be traced: ")
    assert forms(conversion) == ["Farkas layer"] * 2 + ["completion"] * 2 + ["Farkas layer"]
    assert [place.activation for place in conversion.places][:2] == ["1", "4"]
    assert certify(conversion.network, IMAGES).active


def test_what_compiles_or_distributes_a_network_is_taken_off():
    inner = torch.compile(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), backend="eager")
    conversion = convert(nn.DataParallel(nn.Sequential(inner, nn.Conv2d(4, 4, 1), nn.ReLU())), margin=0.1)
    assert forms(conversion) == ["Farkas layer"] * 2
    assert [note.partition(":")[0] for note in conversion.notes] == ["DataParallel", "OptimizedModule"]
    compiled = torch.compile(conversion.network, backend="eager")
    assert certify(compiled, IMAGES).active


def test_layers_that_are_not_reached_are_not_active():
    network = convert(OtherInTraining().eval(), margin=0.1).network
    network.forward = network.body.forward
    found = certify(network, IMAGES)
    assert found["body.0"].active
    assert math.isnan(found["named.a"].margin)
    assert not found.active
    with pytest.raises(ValueError, match="no Farkas layer in this network"):
        certify(nn.Sequential(nn.Linear(2, 2)), torch.ones(1, 2))


def largest(network, name, images):
    """The largest output of a layer at each sample and position, with its graph."""
    seen = []
    handle = network.get_submodule(name).register_forward_hook(lambda layer, inputs, outputs: seen.append(outputs))
    try:
        with plain_path():
            network.eval()(images)
    finally:
        handle.remove()
    return seen[0].amax(1)


def descended(network, name, images, steps=6):
    """Images from a gradient descent on the largest pre-activations of a layer; any input is allowed."""
    images = images.clone().requires_grad_()
    for _ in range(steps):
        (slope,) = torch.autograd.grad(largest(network, name, images).mean(), images)
        images = (images - slope * images.norm() / slope.norm().clamp(min=1e-30)).detach().requires_grad_()
    return images.detach()


def assert_certified(network, images):
    found = certify(network, images)
    assert found.strict
    assert found.active
    for name, each in found.items():
        assert each.margin >= each.lambda_b - 1e-9, name


def test_a_descent_finds_a_dead_point_of_a_plain_layer_and_none_of_a_farkas_layer():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU()).double()
    converted = convert(net, margin=0.1).network
    for name in ("0", "2"):
        images = descended(net, name, IMAGES.double())
        assert largest(net, name, images).min() < 0
        assert_certified(converted, images)
        assert_certified(converted, descended(converted, name, IMAGES.double()))


def test_the_branches_of_googlenet_are_converted_though_it_is_another_network_in_training():
    conversion = convert(torchvision.models.googlenet(num_classes=10, init_weights=False), margin=0.1)
    assert Counter(forms(conversion)) == {"Farkas layer": 61}
    outputs = conversion.network.train()(torch.rand(2, 3, 64, 64))
    assert [output.shape for output in outputs] == [(2, 10)] * 3


NETWORKS = {
    "resnet18": {"Farkas layer": 9, "completion": 8},
    "vgg11": {"Farkas layer": 10},
    "mobilenet_v2": {"Farkas layer": 18, "completion": 17},
    "densenet121": {"Farkas layer": 59, "completion": 62},
}


@pytest.mark.parametrize("normalization", ["after", "remove"])
@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "densenet121", pytest.param("vgg11", marks=pytest.mark.slow)]
)
def test_torchvisions_networks_are_converted_certified_and_train(name, normalization):
    torch.manual_seed(0)
    conversion = convert(getattr(torchvision.models, name)(num_classes=10), margin=0.1, normalization=normalization)
    assert Counter(forms(conversion)) == NETWORKS[name]
    network, images, labels = conversion.network, torch.rand(4, 3, 32, 32), torch.arange(4)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    for _ in range(2):
        loss = F.cross_entropy(network.train()(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
    assert all(layer.weight.grad.any() for layer in network.modules() if isinstance(layer, FarkasLayer))
    network.double()
    assert len(certify(network, images.double())) == len(conversion.places)
    assert_certified(network, images.double())
    if normalization == "after":
        names = [name for name, layer in network.named_modules() if isinstance(layer, (FarkasLayer, FarkasCompletion))]
        for attacked in (names[0], names[-1]):
            assert_certified(network, descended(network, attacked, images[:1].double(), steps=2))


def test_the_farkas_networks_are_those_of_the_plain_ones_where_both_have_the_same_form():
    for plain, farkas in (("mlp", "farkas_mlp"), ("rect_conv", "farkas_rect_conv")):
        net = create_model(plain, depth=3, width=6, image_size=8, in_channels=1)
        twin = create_model(farkas, depth=3, width=6, image_size=8, in_channels=1)
        converted = convert(net).network
        twin.load_state_dict(converted.state_dict())
        images = torch.randn(5, 1, 8, 8)
        torch.testing.assert_close(converted(images), twin(images))


def test_the_layers_of_farkasnet34_are_recovered_but_the_ends_of_its_blocks():
    """There the paper's block appends a channel, which the following layers would have to take."""
    conversion = convert(create_model("resnet34", normalization="batch"))
    twin = dict(create_model("farkasnet34", normalization="batch").named_modules())
    for place in conversion.places:
        assert place.form == ("completion" if "last" in place.before else "Farkas layer"), place
        if place.form == "Farkas layer":
            made, theirs = conversion.network.get_submodule(place.before), twin[place.before]
            assert type(made) is type(theirs)
            assert made.rule == theirs.rule
            assert made.padding == (theirs.padding, theirs.padding)
    assert len(conversion.places) == 33 == len([name for name in twin if name.endswith("activation")])


def test_networks_of_timm():
    timm = pytest.importorskip("timm")
    conversion = convert(timm.create_model("resnet18", num_classes=10), margin=0.1)
    assert Counter(forms(conversion)) == NETWORKS["resnet18"]
    assert certify(conversion.network, torch.rand(2, 3, 32, 32)).strict
    assert set(forms(convert(timm.create_model("convnext_atto", num_classes=10)))) == {"left alone"}
    mobile = convert(timm.create_model("mobilenetv2_035", num_classes=10), margin=0.1)
    assert Counter(forms(mobile)) == NETWORKS["mobilenet_v2"]
    assert certify(mobile.network, torch.rand(2, 3, 64, 64)).strict
