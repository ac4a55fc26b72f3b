"""What the rest of the package knows of kernels: that there may be none."""

import pytest
import torch

from farkas_exp.models import kernels
from farkas_exp.models.create import create_model

CPU = torch.device("cpu")


def network():
    return create_model("farkasnet18", blocks=[1], widths=[4])


def test_a_network_says_which_kernels_it_has_and_has_a_copy_without():
    model = kernels.accelerated(network(), CPU)
    assert kernels.kernels_in_use(model)
    plain = kernels.plain_copy(model)
    assert kernels.kernels_in_use(plain) == kernels.kernels_in_use(network()) == []
    assert kernels.kernels_in_use(model), "the copy is made, the network left"
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(plain.eval()(images), model.eval()(images), rtol=0, atol=1e-3)


def test_a_kernel_that_cannot_be_imported_is_a_fault_and_no_lack_of_kernels(monkeypatch):
    def broken(name):
        raise ModuleNotFoundError(name="ctypes")

    monkeypatch.setattr(kernels, "import_module", broken)
    with pytest.raises(ModuleNotFoundError):
        kernels.accelerated(network(), CPU)
