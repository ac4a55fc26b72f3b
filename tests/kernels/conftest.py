import pytest
import torch


@pytest.fixture
def products_of_bfloat16(monkeypatch):
    """Multiply them as numbers: Triton's interpreter keeps them as integers, and multiplies those."""
    if not torch.cuda.is_available():
        from triton import language as tl
        from triton.runtime import interpreter

        plain = interpreter.InterpreterBuilder.create_dot

        def create_dot(builder, a, b, *others):
            halves = a.dtype == tl.bfloat16
            a, b = (interpreter.TensorHandle(wide(each.data), tl.float32) if halves else each for each in (a, b))
            return plain(builder, a, b, *others)

        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture
def of_one_multiprocessor(monkeypatch):
    """Few large programs, where Triton interprets them: it takes its time for each, whatever its size."""
    if not torch.cuda.is_available():
        from farkas_exp.kernels import triton_conv

        monkeypatch.setattr(triton_conv, "MULTIPROCESSORS", 1)


def wide(halves):
    """The float32 numbers of bfloat16 ones, which are their upper halves."""
    return (halves.astype("uint32") << 16).view("float32")
