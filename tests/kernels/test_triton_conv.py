"""The GPU's convolutions against PyTorch's; without a GPU they are run by Triton's interpreter on the CPU."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("triton")
from farkas_exp.kernels import triton_conv as kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
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
        (70, 35, 3, True, 0.1, True),  # more than one block each way
        (33, 16, 1, False, None, False),
    ],
)
def test_values_and_gradients_are_those_of_the_library(inputs, outputs, kernel, aligned, coefficient, relu):
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
