"""`debug=anomaly`: the first number that is not finite ends the run, and is named."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from farkas_exp.config import Config
from farkas_exp.machine.errors import UserError
from farkas_exp.methods.base import Method


class Anomaly(Method):
    """Looks at the output of every module and at its gradient, at every parameter's gradient, and at every parameter.

    Its errors are `FloatingPointError`s: the run crashes, and keeps the traceback in its `error.txt`.
    """

    epoch = 0

    @classmethod
    def executed_as(cls, config: Config, mode: str) -> str:
        if config.compile not in ("auto", "none"):
            raise UserError(f"compile: {config.compile} hides what debug=anomaly looks at; use compile=none")
        return "none"

    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def change_gradients(self) -> None:
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                self._check(f"the gradient of the parameter {name}", parameter.grad)

    def after_step(self) -> None:
        for name, parameter in self.model.named_parameters():
            self._check(f"the parameter {name} after a step", parameter)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at the outputs of all modules in the block, those of a part before those of the whole."""
        with ExitStack() as hooks:
            for name, module in self.model.named_modules():
                look = partial(self._look, f"{name or 'the network'} ({type(module).__name__})")
                hooks.enter_context(module.register_forward_hook(look))
            yield

    evaluating = watching

    def _look(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        for tensor in output if isinstance(output, (list, tuple)) else [output]:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self._check(f"the output of {name}", tensor)
                if tensor.requires_grad:
                    tensor.register_hook(partial(self._check, f"the gradient of the output of {name}"))

    def _check(self, what: str, tensor: Tensor) -> None:
        if not torch.isfinite(tensor.detach()).all():
            raise FloatingPointError(f"{what} is not finite, in epoch {self.epoch + 1}")
