"""The step's execution modes: a recorded step gives the numbers of the eager one, and nothing waits for the device."""

import contextlib
import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from farkas_exp.data.base import Batching
from farkas_exp.data.build import build_data
from farkas_exp.launch import execution
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.processes import ALONE
from farkas_exp.machine.signals import StopRequest
from farkas_exp.registry import OPTIMIZERS
from farkas_exp.runs import open_run, read_json
from farkas_exp.training import trainer as trainer_module
from farkas_exp.training.building import build_model
from farkas_exp.training.execution import WARM_UP_STEPS, CapturedStep, RecordingFailed, choose_mode, record_cuda_graph
from farkas_exp.training.session import build_trainer
from farkas_exp.training.trainer import Trainer, TrainerState
from tests.configs import config


def make_trainer(device, **overrides):
    return build_trainer(config(**{"device": device.type, "compile": "none", **overrides}), ALONE)


def losses(trainer, epochs=3):
    """The mean loss of each training epoch, and the test loss after each."""
    state, curve = TrainerState(), []
    for _ in range(epochs):
        assert trainer.train_epoch(state, StopRequest())
        row = trainer.finish_epoch(state)
        curve += [row["train_loss"], row["test_loss"]]
    return curve


def record_like_a_graph(function):
    """What a CUDA graph is, on a CPU: the same call on the same memory, its output and gradients written in place."""
    output = function()

    def replay():
        output.copy_(function())

    return replay, output


def recorder_of(trainer):
    """A recorder that leaves the trainer as it was, since a recording executes nothing."""

    def recorder(function):
        kept = [*trainer.model.parameters(), *trainer.model.buffers()]
        kept += [value for state in trainer.optimizer.state.values() for value in state.values()]
        before = [tensor.detach().clone() for tensor in kept]
        made = record_like_a_graph(function)
        with torch.no_grad():
            for tensor, value in zip(kept, before, strict=True):
                tensor.copy_(value)
        return made

    return recorder


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request, monkeypatch):
    """A device that has every mode; on a CPU with stand-ins for a recording, a compiler and its watch on waits."""
    if request.param == "cpu":
        choose, compiled = Trainer._choose_steps, torch.compile
        monkeypatch.setattr(trainer_module, "choose_mode", lambda made, *others: made.compile)
        monkeypatch.setattr(Trainer, "_choose_steps", lambda self, *_: choose(self, recorder_of(self)))
        monkeypatch.setattr(torch, "compile", lambda *model, mode, **how: compiled(*model, backend="eager", **how))
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    return torch.device(request.param)


@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_a_recorded_step_trains_as_the_eager_one_bitwise(normalization):
    eager = make_trainer(torch.device("cpu"), normalization={"name": normalization})
    recorded = make_trainer(torch.device("cpu"), normalization={"name": normalization})
    calls = []
    record = recorder_of(recorded)
    recorded.mode = "graph"
    recorded._choose_steps(lambda function: (calls.append(function), record(function))[1])
    assert losses(eager) == losses(recorded)
    assert len(calls) == 1
    for mine, theirs in zip(recorded.model.state_dict().values(), eager.model.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def recorded_calls(trainer, steps=WARM_UP_STEPS + 2):
    """The optimizer's steps inside of the recorded function, and those outside, of a trainer in the mode `graph`."""
    where, inside = {True: 0, False: 0}, []
    step = trainer.optimizer.step
    trainer.optimizer.step = lambda: (where.__setitem__(bool(inside), where[bool(inside)] + 1), step())[1]

    def recorder(function):
        def watched():
            inside.append(1)
            try:
                return function()
            finally:
                inside.pop()

        return record_like_a_graph(watched)

    trainer.mode = "graph"
    trainer._choose_steps(recorder)
    images, labels = next(trainer.data.train_batches(0))
    for _ in range(steps):
        trainer._train_step(images, labels)
    return where


@pytest.mark.parametrize(
    ("optimizer", "inside"),
    [({}, True), ({"name": "adamw"}, True), ({"clip_norm": 1.0}, False), ({"name": "mine"}, False)],
)
def test_the_optimizers_step_is_recorded_where_nothing_comes_between(optimizer, inside, monkeypatch):
    """Not behind a method that changes gradients, nor one that is not known to be recordable."""
    monkeypatch.setitem(OPTIMIZERS._entries, "mine", replace(OPTIMIZERS["sgd"], name="mine", recordable=False))
    where = recorded_calls(make_trainer(torch.device("cpu"), optimizer=optimizer))
    assert where == ({True: 3, False: WARM_UP_STEPS} if inside else {True: 0, False: WARM_UP_STEPS + 2})


def test_a_restored_trainer_records_anew():
    """The optimizer's memory is another one then."""
    trainer = make_trainer(torch.device("cpu"))
    recorded_calls(trainer)
    update, snapshot = trainer._update, trainer.snapshot(TrainerState())
    assert all(type(group["lr"]) is float for group in snapshot["optimizer"]["param_groups"])
    trainer.restore(snapshot)
    assert trainer._update is not update
    assert trainer._rate is None


def test_the_first_steps_are_eager_and_every_batch_reaches_the_recorded_memory():
    seen = []

    def step(images, labels):
        seen.append((images.data_ptr(), float(images.sum()), labels.tolist()))
        return images.sum()[None]

    captured = CapturedStep(step, recorder=record_like_a_graph)
    for number in range(WARM_UP_STEPS + 3):
        images = torch.full((2, 1, 2, 2), float(number)).to(memory_format=torch.channels_last)
        assert captured(images, torch.tensor([number, number])).item() == 8 * number
    places = {place for place, _, _ in seen[WARM_UP_STEPS:]}
    assert len(places) == 1
    assert [labels for _, _, labels in seen[-3:]] == [[n, n] for n in range(WARM_UP_STEPS, WARM_UP_STEPS + 3)]


def test_a_batch_of_another_shape_is_recorded_anew():
    seen, recordings = [], []

    def recorder(function):
        recordings.append(function)
        return record_like_a_graph(function)

    captured = CapturedStep(lambda images, labels: seen.append(images.shape) or images.sum()[None], recorder=recorder)
    for phase, side in enumerate((2, 3)):
        for number in range(WARM_UP_STEPS + 3):
            images = torch.full((2, 1, side, side), float(number))
            assert captured(images, torch.tensor([0, 0])).item() == 2 * side**2 * number
        assert len(recordings) == phase + 1
    assert {shape[-1] for shape in seen[len(seen) // 2 :]} == {3}


def test_a_failed_recording_ends_an_automatic_choice_only():
    def refuse(function):
        raise RecordingFailed("operation not permitted when stream is capturing")

    eager, trainer = make_trainer(torch.device("cpu")), make_trainer(torch.device("cpu"))
    trainer.mode, trainer.config = "graph", replace(trainer.config, compile="auto")
    trainer._choose_steps(refuse)
    assert losses(trainer) == losses(eager)
    assert trainer.mode == "none (no graph: operation not permitted when stream is capturing)"
    strict = CapturedStep(lambda images, labels: images, recorder=refuse)
    for _ in range(WARM_UP_STEPS):
        strict(torch.zeros(1), torch.zeros(1))
    with pytest.raises(RecordingFailed, match="not permitted"):
        strict(torch.zeros(1), torch.zeros(1))


def test_the_mode_is_chosen_by_the_device_and_written_into_the_run(tmp_path):
    made = config(tmp_path, epochs=1)
    assert choose_mode(made, torch.device("cpu")) == "none"
    assert choose_mode(made, torch.device("cuda")) == "graph"
    with pytest.raises(UserError, match="compile: graph needs a GPU"):
        choose_mode(config(compile="graph"), torch.device("cpu"))
    with pytest.raises(UserError, match="compile: unknown"):
        config(compile="fast")
    execution.execute(made)
    assert read_json(open_run(made).environment)["starts"][-1]["compile"] == "none"


class _Waits(TorchDispatchMode):
    """Counts the operations that make the host wait for a device, whatever the device is."""

    NAMES = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "is_nonzero")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += any(func.name() == f"aten::{name}" for name in self.NAMES)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_epoch_asks_for_no_value_of_a_tensor(precision):
    trainer = make_trainer(torch.device("cpu"), precision=precision)
    with _Waits() as waits:
        torch.ones(1).item()
    assert waits.count == 1
    trainer.train_epoch(TrainerState(), StopRequest())
    with _Waits() as waits:
        trainer.train_epoch(TrainerState(), StopRequest())
    assert waits.count == 0


@pytest.mark.slow
def test_a_compiled_run_follows_the_eager_one():
    """Five steps an epoch at learning rate 0.05; rounding differs, so the losses agree to 1e-3."""
    assert losses(make_trainer(torch.device("cpu"), compile="default")) == pytest.approx(
        losses(make_trainer(torch.device("cpu"))), abs=1e-3
    )


@pytest.mark.filterwarnings(  # of torch.compile
    "ignore:The CUDA Graph is empty", "ignore:The .grad attribute of a Tensor", "ignore:TensorFloat32 tensor cores"
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("mode", ["graph", "default", "reduce-overhead"])
def test_every_mode_follows_the_eager_run(mode, precision, place):
    """15 steps at learning rate 0.05; kernels may round differently, so the losses agree to 1e-2 (bf16: 5e-2)."""
    fast, eager = (losses(make_trainer(place, compile=how, precision=precision)) for how in (mode, "none"))
    assert fast == pytest.approx(eager, abs=1e-2 if precision == "fp32" else 5e-2)


@pytest.mark.parametrize("mode", ["none", "graph"])
def test_no_step_waits_for_the_gpu(mode, place):
    trainer = make_trainer(place, compile=mode)
    trainer.train_epoch(TrainerState(), StopRequest())
    step = trainer._train_step

    def watched(images, labels):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step(images, labels)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    trainer._train_step = watched
    trainer.train_epoch(TrainerState(), StopRequest())


def test_a_failed_recording_is_let_go_of_before_the_step_runs_eagerly():
    """The activations of the failed step would otherwise stand beside those of the next one."""
    alive = []

    def step(images, labels):
        activations = images * 2
        alive.append(weakref.ref(activations))
        if len(alive) == WARM_UP_STEPS + 1:
            raise RecordingFailed("out of memory")
        assert [reference() for reference in alive[:-1]] == [None] * (len(alive) - 1)
        return activations.sum()[None]

    captured = CapturedStep(step, lambda reason: None, lambda function: (lambda: None, function()))
    for _ in range(WARM_UP_STEPS + 1):
        assert captured(torch.ones(2, 1), torch.zeros(2)).item() == 4
    assert len(alive) == WARM_UP_STEPS + 2


class FakeCuda:
    """What recording asks of `torch.cuda`; `end` is what happens at the end of the recording."""

    def __init__(self, monkeypatch, end=None):
        self.streams = []
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "Stream", lambda: "own stream")
        monkeypatch.setattr(torch.cuda, "graph", self.graph)
        self.end, self.replay, self.reset = end, "replay", lambda: None

    @contextlib.contextmanager
    def graph(self, graph, stream=None):
        self.streams.append(stream)
        yield
        if self.end is not None:
            raise self.end


def failing(message):
    def function():
        raise RuntimeError(message)

    return function


def test_a_recording_that_ends_cleanly_after_an_error_is_a_failure_with_the_first_reason(monkeypatch):
    fake = FakeCuda(monkeypatch)
    resets = []
    fake.reset = lambda: resets.append(1)
    with pytest.raises(RecordingFailed, match=r"^not permitted$"):
        record_cuda_graph(failing("not permitted\nmore"))
    assert (fake.streams, resets) == (["own stream"], [1])


def test_a_recording_that_cannot_be_ended_asks_for_no_graph(monkeypatch):
    FakeCuda(monkeypatch, end=RuntimeError("capture was invalidated\nmore"))
    with pytest.raises(UserError, match=r"^compile: .* broke off \(not permitted\); use compile=none$"):
        record_cuda_graph(failing("not permitted"))
    with pytest.raises(UserError, match=r"\(capture was invalidated\)"):
        record_cuda_graph(lambda: torch.ones(1))


def test_a_recording_gives_its_replay_and_its_output(monkeypatch):
    FakeCuda(monkeypatch)
    assert record_cuda_graph(lambda: torch.ones(1)) == ("replay", torch.ones(1))


def test_a_network_is_built_without_touching_the_random_numbers_of_a_gpu(monkeypatch):
    """A network is also built in the middle of a run, to be measured."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPU is seeded"))
    made = config()
    data = build_data(made.dataset, made.augmentation, Batching(40, 0))
    build_model(made, data, torch.device("cpu"))
