"""Units and blocks in which the first convolution of a block adds up the gradients of the block's input.

A kernel's own unit says how: `fork` gives its output, and the input for a second use.
"""

from torch import Tensor

from farkas_exp.kernels.swapping import Swapped, is_watched
from farkas_exp.models.kit import Unit
from farkas_exp.models.resnet import BasicBlock, Bottleneck


class ForkingUnit(Swapped, Unit):
    """A unit whose convolution includes its ReLU."""

    plain = Unit

    def fork(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and the input for a second use, whose gradient the kernel adds.

        If the kernel includes the ReLU, neither layer nor activation is called as a module.
        """
        return super().forward(input), input

    def forward(self, input: Tensor) -> Tensor:
        return self.fork(input)[0]


class ForkingBasicBlock(Swapped, BasicBlock):
    """A basic block whose first convolution adds up the gradients of its input."""

    plain = BasicBlock
    first: ForkingUnit

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if is_watched(self.first) else self.last(*self.first.fork(input))


class ForkingBottleneck(Swapped, Bottleneck):
    """A bottleneck whose first convolution adds up the gradients of its input."""

    plain = Bottleneck
    down: ForkingUnit

    def forward(self, input: Tensor) -> Tensor:
        if is_watched(self.down):
            return super().forward(input)
        hidden, shortcut = self.down.fork(input)
        return self.last(self.middle(hidden), shortcut)
