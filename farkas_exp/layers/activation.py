"""One-sided activations, each with its cutoff of Corollary 3.3 (see `layers.catalogue`)."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from farkas_exp.registry import ACTIVATIONS


class Activation(nn.Module):
    """A named activation that carries its cutoff: a unit is dead where its pre-activation is <= `cutoff`.

    `relu` overwrites its input. Forward pre-hooks see the pre-activations. In training mode a share `dropout` of the
    outputs is dropped (Srivastava et al. 2014), which may be the only active unit of a Farkas layer.

    Raises:
        UserError: an unknown name.
    """

    def __init__(self, name: str, cutoff: float | None = None) -> None:
        super().__init__()
        function = ACTIVATIONS[name]
        self.name, self._function = name, function.build
        self.cutoff = function.cutoff if cutoff is None else cutoff
        self.dropout, self._about = 0.0, ""

    def fit(self, function: Callable[[Tensor], Tensor], about: str) -> None:
        """Use a function that was made for the network that this is a part of."""
        self._function, self._about = function, f", {about}"

    def forward(self, input: Tensor) -> Tensor:
        """psi(input), of the same shape."""
        output = self._function(input)
        return F.dropout(output, self.dropout, self.training) if self.dropout else output

    def extra_repr(self) -> str:
        return f"{self.name}, cutoff={self.cutoff:.4g}{self._about}"
