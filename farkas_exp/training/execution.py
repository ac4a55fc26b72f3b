"""How the trainer executes a step: eagerly, compiled, or recorded once as a CUDA graph and replayed.

The paper's networks are so thin that a GPU waits for kernel launches. A graph launches a whole forward and backward
pass at once. It takes seconds to record, where `torch.compile` takes minutes, and runs the kernels of the eager step,
so `compile=auto` chooses it on a GPU.
"""

import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from farkas_exp.config import Config
from farkas_exp.config.schema import TORCH_COMPILE_MODES
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.output import warn

WARM_UP_STEPS = 3
"""Training steps before the recording, in which cuDNN chooses its kernels and libraries allocate their workspaces."""

Step = Callable[[Tensor, Tensor], Tensor]
Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], Any], Tensor]]
"""Records a function without arguments; returns a function that replays it, and the output that it overwrites."""


def choose_mode(config: Config, device: torch.device, world_size: int = 1) -> str:
    """The mode of `compile` for a device; `auto` is `graph` for one process on a GPU and `none` elsewhere."""
    if config.compile == "auto":
        return "graph" if device.type == "cuda" and world_size == 1 else "none"
    if config.compile == "graph" and world_size > 1:
        raise UserError("compile: graph is for one process; use compile=auto with several")
    if config.compile == "graph" and device.type != "cuda":
        raise UserError("compile: graph needs a GPU; use compile=auto, or compile=default for torch.compile on a CPU")
    return config.compile


def compile_model(model: torch.nn.Module, mode: str) -> Callable[[Tensor], Tensor]:
    """The training forward of `model`, compiled for a single batch shape if `mode` says so."""
    return Compiled(model, mode) if mode in TORCH_COMPILE_MODES else model


class Compiled:
    """The forward of `model` by `torch.compile`, as one graph; where that fails, it warns and training goes on.

    If some of it cannot be traced, there are several graphs with eager code between them, as there always are around
    the wrapper for several processes. If there are more graphs than PyTorch keeps (one for each shape of a batch), the
    network becomes eager.
    """

    def __init__(self, model: torch.nn.Module, mode: str) -> None:
        self._model, self._mode, self._is_reset = model, mode, False
        self._forward = self._compiled(one_graph=not isinstance(model, DistributedDataParallel))

    def _compiled(self, one_graph: bool) -> Callable[[Tensor], Tensor]:
        return torch.compile(self._model, mode=self._mode, dynamic=False, fullgraph=one_graph)

    def __call__(self, images: Tensor) -> Tensor:
        """What `model` gives for these images."""
        from torch._dynamo import exc  # takes seconds to import, and is imported by now

        try:
            return self._forward(images)
        except (exc.Unsupported, exc.UserError) as error:
            warn(f"warning: compile: the network is more than one graph, which is slower: {_first_line(error)}")
            self._forward = self._compiled(one_graph=False)
        except exc.FailOnRecompileLimitHit:
            if self._is_reset:
                warn("warning: compile: PyTorch keeps no more graphs, one for each shape of a batch; going on eagerly")
                self._forward = self._model
            else:
                torch.compiler.reset()  # those of networks before this one count, too
                self._is_reset = True
        return self._forward(images)


class RecordingFailed(Exception):  # noqa: N818 - not every step can be recorded
    """A step cannot be recorded, but can run eagerly."""


class CapturedStep:
    """`step(images, labels)` recorded once and replayed on the same memory.

    The first `WARM_UP_STEPS` calls run eagerly. Later ones copy their batch over the recorded one and replay; the next
    call overwrites their output. Gradients stay in place, so they must not be set to None between calls.

    Args:
        step: forward and backward pass, and perhaps the optimizer's step, without a wait for the device.
        on_failure: called with the reason if the recording fails, in a call that then runs eagerly; this object must
            not be called again. Without it the failure is raised.
        recorder: a CUDA graph by default.
    """

    def __init__(
        self, step: Step, on_failure: Callable[[str], None] | None = None, recorder: Recorder | None = None
    ) -> None:
        self._step, self._on_failure, self._recorder = step, on_failure, recorder or record_cuda_graph
        self._calls = 0
        self._batch: tuple[Tensor, Tensor] | None = None
        self._replay: Callable[[], Any] = lambda: None
        self._output: Tensor | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Run one step; record it anew if the batch has a new shape."""
        if self._batch is not None and images.shape != self._batch[0].shape:
            self._calls, self._batch, self._output, self._replay = 0, None, None, lambda: None
        self._calls += 1
        if self._calls <= WARM_UP_STEPS:
            return self._warm_up(images, labels)
        if self._batch is None:
            # clone keeps the memory format
            self._batch = images.clone(), labels.clone()
            reason = self._record(self._batch)
            if reason is not None and self._on_failure is not None:
                self._batch = None
                self._on_failure(reason)
                return self._step(images, labels)
        assert self._output is not None
        for mine, new in zip(self._batch, (images, labels), strict=True):
            mine.copy_(new, non_blocking=True)
        self._replay()
        return self._output

    def _record(self, batch: tuple[Tensor, Tensor]) -> str | None:
        """Record the step on the memory of `batch`; return why that failed, or None.

        The error is dropped here: it holds the tensors of the failed step, and there may be no memory for another one.
        """
        try:
            self._replay, self._output = self._recorder(lambda: self._step(*batch))
        except RecordingFailed as error:
            if self._on_failure is None:
                raise
            traceback.clear_frames(error.__traceback__)
            return str(error)
        return None

    def _warm_up(self, images: Tensor, labels: Tensor) -> Tensor:
        if images.device.type != "cuda":
            return self._step(images, labels)
        # on a side stream, like recordings: autograd remembers the stream on which a gradient was first made
        side, current = torch.cuda.Stream(images.device), torch.cuda.current_stream(images.device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            output = self._step(images, labels)
        current.wait_stream(side)
        for tensor in (images, labels):
            tensor.record_stream(side)
        return output


def record_cuda_graph(function: Callable[[], Tensor]) -> tuple[Callable[[], Any], Tensor]:
    """Record `function` as a CUDA graph. Recording executes nothing.

    Raises:
        RecordingFailed: it cannot be recorded, but can run eagerly.
        UserError: the recording could not be ended, so nothing more can run on the GPU in this process.
    """
    graph, first, output = torch.cuda.CUDAGraph(), None, None
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
            try:
                output = function()
            except RuntimeError as error:  # the first error is the cause of all others
                first = _first_line(error)
                traceback.clear_frames(error.__traceback__)
    except RuntimeError as error:
        reason = first or _first_line(error)
        raise UserError(f"compile: the recording of a CUDA graph broke off ({reason}); use compile=none") from None
    if output is None:
        graph.reset()
        raise RecordingFailed(first or "the step has no result")
    return graph.replay, output


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
