"""Swapping kernels in and out: what a network is, and computes, stays what it was."""

import copy
import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils.parametrizations import weight_norm

import farkas_exp
from farkas_exp.initialization.apply import initialize
from farkas_exp.kernels import KERNELS, accelerate, in_use, native_library, restore
from farkas_exp.kernels.batch_last import BatchLastNet, faster, worth_it
from farkas_exp.layers.farkas import FarkasConv2d, FarkasLayer
from farkas_exp.layers.paths import plain_path
from farkas_exp.layers.watching import watch_pre_activations
from farkas_exp.models.create import create_model
from farkas_exp.registry import NETWORKS

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(native_library.library() is None, reason="no C++ compiler")
GPU_KERNELS = ["fused", "whole_network", *(["one_pass"] if importlib.util.find_spec("triton") else [])]
SMALL = {"blocks": (2, 1), "widths": (8, 12), "image_size": 16}


def network(name="farkasnet34", **options):
    torch.manual_seed(0)
    return create_model(name, **SMALL | options)


def images(count=19):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def gradients(model, batch):
    output = model(batch)
    return [output, *torch.autograd.grad(output.square().sum(), list(model.parameters()))]


def outputs_of(model, part):
    seen = []
    with model.get_submodule(part).register_forward_hook(lambda *given: seen.append(given[-1].detach().clone())):
        model(images())
    return seen


def assert_near(mine, theirs):
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-4 * max(1.0, float(b.detach().abs().max())))


@pytest.mark.parametrize("name", [name for name in NETWORKS if NETWORKS[name].farkas])
def test_state_and_results_are_those_of_the_plain_network(name):
    own = {"blocks": (2, 1), "widths": (8, 12), "depth": 2, "width": 8}
    torch.manual_seed(0)
    plain = create_model(name, image_size=16, **{key: own[key] for key in own if key in NETWORKS[name].options})
    batch, fast = images(), accelerate(copy.deepcopy(plain), CPU)
    assert "fused" in in_use(fast) or "native_conv" in in_use(fast)
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in fast.named_modules()] == [name for name, _ in plain.named_modules()]
    assert_near(gradients(fast, batch), gradients(plain, batch))
    fast.load_state_dict(plain.state_dict())
    assert in_use(restore(fast)) == []
    assert [type(module) for module in fast.modules()] == [type(module) for module in plain.modules()]
    assert torch.equal(fast(batch), plain(batch))


def test_a_plain_network_is_left_alone():
    model = network("resnet34")
    kinds = [type(module) for module in model.modules()]
    accelerate(model, CPU)
    assert [type(module) for module in model.modules()] == kinds


def test_it_may_be_done_twice_and_copied():
    model = accelerate(accelerate(network(), CPU), CPU)
    kinds = [type(module) for module in model.modules()]
    assert kinds == [type(module) for module in accelerate(network(), CPU).modules()]
    assert torch.equal(copy.deepcopy(model)(images()), model(images()))


def test_each_kernel_can_be_left_out():
    model = network()
    KERNELS["fused"](model, CPU)
    assert in_use(model) == ["fused"]
    assert_near(gradients(model, images()), gradients(network(), images()))


def test_a_gpu_gets_the_kernels_that_are_not_for_a_cpu():
    assert in_use(accelerate(network(), torch.device("cuda"))) == GPU_KERNELS


def test_pre_activations_are_seen_in_an_accelerated_network():
    fast, plain = accelerate(network(), CPU), network()
    with watch_pre_activations(fast) as mine:
        fast(images())
    with watch_pre_activations(plain) as theirs:
        plain(images())
    assert [name for name, _ in mine] == [name for name, _ in theirs]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("name", ["farkasnet34", "farkasnet50"])
def test_hooks_see_what_they_see_in_the_plain_network(name):
    """One module at a time: also one that a kernel would not call, or with a part of the images at a time."""
    fast, plain = accelerate(network(name), CPU), network(name)
    for part, _ in plain.named_modules():
        mine, theirs = (outputs_of(model, part) for model in (fast, plain))
        assert_near(mine, theirs)
        assert len(mine) == 1, part


def test_hooks_on_all_modules_see_them_all():
    fast, seen = accelerate(network(), CPU), []
    with register_module_forward_hook(lambda module, inputs, output: seen.append(module)):
        fast(images())
    assert set(seen) == set(fast.modules())


def test_a_layer_whose_weight_is_computed_stays_one_without_kernels():
    fast, plain = accelerate(network(), CPU), network()
    for model in (fast, plain):
        weight_norm(model.stem.layer)
    assert_near(gradients(fast, images()), gradients(plain, images()))
    assert_near(gradients(restore(copy.deepcopy(fast)), images()), gradients(plain, images()))


def test_a_normalization_that_is_put_in_later_normalizes_the_whole_batch():
    fast, plain = accelerate(network(), CPU), network()
    for model in (fast, plain):
        model.stem.norm = torch.nn.BatchNorm2d(8)
    assert_near(gradients(fast, images()), gradients(plain, images()))


@pytest.mark.parametrize("name", ["farkasnet34", "farkasnet50"])
def test_second_derivatives_are_those_of_the_plain_network(name):
    results = []
    for model in (accelerate(network(name), CPU), network(name)):
        first = torch.autograd.grad(model(images(8)).square().sum(), list(model.parameters()), create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), list(model.parameters())))
    assert_near(*results)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # of PyTorch itself
@pytest.mark.parametrize("name", ["farkasnet34", "farkas_mlp", "farkas_vit"])
def test_transforms_of_functions_see_the_plain_formulas(name):
    plain = create_model(name, **(SMALL if name == "farkasnet34" else {"depth": 2, "width": 8, "image_size": 16}))
    fast, batch = accelerate(copy.deepcopy(plain), CPU), images(8)
    named = dict(fast.named_parameters())

    def loss(parameters, image):
        return torch.func.functional_call(fast, parameters, (image[None],)).square().sum()

    each = torch.vmap(torch.func.grad(loss), (None, 0))(named, batch)
    wanted = torch.autograd.grad(plain(batch).square().sum(), list(plain.parameters()))
    assert_near([each[key].sum(0) for key in named], wanted)
    _, along = torch.func.jvp(fast, (batch,), (torch.ones_like(batch),))
    with forward_ad.dual_level():
        mine = forward_ad.unpack_dual(fast(forward_ad.make_dual(batch, torch.ones_like(batch)))).tangent
    with plain_path():
        _, wanted = torch.autograd.functional.jvp(plain, batch, torch.ones_like(batch))
    assert_near([along, mine], [wanted, wanted])


@pytest.mark.slow
def test_torch_compile_sees_the_plain_formulas():
    model, batch = accelerate(network(), CPU), images(8)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(batch), network()(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", [{"aggregation": {"learn_lambda": True}}, {"normalization": "batch"}])
def test_what_a_kernel_is_not_for_is_computed_plainly(option):
    fast, plain = accelerate(network(**option), CPU), network(**option)
    assert "native_conv" not in in_use(fast)
    assert_near(gradients(fast, images()), gradients(plain, images()))


def test_dropout_is_not_swallowed():
    model = accelerate(network(), CPU).train()
    for module in model.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.5
    assert not torch.equal(model(images()), model(images()))


def test_an_accelerated_network_can_be_initialized_and_changed():
    fast, plain = accelerate(network(), CPU), network()
    for model in (fast, plain):
        initialize(model, "kaiming", seed=3)
    assert_near(gradients(fast, images()), gradients(plain, images()))
    with plain_path():
        assert torch.equal(fast(images()), plain(images()))


@needs_compiler
def test_wide_maps_are_left_to_the_library():
    """By the figures beside the rule: 128 channels at 16x16 and 256 at 8x8 lose, FarkasNets up to 101 layers gain."""
    assert not faster(128, 16)
    assert not faster(256, 8)
    for name in ("farkasnet18", "farkasnet34", "farkasnet50", "farkasnet101"):
        with torch.device("meta"):
            model = create_model(name)
        assert worth_it(model, 32) == len(model.stages), name
    wide = accelerate(create_model("farkasnet34", blocks=(1, 1), widths=(16, 128)), CPU)
    assert isinstance(wide, BatchLastNet)
    assert worth_it(wide, 32) == 1
    plain = restore(copy.deepcopy(wide))
    batch = torch.rand(native_library.lanes() + 1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert_near(gradients(wide, batch), gradients(plain, batch))


def test_without_the_package_everything_works(monkeypatch):
    """As if the folder were deleted: the network that a run builds is the plain one."""
    from farkas_exp.models.kernels import accelerated, kernels_in_use

    for name in [name for name in sys.modules if name.startswith("farkas_exp.kernels.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "farkas_exp.kernels", None)
    model = accelerated(network(), CPU)
    assert kernels_in_use(model) == []
    assert {type(m) for m in model.modules() if isinstance(m, FarkasLayer)} >= {FarkasConv2d}
    assert model(images()).shape == (19, 10)


def test_no_other_room_imports_the_kernels():
    """Beside the one place that asks for them, and does without."""
    asks = re.compile(
        r"^ *(from|import) farkas_exp(\.| import )kernels|import_module\(.farkas_exp\.kernels", re.MULTILINE
    )
    package = Path(farkas_exp.__file__).parent
    found = [path for path in package.rglob("*.py") if asks.search(path.read_text(encoding="utf-8"))]
    assert sorted(path.name for path in found if path.parent.name != "kernels") == ["kernels.py"]
