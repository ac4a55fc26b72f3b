"""A small vision transformer (Dosovitskiy et al. 2021), plain and with Farkas layers in its MLPs.

An image is cut into square patches; each is mapped to a token, to which the learned vector of its place is added. The
blocks are residual, with the normalization at the start of their branch (pre-norm):

    x + W_o attention(norm(x)),    x + W_2 psi(W_1 norm(x) + b_1),

with as many heads as `model.heads`, and W_1 `model.expansion` times as wide as the tokens. Behind the last block there
are a normalization, the mean over the tokens (no class token: Beyer et al. 2022), and a head. The tokens of a batch lie
below each other, (N * T, width), so that a token is to a linear layer and to a normalization what an image is in an
`mlp`: LayerNorm and RMSNorm are over the features of a token.

In the Farkas network W_1 is a Farkas layer: the relation lambda^T z = lambda^T b holds for every vector that the layer
gets, so for each token of each image, whatever attention has mixed into it. All else is plain: no activation follows
the other layers, and from the softmax a token gets a positive share of every token in any case. Normalizations, affine
ones too, stand before W_1, never between it and its activation, where a shift would lose the guarantee.

The activation is a one-sided one in both networks, the ReLU by default, and not the usual GELU: with that, a unit above
a cutoff would not have a gradient for sure. Its slope is 0 at -0.75, above the point near -3 below which it is flat,
and it has no units that are dead for good.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from farkas_exp.layers.paths import fused_allowed
from farkas_exp.layers.residual import BranchEnd, ResidualBlock
from farkas_exp.machine.errors import UserError
from farkas_exp.models.kit import LayerKit
from farkas_exp.models.plan import Plan

POSITION_STD = 0.02
"""Of the places' vectors at the start, as in the paper's code."""


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(d)) value, of (..., T, d) each; by PyTorch's kernel, which has one derivative only."""
    if torch.compiler.is_compiling() or fused_allowed():
        return F.scaled_dot_product_attention(query, key, value)
    return (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(-1) @ value


class AttentionBlock(ResidualBlock):
    """x + W_o attention(norm(x)): tokens (N * T, width) to the same shape."""

    def __init__(self, kit: LayerKit, width: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.heads, self.tokens = heads, tokens
        self.norm = kit.norm(width, spatial=False)
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, input: Tensor) -> Tensor:
        parts = self.inputs(self.norm(input)).unflatten(-1, (3, self.heads, -1)).unflatten(0, (-1, self.tokens))
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (N, heads, T, width / heads) each
        mixed = attention(query, key, value).transpose(1, 2).flatten(2).flatten(0, 1)
        branch, shortcut = self.terms(self.output(mixed), input)
        return shortcut + branch

    def branch_end(self) -> tuple[BranchEnd, nn.Module | None]:
        return self.output, None


class MLPBlock(ResidualBlock):
    """x + W_2 psi(W_1 norm(x) + b_1): tokens (N * T, width) to the same shape."""

    def __init__(self, kit: LayerKit, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = kit.norm(width, spatial=False)
        self.layer = kit.linear(width, hidden)
        self.activation = kit.act()
        self.output = nn.Linear(hidden, width)

    def forward(self, input: Tensor) -> Tensor:
        branch, shortcut = self.terms(self.output(self.activation(self.layer(self.norm(input)))), input)
        return shortcut + branch

    def branch_end(self) -> tuple[BranchEnd, nn.Module | None]:
        return self.output, None


class VisionTransformer(nn.Module):
    """Patches, tokens with their places, `depth` times attention and an MLP, normalization, mean, a head."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        options: Any = plan.options
        depth, width, heads, patch = options.depth, options.width, options.heads, options.patch
        hidden = options.expansion * width
        if plan.image_size % patch:
            raise UserError(f"model.patch: {patch} does not divide the {plan.image_size} pixels of an image's side")
        if width % heads:
            raise UserError(f"model.heads: {heads} do not share the width {width} evenly; choose a divisor of it")
        if hidden < plan.kit.least:
            raise UserError(f"model.width: {width} is too narrow for {plan.name}; give its MLPs at least 2 units")
        kit, self.patch, self.count = plan.kit, patch, (plan.image_size // patch) ** 2
        self.embedding = nn.Linear(plan.in_channels * patch**2, width)
        self.places = nn.Parameter(torch.empty(self.count, width))
        self.reset_parameters()
        blocks = [(AttentionBlock(kit, width, heads, self.count), MLPBlock(kit, width, hidden)) for _ in range(depth)]
        self.blocks = nn.Sequential(*(block for pair in blocks for block in pair))
        self.norm = kit.norm(width, spatial=False)
        self.classifier = plan.classifier(width)

    def reset_parameters(self) -> None:
        """Draw the places anew."""
        with torch.no_grad():
            self.places.normal_().mul_(POSITION_STD)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) images to (N, num_classes) logits."""
        tokens = self.embedding(self.patches(images)) + self.places
        tokens = self.norm(self.blocks(tokens.flatten(0, 1)))
        return self.classifier(tokens.unflatten(0, (-1, self.count)).mean(1))

    def patches(self, images: Tensor) -> Tensor:
        """(N, C, H, W) images to their patches, (N, T, C * patch * patch), row by row."""
        cut = images.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))
        return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
