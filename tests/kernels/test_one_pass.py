"""Networks on a GPU's one-pass convolutions, run by Triton's interpreter, against their plain path."""

import copy

import pytest
import torch
from torch.nn import functional as F

from farkas_exp.kernels import KERNELS, one_pass, restore
from farkas_exp.layers.paths import plain_path, single_precision
from farkas_exp.layers.residual import Scaling
from farkas_exp.models.create import create_model

pytest.importorskip("triton")
from farkas_exp.kernels import triton_conv

GPU = torch.device("cuda")


@pytest.fixture
def pretended(of_one_multiprocessor, monkeypatch):
    """All tensors are on a GPU, and are multiplied exactly; the convolutions that the kernel has done."""
    if torch.cuda.is_available():
        pytest.skip("nothing to pretend")
    done = []
    convolve = triton_conv.convolve
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(one_pass, "precision_here", lambda: ("ieee", torch.float32))
    monkeypatch.setattr(triton_conv, "convolve", lambda *a, **k: (done.append(a), convolve(*a, **k))[1])
    return done


@pytest.fixture
def half_or_single(pretended, products_of_bfloat16, monkeypatch):
    """As a GPU chooses them by its autocast, a CPU's one has to."""

    def here():
        return ("bf16", torch.bfloat16) if torch.is_autocast_enabled("cpu") else ("ieee", torch.float32)

    monkeypatch.setattr(one_pass, "precision_here", here)
    return pretended


def network(name, **options):
    torch.manual_seed(0)
    widths = (8, 12) if "50" in name else (5, 6)
    return create_model(name, blocks=(1, 1), widths=widths, image_size=4, **options)


def accelerated(model):
    made = copy.deepcopy(model).to(memory_format=torch.channels_last)
    for swap in list(KERNELS.values())[:3]:  # those of a GPU
        swap(made, GPU)
    return made


def images():
    made = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return made.to(memory_format=torch.channels_last)


def gradients(model):
    batch = images().requires_grad_()
    loss = F.cross_entropy(model(batch), torch.tensor([1, 7]))
    return [loss, *torch.autograd.grad(loss, [batch, *model.parameters()])]


@pytest.mark.parametrize(
    ("name", "options", "convolutions"),
    [
        ("farkasnet34", {}, 6),  # stem, two in each block, transition
        ("resnet34", {}, 6),
        ("farkasnet50", {"aggregation": "mean"}, 8),
        ("farkasnet18", {"normalization": "batch"}, 6),
    ],
)
def test_a_network_has_the_outputs_and_gradients_of_its_plain_path(name, options, convolutions, pretended):
    plain = network(name, **options)
    fast = accelerated(plain)
    mine = gradients(fast)
    assert len(pretended) == 2 * convolutions
    with plain_path():
        theirs = gradients(plain)
    assert len(pretended) == 2 * convolutions
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, check_stride=False)
    assert type(restore(fast).stem) is type(plain.stem)


def test_second_derivatives_are_those_of_the_plain_path(pretended):
    results = []
    for model in (accelerated(network("farkasnet34")), network("farkasnet34")):
        first = torch.autograd.grad(model(images()).square().sum(), list(model.parameters()), create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), list(model.parameters())))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, check_stride=False)


def test_what_the_kernel_does_not_compute_is_computed_plainly(pretended):
    plain = network("resnet34")
    activation, unit, block = plain.stages[0][0].last.activation, plain.stages[0][0].first, plain.stages[1][1]
    activation.dropout, unit.activation.name = 0.5, "another"
    block.set_scaling(Scaling(beta=0.5))
    fast = accelerated(plain).eval()
    with torch.no_grad():
        torch.testing.assert_close(fast(images()), plain.eval()(images()), rtol=1e-4, atol=1e-5)
    assert len(pretended) == 3, "the stem, the transition, and the second block's first"


def test_single_precision_is_the_librarys(monkeypatch):
    with single_precision():
        assert one_pass.precision_here() is None
    with single_precision(tf32=True):
        assert one_pass.precision_here() == ("tf32", torch.float32)
    for half, found in ((torch.bfloat16, ("bf16", torch.bfloat16)), (torch.float16, None)):
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
        monkeypatch.setattr(torch, "get_autocast_dtype", lambda device, half=half: half)
        assert one_pass.precision_here() == found


def test_which_convolutions_it_computes(pretended):
    layer = torch.nn.Conv2d(3, 4, 3, padding=1)
    assert one_pass.suits(images(), layer)
    for changed in ({"stride": 2}, {"padding": 0}, {"dilation": 2}, {"kernel_size": 5}, {"kernel_size": (3, 1)}):
        assert not one_pass.suits(images(), torch.nn.Conv2d(3, 4, **{"kernel_size": 3, "padding": 1} | changed))
    with plain_path():
        assert not one_pass.suits(images(), layer)
    assert not one_pass.suits(images().double(), layer.double())


@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_errors_are_those_of_their_precision(place, request):
    """Gradients against float64 ones: in bf16 at most three times the library's error, in TF32 less than its in bf16.

    The library's error in TF32 is no measure: it may multiply in float32, and it rounds factors that Triton cuts off.
    """
    done = request.getfixturevalue("half_or_single") if place == "cpu" else ["on a GPU"]
    torch.manual_seed(0)
    plain = network("farkasnet34") if place == "cpu" else create_model("farkasnet34")
    fast = accelerated(plain.to(place, memory_format=torch.channels_last))
    batch = torch.rand(2, 3, 4, 4) if place == "cpu" else torch.rand(16, 3, 32, 32, device=place)
    batch = batch.to(memory_format=torch.channels_last)

    def gradient(model, given, half=False):
        with torch.autocast(place, torch.bfloat16, enabled=half), single_precision(tf32=True):
            loss = model(given).float().square().mean()
            return torch.cat([g.double().flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])

    exact = gradient(copy.deepcopy(plain).double(), batch.double())

    def error(model, half):
        return float((gradient(model, batch, half) - exact).norm() / exact.norm())

    assert error(fast, half=True) < 3 * error(plain, half=True)
    assert error(fast, half=False) < error(plain, half=True)
    assert done
