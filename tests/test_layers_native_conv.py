"""The native convolution against PyTorch's in float64, and when it is used."""

import threading

import pytest
import torch
import torch.nn.functional as F

from farkas_exp.layers import FarkasConv2d, FarkasResidualConv2d, native_conv, plain_path
from farkas_exp.models import create_model

needs_compiler = pytest.mark.skipif(native_conv._library() is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def _asked_for(monkeypatch):
    monkeypatch.setenv("FARKAS_EXP_NATIVE", "1")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def threads():
    """Restores PyTorch's number of threads."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("images", "inputs", "outputs", "height", "width"),
    [(5, 17, 18, 32, 32), (3, 3, 5, 8, 8), (21, 9, 4, 8, 8), (6, 5, 9, 16, 16), (2, 1, 1, 3, 32), (2, 3, 6, 5, 64)],
)
def test_values_and_gradients_are_those_of_pytorch(
    images, inputs, outputs, height, width, channels_last, count, threads
):
    threads(count)
    exact = draw(images, inputs, height, width), draw(outputs, inputs, 3, 3, seed=1), draw(outputs, seed=2)
    ours = [tensor.float() for tensor in exact]
    if channels_last:
        ours[:2] = (tensor.to(memory_format=torch.channels_last) for tensor in ours[:2])
    for tensor in (*exact, *ours):
        tensor.requires_grad_()
    cotangent = draw(images, outputs, height, width, seed=3)
    expected = F.conv2d(*exact, padding=1)
    output = native_conv.conv2d(*ours, 1, 1, 1)
    assert "PlanarConv" in type(output.grad_fn).__name__
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=1e-5 * 3 * inputs**0.5)
    for mine, theirs in zip(
        torch.autograd.grad(output, ours, cotangent.float()),
        torch.autograd.grad(expected, exact, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=2e-6 * float(theirs.abs().max()) + 1e-4)


@needs_compiler
def test_a_second_derivative_is_pytorchs():
    weight, bias = draw(3, 3, 3, 3).float(), draw(3).float()
    results = []
    for convolve in (
        lambda x: native_conv.conv2d(x, weight, bias, 1, 1, 1),
        lambda x: F.conv2d(x, weight, bias, padding=1),
    ):
        images = draw(2, 3, 8, 8).float().requires_grad_()
        (first,) = torch.autograd.grad(convolve(images).pow(3).sum(), images, create_graph=True)
        results += torch.autograd.grad(first.pow(2).sum(), images)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-2)


@needs_compiler
@pytest.mark.parametrize(
    ("images", "layer", "used"),
    [
        ((2, 3, 8, 8), {}, True),
        ((1, 3, 8, 8), {}, False),
        ((2, 3, 12, 12), {}, False),
        ((2, 3, 2, 8), {}, False),
        ((2, 3, 8, 8), {"stride": 2}, False),
        ((2, 3, 8, 8), {"padding": 0}, False),
        ((2, 3, 8, 8), {"kernel_size": 1}, False),
        ((2, 3, 8, 8), {"dtype": torch.float64}, False),
    ],
)
def test_it_is_used_for_shapes_that_it_is_made_for(images, layer, used):
    layer = FarkasConv2d(3, 5, **{"kernel_size": 3, "padding": 1, **layer})
    x = draw(*images).to(layer.weight.dtype)
    assert ("PlanarConv" in type(layer(x).grad_fn).__name__) is used
    with plain_path():
        assert "PlanarConv" not in type(layer(x).grad_fn).__name__


@needs_compiler
def test_channels_that_fit_the_lanes_keep_their_layout():
    images = draw(2, 8, 8, 8).float()
    layer = FarkasConv2d(8, 16, 3, padding=1)
    assert "PlanarConv" in type(layer(images).grad_fn).__name__
    assert "PlanarConv" not in type(layer(images.to(memory_format=torch.channels_last)).grad_fn).__name__


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("FARKAS_EXP_NATIVE", "0")
    output = FarkasResidualConv2d(3, 5, 3, padding=1).branch(draw(2, 3, 8, 8).float())
    assert "PlanarConv" not in type(output.grad_fn).__name__


def test_without_a_compiler_everything_works(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/to/be/found")
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")
    native_conv._library.cache_clear()
    try:
        assert not native_conv.available()
        assert FarkasConv2d(3, 5, 3, padding=1)(draw(2, 3, 8, 8).float()).shape == (2, 5, 8, 8)
    finally:
        native_conv._library.cache_clear()


@needs_compiler
@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_training_follows_the_plain_path(normalization):
    """Ten steps at learning rate 0.05; rounding differs, so the losses agree to 1e-3."""
    curves = []
    for plain in (False, True):
        torch.manual_seed(0)
        model = create_model("farkasnet34", blocks=(2, 1), widths=(6, 8), image_size=16, normalization=normalization)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        images, labels = draw(8, 3, 16, 16, seed=4).float(), torch.arange(8)
        curve = []
        for _ in range(10):
            if plain:
                with plain_path():
                    loss = F.cross_entropy(model(images), labels)
            else:
                loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        curves.append(curve)
    assert curves[0] == pytest.approx(curves[1], abs=1e-3)
    assert curves[0][-1] < curves[0][0] - 0.01


@needs_compiler
def test_several_threads_may_convolve_at_once():
    layer = FarkasConv2d(3, 5, 3, padding=1)
    images = draw(4, 3, 8, 8).float()
    expected, seen = layer(images), []
    workers = [threading.Thread(target=lambda: seen.append(layer(images))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(output, expected) for output in seen)
    assert len(seen) == 4
