"""The GPU's convolutions against PyTorch's; without a GPU they are run by Triton's interpreter on the CPU."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("triton")
from farkas_exp.kernels import triton_conv as kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.usefixtures("products_of_bfloat16")
PRECISION = "tf32x3" if torch.cuda.is_available() else "ieee"
EXACT = {"precision": PRECISION, "dtype": torch.float32}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def maps(*shape: int, seed: int = 0, aligned: bool = True) -> Tensor:
    """Random maps (N, C, H, W), channels_last or in aligned rows."""
    made = random(*shape, seed=seed).to(memory_format=torch.channels_last)
    return kernels._in_aligned_rows(made) if aligned else made


def padding_of(rows: Tensor) -> Tensor:
    """What lies behind the channels of maps in aligned rows."""
    row = rows.stride(3)
    return rows.as_strided((rows.untyped_storage().nbytes() // rows.element_size() // row, row), (row, 1))[
        :, rows.shape[1] :
    ]


def assert_near(mine: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-4, check_stride=False)


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "aligned", "coefficient", "relu"),
    [
        (3, 17, 3, False, None, True),  # a stem
        (17, 18, 3, True, 1.0, True),  # Algorithm 2
        (17, 17, 1, True, 0.25, False),
        (40, 35, 3, True, 0.1, True),  # more than one block each way
        (33, 16, 1, False, None, False),
    ],
)
def test_values_and_gradients_are_those_of_the_library(
    inputs, outputs, kernel, aligned, coefficient, relu, monkeypatch
):
    if DEVICE == "cpu":  # blocks of as few outputs as on a GPU; but sums of fewer parts, interpreted one by one
        monkeypatch.setattr(kernels, "MULTIPROCESSORS", 3)
    images, weight = maps(2, inputs, 4, 5, aligned=aligned), random(outputs, inputs, kernel, kernel, seed=1)
    bias = random(outputs, seed=2)
    shortcut = None if coefficient is None else maps(2, outputs - 1, 4, 5, seed=3)
    output = kernels.convolve(images, weight, bias, shortcut, coefficient, relu=relu, **EXACT)
    plain = F.conv2d(images, weight, bias, padding=kernel // 2)
    if shortcut is not None:
        plain = plain + torch.cat((shortcut, -coefficient * shortcut.sum(1, keepdim=True)), 1)
    assert_near(output, plain.relu() if relu else plain)

    gradient = random(2, outputs, 4, 5, seed=4)
    masked, to_shortcut = kernels.through_relu(gradient, output, outputs - 1, coefficient, relu)
    wanted = gradient * (output > 0) if relu else gradient
    assert_near(masked, wanted)
    if coefficient is not None:
        assert_near(to_shortcut, wanted[:, :-1] - coefficient * wanted[:, -1:])

    more = maps(2, inputs, 4, 5, seed=5)
    to_input = kernels.convolve(masked, weight, None, more, None, relu=False, flipped=True, **EXACT)
    to_weight, to_bias = kernels.weight_gradients(images, masked, kernel, PRECISION)
    theirs = torch.ops.aten.convolution_backward(
        wanted, images, weight, [outputs], [1, 1], [kernel // 2] * 2, [1, 1], False, [0, 0], 1, [True] * 3
    )
    for found, expected in zip((to_input - more, to_weight, to_bias), theirs, strict=True):
        assert_near(found, expected)
    for made in (output, masked, to_input):
        assert not padding_of(made).any(), "the next layer reads it"


def assert_derivatives_are_the_librarys(images: Tensor, weight: Tensor, precision: str) -> None:
    """Of a convolution, in float64, with factors that are bfloat16 numbers and so multiplied exactly."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    (outputs, _, kernel, _), bias = weight.shape, random(len(weight))
    gradient = maps(len(images), outputs, *images.shape[2:], seed=4)
    images, weight, gradient = (factors.bfloat16() for factors in (images, weight, gradient))
    exact = [each.double().requires_grad_() for each in (images, weight, bias)]
    plain = F.conv2d(*exact, padding=kernel // 2)
    theirs = torch.autograd.grad(plain, exact, gradient.double())
    images, gradient = (
        kernels._in_aligned_rows(each.to(dtype, memory_format=torch.channels_last)) for each in (images, gradient)
    )
    how = {"relu": False, "precision": precision, "dtype": torch.float32}
    output = kernels.convolve(images, weight.float(), bias, None, None, **how)
    to_input = kernels.convolve(gradient, weight.float(), None, None, None, flipped=True, **how)
    mine = output, to_input, *kernels.weight_gradients(images, gradient, kernel, precision)
    for found, wanted in zip(mine, (plain.detach(), *theirs), strict=True):
        assert_near(found, wanted.float())
    for made in (output, to_input):
        assert not padding_of(made).any()


HELD = {"BM": 64, "BN": 32, "MORE": 0, "BK": 64, "TILES": 4}
STREAMED = {"BM": 64, "BN": 32, "MORE": 16, "BK": 128, "TILES": 1}


@pytest.mark.usefixtures("of_one_multiprocessor")
@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "size", "tile", "precision"),
    [
        (17, 18, 3, (2, 8, 32), HELD, "bf16"),  # lines, of which a tile has some
        (21, 19, 3, (5, 8, 8), HELD, PRECISION),  # whole images
        (17, 20, 3, (3, 5, 7), HELD, PRECISION),  # neither, and less than the tiles of a program
        (3, 17, 3, (2, 9, 16), HELD, "bf16"),
        (33, 37, 3, (1, 5, 7), STREAMED, PRECISION),
        (33, 20, 3, (2, 3, 3), STREAMED, "bf16"),
        (20, 49, 1, (2, 8, 8), STREAMED, "bf16"),
        (7, 5, 3, (1, 1, 1), STREAMED, PRECISION),
    ],
)
def test_whatever_a_program_takes_at_once_the_results_are_the_librarys(
    inputs, outputs, kernel, size, tile, precision, monkeypatch
):
    count, *sides = size
    monkeypatch.setattr(kernels, "convolution_tile", lambda *shape: tile)
    blocks = {name: tile[name] for name in ("BM", "BN", "MORE", "BK")}  # several parts, of several steps:
    monkeypatch.setattr(kernels, "weights_tile", lambda *shape: {**blocks, "PROGRAMS": 3})
    images, weight = maps(count, inputs, *sides), random(outputs, inputs, kernel, kernel, seed=1)
    assert_derivatives_are_the_librarys(images, weight, precision)


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_the_blocks_of_outputs_are_few_and_hardly_wider_than_they_are(precision):
    for pixels, side in ((131_072, 32), (32_768, 16), (8192, 8), (2048, 4), (6, 1)):
        for outputs in (1, 16, 17, 21, 33, 37, 64, 69, 134, 257, 279, 512, 514):
            tile = kernels.convolution_tile(pixels, 3, 9 * 24, outputs, precision)
            width = tile["BN"] + tile["MORE"]
            blocks = -(-outputs // width)
            assert blocks * width < 1.25 * outputs + 16, (side, outputs)
            assert not tile["MORE"] or tile["TILES"] == 1, "held filters have one block"
    thin, wide = (kernels.convolution_tile(131_072, 3, values, 18, precision) for values in (9 * 24, 9 * 72))
    assert thin["TILES"] > 1 == wide["TILES"]


def test_the_gradient_behind_a_relu_is_the_same_in_blocks_of_channels():
    output, gradient = maps(1, 130, 2, 3), maps(1, 130, 2, 3, seed=4)
    wanted = gradient * (output > 0)
    for given in (gradient, gradient.contiguous(), maps(1, 138, 2, 3, seed=4)[:, :130].copy_(gradient)):
        masked, to_shortcut = kernels.through_relu(given, output, 129, 0.5, True)
        assert_near(masked, wanted)
        assert_near(to_shortcut, wanted[:, :-1] - 0.5 * wanted[:, -1:])
        assert not padding_of(masked).any()
        assert not padding_of(to_shortcut).any()


def test_a_filter_in_rows_is_read_to_the_end_of_its_row():
    images, weight = maps(1, 17, 4, 4), random(9, 17, 3, 3)
    rows = torch.zeros(9, 3, 3, 32, device=DEVICE)
    rows[..., :17] = weight.permute(0, 2, 3, 1)
    padded = rows[..., :17].permute(0, 3, 1, 2)
    assert kernels._has_rows(padded)
    assert not kernels._has_rows(weight)
    for given, flipped in ((images, False), (maps(1, 9, 4, 4), True)):
        found = [
            kernels.convolve(given, each, None, None, None, relu=False, flipped=flipped, **EXACT)
            for each in (padded, weight)
        ]
        assert torch.equal(*found)


def test_what_is_not_a_number_stays_one():
    images = maps(1, 4, 4, 4)
    images[0, 1, 2, 2] = float("nan")
    weight = random(8, 4, 1, 1)
    output = kernels.convolve(images, weight, None, None, None, relu=True, **EXACT)
    assert output[0, :, 2, 2].isnan().all()
    assert output.isnan().sum() == 8
    masked, _ = kernels.through_relu(torch.ones_like(output), output, 0, None, True)
    assert (masked[0, :, 2, 2] == 1).all(), "as PyTorch's ReLU passes it on"


def test_pooling_is_the_librarys():
    images = maps(2, 17, 4, 6).requires_grad_()
    mine, theirs = kernels.Pool.apply(images), F.avg_pool2d(images, 2)
    assert_near(mine, theirs)
    assert not padding_of(mine.detach()).any()
    gradient = random(*theirs.shape)
    assert_near(*(torch.autograd.grad(pooled, images, gradient)[0] for pooled in (mine, theirs)))
    (once,) = torch.autograd.grad(kernels.Pool.apply(images).square().sum(), images, create_graph=True)
    (twice,) = torch.autograd.grad(once.sum(), images)
    assert_near(twice, torch.full_like(twice, 0.5))  # 4 pixels, each with 2 p / 4, and p with 1 / 4 of each


def test_maps_are_taken_as_they_lie_only_where_a_pixel_is_a_row():
    dense = random(2, 5, 3, 3).to(memory_format=torch.channels_last)
    assert kernels.in_rows(dense) is dense
    assert not kernels.is_aligned(dense)
    assert kernels.is_aligned(kernels.in_rows(random(2, 8, 3, 3)))
    part = random(2, 24, 3, 3).to(memory_format=torch.channels_last)[:, 7:]
    assert not kernels.is_aligned(part), "its rows begin in the middle of a vector, and end in the next one's"
    assert torch.equal(kernels.in_rows(part), part)
