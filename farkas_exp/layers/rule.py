"""The rule by which a Farkas layer forms its last component."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from farkas_exp.machine.errors import UserError, unknown
from farkas_exp.registry import AGGREGATIONS


@dataclass(frozen=True)
class FarkasRule:
    """How a Farkas layer forms its last component, and bounds its last bias (Section 3.3).

    Attributes:
        aggregation: `sum` or `mean`.
        margin: the least by which lambda^T b / lambda_m exceeds its bound; 0 in the paper's algorithm.
        cutoff: the cutoff c of the activation that follows (Corollary 3.3).
        learn_lambda: whether lambda is trained, from the aggregation on.

    Raises:
        UserError: an unknown aggregation, or a margin or cutoff that is out of range.
    """

    aggregation: str = "sum"
    margin: float = 0.0
    cutoff: float = 0.0
    learn_lambda: bool = False

    def __post_init__(self) -> None:
        # looked up once, since `torch.compile` cannot trace the registry
        object.__setattr__(self, "_coefficient", AGGREGATIONS[self.aggregation].build)
        for name, least in (("margin", 0.0), ("cutoff", -math.inf)):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not least <= value < math.inf:
                raise UserError(
                    f"aggregation.{name}: {value!r} is out of range; it must be a number, at least {least:g}"
                )

    @classmethod
    def of(cls, rule: "FarkasRule | None", options: dict[str, Any]) -> "FarkasRule":
        """A layer's rule, from a whole rule or from its fields, such as `aggregation="mean"`.

        Raises:
            UserError: there is no such field, or what is given is no rule.
        """
        if not isinstance(rule, cls | None):
            raise UserError(f"rule: expected a FarkasRule, or its fields (aggregation='mean', ...), got {rule!r}")
        names = [field.name for field in fields(cls)]
        for key in options:
            if key in _NO_OPTIONS:
                raise UserError(f"{key}: a Farkas layer has no such option: {_NO_OPTIONS[key]}")
            if key not in names:
                raise unknown(key, key, names)
        return replace(rule, **options) if rule else cls(**options)

    def coefficient(self, outputs: int) -> float:
        """The coefficient a of Agg(v) = a * sum_j v_j for a layer with `outputs` = m components.

        Raises:
            ValueError: fewer than two outputs.
            UserError: an aggregation of another package that would lose the guarantee.
        """
        check_outputs(outputs)
        value: float = self._coefficient(outputs)  # type: ignore[attr-defined]
        if not 0 < value < math.inf:
            raise UserError(
                f"aggregation.name: {self.aggregation} gives {outputs} outputs the coefficient {value!r}; it must be"
                " positive, since lambda_j = a lambda_m (Theorem 3.2)"
            )
        return value

    def coefficients(self, outputs: int, simplex: Tensor | None = None) -> tuple[float | Tensor, float | Tensor]:
        """The coefficients a_j = lambda_j / lambda_m (one for all, or (m - 1,)) and lambda_m.

        Args:
            outputs: m.
            simplex: lambda itself, (m,), in place of the aggregation's.
        """
        if simplex is not None:
            check_outputs(outputs)
            return simplex[:-1] / simplex[-1], simplex[-1]
        coefficient = self.coefficient(outputs)
        return coefficient, 1.0 / (1.0 + (outputs - 1) * coefficient)

    def bound(self, lambda_m: float | Tensor) -> float | Tensor:
        """The least value of lambda^T b / lambda_m: max(c, c / lambda_m) + margin."""
        return (self.cutoff / lambda_m if self.cutoff > 0 else self.cutoff) + self.margin


_NO_OPTIONS = {
    "bias": "it always has a bias, whose last entry keeps a unit active",
    "groups": "its filters see all channels, since the last one is the aggregate of the others",
    "padding_mode": "it pads with zeros; pad before it, with padding=0",
}
"""What PyTorch's layers have, and a Farkas layer has not."""


def check_outputs(outputs: int) -> None:
    """Refuse a layer that is too small for Farkas' lemma (Section 3.3)."""
    if outputs < 2:
        raise ValueError(
            f"a Farkas layer needs at least 2 outputs, got {outputs}: its last component is the negative aggregate"
            " of the others, so dim(D_out) >= 2 (Section 3.3)"
        )
