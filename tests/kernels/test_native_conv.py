"""The native convolution against PyTorch's in float64, and when it is used."""

import threading

import pytest
import torch
import torch.nn.functional as F

from farkas_exp.kernels import accelerate, native_conv, native_library
from farkas_exp.kernels.batch_last import BatchLastFarkasConv2d, BatchLastFarkasResidualConv2d
from farkas_exp.layers.activation import Activation
from farkas_exp.layers.farkas import FarkasConv2d
from farkas_exp.layers.paths import plain_path
from farkas_exp.layers.residual import FarkasResidualConv2d
from farkas_exp.models.create import create_model
from tests.networks import normal

needs_compiler = pytest.mark.skipif(native_library.library() is None, reason="no C++ compiler")
RELU = Activation("relu")
CPU = torch.device("cpu")
NATIVE = {FarkasConv2d: BatchLastFarkasConv2d, FarkasResidualConv2d: BatchLastFarkasResidualConv2d}


@pytest.fixture(autouse=True)
def _default(monkeypatch):
    monkeypatch.delenv("FARKAS_EXP_NATIVE", raising=False)


@pytest.fixture
def threads(monkeypatch):
    """Sets PyTorch's number of threads, for small layers too, and restores it."""
    before = torch.get_num_threads()
    monkeypatch.setattr(native_conv, "WORTH_A_THREAD", 0)
    native_conv._described.cache_clear()
    yield torch.set_num_threads
    torch.set_num_threads(before)
    native_conv._described.cache_clear()


def blocks(count):
    """As many images as `count` vectors hold."""
    return count * native_library.lanes()


def batch_last(tensor):
    return tensor.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def is_native(output):
    nodes = [output.grad_fn]
    while nodes:
        node = nodes.pop()
        if "ConvolveBackward" in type(node).__name__:
            return True
        nodes += [following for following, _ in node.next_functions if following is not None]
    return False


def layer_of(kind, inputs, free, kernel, **options):
    """A layer with `free` free rows."""
    outputs = free if kind is FarkasResidualConv2d else free + 1
    layer = NATIVE[kind](inputs, outputs, kernel, padding=kernel // 2, dtype=torch.float64, **options)
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=10 + number))
    return layer


def run(layer, hidden, shortcut, activation=RELU):
    if shortcut is None:
        return layer.with_relu(hidden)[0] if native_conv.is_batch_last(hidden) else activation(layer(hidden))
    return layer.activate(hidden, shortcut, activation)


SHAPES = [
    (1, 17, 18, 32, 32), (3, 3, 5, 8, 8), (2, 9, 4, 16, 16), (3, 5, 9, 4, 7), (1, 1, 1, 33, 5), (2, 3, 7, 5, 33),
    (1, 6, 2, 2, 2), (1, 2, 3, 1, 1), (1, 4, 3, 64, 48),
]  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("kind", [FarkasConv2d, FarkasResidualConv2d])
@pytest.mark.parametrize(("count", "inputs", "free", "height", "width"), SHAPES)
def test_values_and_gradients_are_those_of_the_plain_formula(count, inputs, free, height, width, kind, kernel):
    """Float32 against float64: within 1e-4 of the largest entry. The gradient comes from outputs away from the kink."""
    layer = layer_of(kind, inputs, free, kernel, aggregation="mean", margin=0.3)
    with torch.no_grad():
        layer.bias[-1] = 1.0  # active, its max decided
    hidden = normal(blocks(count), inputs, height, width, seed=1)
    shortcut = normal(blocks(count), free, height, width, seed=2) if kind is FarkasResidualConv2d else None
    cotangent = normal(blocks(count), free + 1, height, width, seed=3)
    results = []
    for exact in (True, False):
        leaves = [t if exact else batch_last(t.float()) for t in (hidden, shortcut) if t is not None]
        for leaf in leaves:
            leaf.requires_grad_()
        output = run(layer if exact else layer.float(), *leaves, *[None][: 2 - len(leaves)])
        assert is_native(output) is not exact
        if exact:
            cotangent = cotangent * (output > 1e-3)
        else:
            assert native_conv.is_batch_last(output)
        results.append([output, *torch.autograd.grad(output, [*leaves, *layer.parameters()], cotangent.to(output))])
    for exact, mine in zip(*results, strict=True):
        torch.testing.assert_close(mine.double(), exact.double(), rtol=0, atol=1e-4 * float(exact.detach().abs().max()))


@needs_compiler
@pytest.mark.parametrize("last_bias", [-9.0, 9.0, None])
def test_the_last_bias_follows_the_rule_with_its_gradient(last_bias):
    """max(margin - Agg(b), b_m) on each side, and its half gradient at a tie."""
    hidden, grads = torch.zeros(blocks(1), 2, 4, 4), []
    for native in (True, False):
        layer = BatchLastFarkasConv2d(2, 4, 3, padding=1, margin=1.0)
        with torch.no_grad():
            layer.bias.copy_(torch.tensor([0.5, -0.25, 0.25, 0.5 if last_bias is None else last_bias]))
        output = layer(batch_last(hidden) if native else hidden)
        assert is_native(output) is native
        grads.append((output, *torch.autograd.grad(output, layer.bias, torch.ones(output.shape))))
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs)


@needs_compiler
@pytest.mark.parametrize("count", [2, 3])
def test_threads_agree_and_repeat_bitwise(count, threads):
    layer = layer_of(FarkasResidualConv2d, 5, 6, 3).float()
    leaves = [batch_last(normal(blocks(3), c, 9, 6, seed=c).float()).requires_grad_() for c in (5, 6)]

    def results(number):
        threads(number)
        output = run(layer, *leaves)
        return [output, *torch.autograd.grad(output.square().sum(), [*leaves, *layer.parameters()])]

    for once, again, alone in zip(results(count), results(count), results(1), strict=True):
        assert torch.equal(once, again)
        torch.testing.assert_close(once, alone, rtol=1e-4, atol=1e-4 * float(alone.detach().abs().max()))


@needs_compiler
def test_not_a_number_stays_one():
    layer = BatchLastFarkasConv2d(2, 3, 3, padding=1)
    images = torch.zeros(blocks(1), 2, 4, 4)
    images[3, 1, 2, 2] = torch.nan
    output = layer.with_relu(batch_last(images))[0]
    assert is_native(output)
    assert output[3, :, 2, 2].isnan().all()
    assert not output[[0, 1, 2]].isnan().any()


def small_net(normalization="none", **options):
    torch.manual_seed(0)
    model = create_model(
        "farkasnet34", blocks=(2, 1), widths=(6, 8), image_size=16, normalization=normalization, **options
    )
    return accelerate(model, CPU)


def on_both_paths(model, images):
    """Whether it is the plain path, and the output: first of the fast one, then of the plain one in float64."""
    yield False, model(images)
    with plain_path():
        output = model.double()(images.double())
    yield True, output


@needs_compiler
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "elu"},
        {"residual_scaling": {"alpha": 0.5}},
        {"residual_scaling": {"alpha": 0.5, "beta": 2.0}},
    ],
)
@pytest.mark.parametrize("name", ["farkasnet34", "farkasnet50"])
@pytest.mark.parametrize("more", [0, 3])
def test_a_network_has_the_gradients_of_its_plain_path(name, more, options):
    """Images that do not fill a vector go through PyTorch."""
    torch.manual_seed(0)
    model = accelerate(create_model(name, blocks=(2, 1), widths=(8, 12), image_size=16, **options), CPU)
    images = normal(blocks(5) + more, 3, 16, 16).float().requires_grad_()
    results = []
    for plain, output in on_both_paths(model, images):
        assert is_native(output) is not plain
        results.append([output, *torch.autograd.grad(output.square().sum(), [images, *model.parameters()])])
    for mine, exact in zip(*results, strict=True):
        torch.testing.assert_close(mine.double(), exact.double(), rtol=0, atol=1e-3 * float(exact.detach().abs().max()))


@needs_compiler
def test_a_second_derivative_is_pytorchs():
    model, results = small_net(), []
    images = normal(blocks(1), 3, 16, 16).float().requires_grad_()
    for _, output in on_both_paths(model, images):
        parameters = [images, *model.parameters()]
        first = torch.autograd.grad(output.square().sum(), parameters, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), parameters))
    for mine, exact in zip(*results, strict=True):
        torch.testing.assert_close(mine.double(), exact.double(), rtol=0, atol=1e-3 * float(exact.detach().abs().max()))


@needs_compiler
@pytest.mark.parametrize(
    ("options", "used"),
    [
        ({}, True),
        ({"activation": "elu"}, True),
        ({"normalization": "batch"}, False),
        ({"normalization": "group"}, False),
        ({"aggregation": {"learn_lambda": True}}, False),
    ],
)
def test_networks_that_can_keep_the_memory_format_use_it(options, used):
    images = normal(blocks(1), 3, 16, 16).float()
    model = small_net(**options)
    assert is_native(model(images)) is used
    with plain_path():
        assert not is_native(model(images))
    assert not is_native(model.double()(images.double()))


@needs_compiler
def test_it_is_not_used_under_autocast_or_for_few_images():
    model = small_net()
    assert not is_native(model(normal(blocks(1) - 1, 3, 16, 16).float()))
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_native(model(normal(blocks(1), 3, 16, 16).float()))


@needs_compiler
@pytest.mark.parametrize("options", [{"stride": 2}, {"padding": 0}, {"dilation": 2, "padding": 2}, {"kernel_size": 5}])
def test_other_convolutions_take_the_memory_format_too(options):
    layer = BatchLastFarkasConv2d(3, 5, **{"kernel_size": 3, "padding": 1, **options})
    images = normal(blocks(1), 3, 8, 8).float()
    output = layer(batch_last(images))
    assert not is_native(output)
    torch.testing.assert_close(output, layer(images))


def test_it_can_be_switched_off(monkeypatch):
    model = small_net()
    monkeypatch.setenv("FARKAS_EXP_NATIVE", "0")
    assert not is_native(model(normal(64, 3, 16, 16).float()))
    assert not is_native(small_net()(normal(64, 3, 16, 16).float()))


def test_what_was_compiled_for_one_processor_is_not_loaded_on_another(tmp_path, monkeypatch):
    keys = set()
    for line in ("flags\t\t: avx2", "flags\t\t: avx2 avx512f", "Features\t: asimd", "Features\t: asimd sve"):
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n\nprocessor\t: 1\n{line}\n")
        monkeypatch.setattr(native_library, "_CPUINFO", tmp_path / "cpuinfo")
        keys.add(native_library._processor())
    assert len(keys) == 4


def test_without_a_compiler_everything_works(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/to/be/found")
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")
    native_library.library.cache_clear()
    try:
        assert not native_library.available()
        assert small_net()(normal(64, 3, 16, 16).float()).shape == (64, 10)
    finally:
        native_library.library.cache_clear()


@needs_compiler
def test_training_follows_the_plain_path():
    """Ten steps at learning rate 0.05; rounding differs, so the losses agree to 1e-4."""
    curves = []
    images, labels = normal(blocks(2), 3, 16, 16, seed=4).float(), torch.arange(blocks(2)) % 10
    for plain in (False, True):
        model = small_net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
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
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)
    assert curves[0][-1] < curves[0][0] - 0.003


@needs_compiler
def test_several_threads_may_convolve_at_once():
    layer = BatchLastFarkasConv2d(3, 5, 3, padding=1)
    images = batch_last(normal(blocks(2), 3, 8, 8).float())
    expected, seen = layer(images), []
    workers = [threading.Thread(target=lambda: seen.append(layer(images))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(seen) == 4
    assert all(torch.equal(output, expected) for output in seen)
