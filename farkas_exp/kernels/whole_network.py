"""All augmented weights and biases of a network in some twenty calls, however many layers it has.

A GPU waits for the launches of a thin network, and every Farkas layer adds a dozen small ones. Here the free rows and
the biases of all layers are one vector, `flat`. Each column of a weight's free rows, and the free biases of each layer,
are a segment of that vector in another order: one segmented sum gives all aggregates, and one gather puts the augmented
weights and biases together, of which each layer gets its views. The derivative is one gather of the gradients and one
of those of the last rows:

    dW_j = dW'_j - a dW'_m,    db_j = db'_j - a s db'_m,    db_m = (1 - s) db'_m,

as in `fused.Augment`, with s = 1 while -Agg(b) wins the max, 0 while b_m does, and 1/2 at a tie.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from farkas_exp.kernels.fused import FusedLayer, allowed, constants


@dataclass(frozen=True)
class Layout:
    """Where everything lies in the flat vectors of some layers, as indices on their device.

    `flat` has the L free weights, row by row, and then the L biases; `full` the augmented weights and then the biases.
    A weight's rows are as in its memory, so a channels_last filter needs no copy; in `full` zeros may follow the inputs
    of each of its taps.

    Attributes:
        order: of the entries of `flat`, segment after segment: the columns of all weights, then the free biases.
        offsets: where each segment begins in it, and the end, (S + 1,).
        factors: -a of each segment, (S,).
        bounds: of each layer's b_m + Agg(b), (L,).
        last: where each layer's b_m is in `flat`, (L,).
        source: of each entry of `full`: where it is in cat(flat, last rows, last biases, zero).
        own: of each entry of `flat`: where its own gradient is in the gradient of `full`.
        through: where the gradient is that reaches it through the last row or bias.
        shares: what that one is multiplied with: -a, and -1 for the last biases.
        layers: of each bias in `flat`: which layer's it is.
        zero: (1,).
        sizes: of the parts of `full`, 2 L.
        flat_sizes: of the parts of `flat`, 2 L.
    """

    order: Tensor
    offsets: Tensor
    factors: Tensor
    bounds: Tensor
    last: Tensor
    source: Tensor
    own: Tensor
    through: Tensor
    shares: Tensor
    layers: Tensor
    zero: Tensor
    sizes: tuple[int, ...]
    flat_sizes: tuple[int, ...]

    @classmethod
    def of(cls, layers: Sequence[FusedLayer], row: int = 1) -> "Layout":
        """The layout of these layers, on the device of the first one and in its precision.

        In `full` each tap of a channels_last filter has its inputs and then zeros up to a multiple of `row`.
        """
        rows = [layer.weight.shape[0] for layer in layers]
        columns = [layer.weight[0].numel() for layer in layers]
        coefficients, bounds = zip(*map(constants, layers), strict=True)
        indices, weight_sizes = _indices(layers, rows, columns, row)
        lengths = [m for m, k in zip(rows, columns, strict=True) for _ in range(k)]
        factors = [-a for a, k in zip(coefficients, columns, strict=True) for _ in range(k)]
        shares = [_exact([-a]).expand(m * k) for a, m, k in zip(coefficients, rows, columns, strict=True)]
        shares += [_exact([-a] * m + [-1.0]) for a, m in zip(coefficients, rows, strict=True)]
        biases = [m + 1 for m in rows]
        last = sum(m * k for m, k in zip(rows, columns, strict=True)) - 1 + torch.tensor(biases).cumsum(0)
        offsets = torch.tensor([0, *lengths, *rows]).cumsum(0)
        like = layers[0].weight
        places = {name: value.to(like.device) for name, value in {**indices, "offsets": offsets, "last": last}.items()}
        numbers = {
            "factors": _exact([*factors, *(-a for a in coefficients)]),
            "bounds": _exact(bounds), "shares": torch.cat(shares),
        }  # fmt: skip
        return cls(
            **places, **{name: value.to(like.device, like.dtype) for name, value in numbers.items()},
            zero=like.new_zeros(1), sizes=(*weight_sizes, *biases),
            flat_sizes=(*(m * k for m, k in zip(rows, columns, strict=True)), *biases),
        )  # fmt: skip


def _indices(
    layers: Sequence[FusedLayer], rows: Sequence[int], columns: Sequence[int], row: int
) -> tuple[dict[str, Tensor], list[int]]:
    """The `order`, `source`, `own`, `through` and `layers` of a layout, and the entries of each weight in `full`."""
    free, all_columns = sum(m * k for m, k in zip(rows, columns, strict=True)), sum(columns)
    rows_at = free + sum(rows) + len(layers)  # in cat(flat, last rows, last biases, zero)
    biases_at = rows_at + all_columns
    names = ("order", "source", "own", "through", "layers")
    of_weights: dict[str, list[Tensor]] = {name: [] for name in names}
    of_biases: dict[str, list[Tensor]] = {name: [] for name in names}
    weight = full_weight = bias = column = 0
    for number, (layer, m, k) in enumerate(zip(layers, rows, columns, strict=True)):
        entries, own, places = weight + torch.arange(m * k), torch.arange(m * k), bias + torch.arange(m + 1)
        of_weights["order"].append(entries.view(m, k).t().reshape(-1))
        of_biases["order"].append(free + places[:-1])
        source = torch.cat((entries, rows_at + column + torch.arange(k)))
        if _is_channels_last(layer.weight):
            taps, zero = source.view(-1, layer.weight.shape[1]), biases_at + len(layers)
            source = nn.functional.pad(taps, (0, -taps.shape[1] % row), value=zero).reshape(-1)
        of_weights["source"].append(source)
        of_biases["source"].append(torch.cat((free + places[:-1], torch.tensor([biases_at + number]))))
        of_weights["own"].append(full_weight + own)
        of_biases["own"].append(free + all_columns + places)
        of_weights["through"].append(full_weight + m * k + own % k)
        of_biases["through"].append((free + all_columns + places[-1]).expand(m + 1))
        of_biases["layers"].append(torch.full((m + 1,), number))
        weight, full_weight, bias, column = weight + m * k, full_weight + (m + 1) * k, bias + m + 1, column + k
    joined = {name: torch.cat((*of_weights[name], *of_biases[name])) for name in names}
    return joined, [len(source) for source in of_weights["source"]]


def _exact(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class AugmentAll(torch.autograd.Function):
    """The augmented weights and biases of L layers from their weights and biases, in the layout of `layout`."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, dtype: torch.dtype | None, *parameters: Tensor) -> tuple[Tensor, ...]:
        """L weights (m - 1, ...) and L biases (m,) to L weights (m, ...) and L biases (m,); `dtype` None: theirs."""
        flat = torch.cat([_in_memory_order(parameter) for parameter in parameters])
        sums = torch.segment_reduce(flat[layout.order], "sum", offsets=layout.offsets, unsafe=True)
        rows, limits = (sums * layout.factors).tensor_split([len(sums) - len(layout.last)])
        limits, own = limits + layout.bounds, flat[layout.last]
        full = torch.cat((flat, rows, torch.maximum(limits, own), layout.zero))[layout.source]
        full = full if dtype is None else full.to(dtype)
        ctx.save_for_backward(torch.heaviside(limits - own, limits.new_full((), 0.5)))
        ctx.layout, ctx.shapes = layout, [(parameter.shape, _is_channels_last(parameter)) for parameter in parameters]
        parts = zip(full.split(layout.sizes), ctx.shapes, strict=True)
        added = [1] * len(layout.last) + [0] * len(layout.last)  # the last row
        return tuple(
            _shaped(part, (shape[0] + more, *shape[1:]), last)
            for (part, (shape, last)), more in zip(parts, added, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Use ordinary operations, which can be differentiated again."""
        layout: Layout = ctx.layout
        (share,) = ctx.saved_tensors
        given = torch.cat([_in_memory_order(g, last) for g, (_, last) in zip(gradients, ctx.shapes, strict=True)])
        given = given.to(share.dtype)
        weights, biases = given[layout.through].tensor_split([len(layout.own) - len(layout.layers)])
        through = torch.cat((weights, biases * share[layout.layers]))
        flat = torch.addcmul(given[layout.own], layout.shares, through)
        parts = zip(flat.split(layout.flat_sizes), ctx.shapes, ctx.needs_input_grad[2:], strict=True)
        return (None, None, *(_shaped(part, *shape) if needed else None for part, shape, needed in parts))


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and not tensor.is_contiguous()


def _in_memory_order(tensor: Tensor, channels_last: bool | None = None) -> Tensor:
    """The entries as they lie in memory, or as they would in channels_last."""
    last = _is_channels_last(tensor) if channels_last is None else channels_last
    return tensor.permute(0, 2, 3, 1).reshape(-1) if last else tensor.reshape(-1)


def _shaped(entries: Tensor, shape: Sequence[int], channels_last: bool) -> Tensor:
    if not channels_last:
        return entries.view(*shape)
    outputs, inputs, height, width = shape
    row = entries.numel() // (outputs * height * width)
    return entries.view(outputs, height, width, row)[..., :inputs].permute(0, 3, 1, 2)


@dataclass
class Together:
    """The hooks of a network that augment its layers together before each forward; a copy of it has its own."""

    layers: list[FusedLayer]
    casts: bool = True
    """Whether autocast's weights are made here, in one call, since a layer would make its own."""
    row: int = 1
    """A multiple of this is from tap to tap of a filter, for kernels that read whole vectors."""
    layout: Layout | None = None
    handles: list[Any] = field(default_factory=list)

    def before(self, model: nn.Module, images: Any) -> None:
        """Give each layer its augmented weight and bias."""
        like = self.layers[0].weight
        if not allowed(self.layers[0]) or like.dtype not in (torch.float32, torch.float64):
            return
        if self.layout is None or (self.layout.order.device, self.layout.factors.dtype) != (like.device, like.dtype):
            self.layout = Layout.of(self.layers, self.row)
        kind = like.device.type
        dtype = torch.get_autocast_dtype(kind) if self.casts and torch.is_autocast_enabled(kind) else None
        weights, biases = zip(*(layer.free() for layer in self.layers), strict=True)
        full = AugmentAll.apply(self.layout, dtype, *weights, *biases)
        for layer, weight, bias in zip(self.layers, full, full[len(self.layers) :], strict=False):
            layer.given = weight, bias

    def after(self, model: nn.Module, images: Any, output: Any) -> None:
        """Take them back, also after a forward that has failed."""
        for layer in self.layers:
            layer.given = None


def swap(model: nn.Module, device: torch.device) -> None:
    """Augment the layers of a network together, on a GPU, where launches are what a step waits for."""
    if device.type == "cuda":
        augment_together(model)


def augment_together(model: nn.Module) -> None:
    """Augment all layers of `model` that have a fixed lambda at the start of each of its forwards."""
    layers = [module for module in model.modules() if isinstance(module, FusedLayer) and not module.rule.learn_lambda]
    if layers:
        together = Together(layers)
        together.handles += [
            model.register_forward_pre_hook(together.before),
            model.register_forward_hook(together.after, always_call=True),
        ]


def of_model(model: nn.Module) -> Together | None:
    """What augments the layers of `model` together, if anything does."""
    owners = (getattr(hook, "__self__", None) for hook in model._forward_pre_hooks.values())
    return next((owner for owner in owners if isinstance(owner, Together)), None)


def remove(model: nn.Module) -> None:
    """Let each layer augment itself again."""
    together = of_model(model)
    if together is not None:
        for handle in together.handles:
            handle.remove()
