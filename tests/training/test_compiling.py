"""`torch.compile` gets the plain formulas of every network as one graph, which serves all epochs."""

import functools

import pytest
import torch
from torch import distributed, nn
from torch._dynamo.testing import CompileCounter
from torch.nn.parallel import DistributedDataParallel

from farkas_exp.kernels import accelerate, in_use
from farkas_exp.layers import paths
from farkas_exp.training.execution import compile_model
from tests.networks import build, images, pretended_gpu

says_when_it_keeps_no_more = pytest.mark.skipif(
    not hasattr(torch._dynamo.config, "recompile_limit"), reason="PyTorch 2.6 warns by its log, and goes on eagerly"
)

SMALL = {"blocks": (1, 1), "widths": (8, 12), "image_size": 8}
NETWORKS = [
    ("farkasnet34", "none", "cpu"),
    *[(name, norm, "cuda") for name in ("resnet34", "farkasnet34") for norm in ("none", "batch")],
    *[(name, "none", "cuda") for name in ("farkasnet50", "fixup34", "nf_farkasnet34")],
]


@pytest.fixture
def graphs(monkeypatch):
    """Counts the graphs that are made, and executes them as they are."""
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    torch.compiler.reset()
    yield counter
    torch.compiler.reset()


def warnings(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: compile: ")]


def train_and_evaluate(model, forward, batch, epochs=2):
    for _ in range(epochs):
        model.train()
        for _ in range(2):
            forward(batch).square().mean().backward()
        model.eval()
        with torch.no_grad():
            model(batch)


@pytest.mark.parametrize(("name", "normalization", "device"), NETWORKS)
def test_a_network_is_one_graph_over_all_epochs_whatever_kernels_it_has(name, normalization, device, graphs, capsys):
    model = accelerate(build(name, normalization=normalization, **SMALL), torch.device(device))
    train_and_evaluate(model, compile_model(model, "default"), images(32, 3, 8, 8))
    assert graphs.frame_count == 1, in_use(model)
    assert warnings(capsys) == []


@pytest.mark.parametrize("name", ["resnet34", "farkasnet34"])
def test_no_kernel_of_a_gpu_breaks_the_graph(name, graphs, monkeypatch, capsys):
    """Nor does the switch of the plain path, which PyTorch 2.11 cannot trace. The GPU is only said to be there."""

    class Untraceable:
        def get(self):
            torch._dynamo.graph_break()
            return True

    monkeypatch.setattr(paths, "_FUSED", Untraceable())
    model = accelerate(build(name, **SMALL), torch.device("cuda"))
    with pretended_gpu(allow_non_fake_inputs=True):
        for module in model.modules():
            for key, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[key] = nn.Parameter(torch.empty(parameter.shape, device="cuda"))
        forward = compile_model(model, "default")
        for _ in range(2):
            assert forward(torch.empty(4, 3, 8, 8, device="cuda")).is_cuda
    assert graphs.frame_count == 1
    assert warnings(capsys) == []


def test_the_network_of_several_processes_is_one_graph(graphs, tmp_path, capsys):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = accelerate(build("farkasnet34", **SMALL), torch.device("cuda"))
        train_and_evaluate(model, compile_model(DistributedDataParallel(model), "default"), images(4, 3, 8, 8))
    finally:
        distributed.destroy_process_group()
    assert graphs.frame_count == 1
    assert warnings(capsys) == []


class Breaks(nn.Module):
    def forward(self, images):
        images = images + 1
        torch._dynamo.graph_break()
        return images + 1


class Adds(nn.Module):
    def __init__(self, number=1):
        super().__init__()
        self.number = number

    def forward(self, images):
        return images + self.number


def test_a_network_that_is_no_single_graph_is_compiled_as_several_with_one_line(graphs, capsys):
    forward = compile_model(Breaks(), "default")
    for _ in range(3):
        assert forward(torch.zeros(2)).tolist() == [2, 2]
    assert graphs.frame_count == 2
    (line,) = warnings(capsys)
    assert line.startswith("warning: compile: the network is more than one graph, which is slower: ")


@says_when_it_keeps_no_more
@torch._dynamo.config.patch(recompile_limit=2)
def test_more_shapes_than_pytorch_keeps_graphs_for_are_eager_with_one_line(graphs, capsys):
    forward = compile_model(Adds(), "default")
    for size in range(1, 8):
        assert forward(torch.zeros(size)).tolist() == [1] * size
    assert graphs.frame_count == 4
    (line,) = warnings(capsys)
    assert line == "warning: compile: PyTorch keeps no more graphs, one for each shape of a batch; going on eagerly"


@says_when_it_keeps_no_more
@torch._dynamo.config.patch(recompile_limit=2)
def test_the_networks_before_it_leave_room_for_the_graphs_of_a_network(graphs, capsys):
    for number in range(7):
        assert compile_model(Adds(number), "default")(torch.zeros(2)).tolist() == [number] * 2
    assert graphs.frame_count == 7
    assert warnings(capsys) == []
