"""The initializations by name, with what they need; without PyTorch."""

from farkas_exp.registry import INITIALIZATIONS

_HERE = "farkas_exp.initialization"
_DRAWN, _SCALED = ("generator",), ("generator", "gain")

INITIALIZATIONS.register("pytorch", f"{_HERE}.random:pytorch_")
INITIALIZATIONS.register("zero_last", f"{_HERE}.residual:zero_last_layers", branches=True)
INITIALIZATIONS.register("xavier", f"{_HERE}.random:xavier_", needs=_SCALED)
INITIALIZATIONS.register("kaiming", f"{_HERE}.random:kaiming_", needs=_SCALED)
INITIALIZATIONS.register("torchvision", f"{_HERE}.random:torchvision_", needs=_DRAWN)
INITIALIZATIONS.register("orthogonal", f"{_HERE}.random:orthogonal_", needs=_SCALED)
INITIALIZATIONS.register("lsuv", f"{_HERE}.lsuv:lsuv_", needs=("images", "generator"), scales=True)
INITIALIZATIONS.register("rai", f"{_HERE}.random:rai_", needs=_DRAWN)
INITIALIZATIONS.register("match_farkas", f"{_HERE}.matched:match_features_", needs=("twin", "images"), scales=True)
INITIALIZATIONS.register(
    "residual_xavier", f"{_HERE}.shortcuts:residual_xavier_", needs=_DRAWN, branches=True, scales=True
)
INITIALIZATIONS.register(
    "minus_identity", f"{_HERE}.shortcuts:minus_identity_", needs=_DRAWN, branches=True, scales=True
)
INITIALIZATIONS.register("delta_orthogonal", f"{_HERE}.shortcuts:delta_orthogonal_", needs=_SCALED)
INITIALIZATIONS.register(
    "identity_small", f"{_HERE}.residual:identity_small_", needs=_DRAWN, branches=True, scales=True
)
INITIALIZATIONS.register("zero", f"{_HERE}.landscape:zero_")
INITIALIZATIONS.register("bias_shift", f"{_HERE}.landscape:shift_biases", needs=("bias",))
INITIALIZATIONS.register("bias_uniform", f"{_HERE}.landscape:uniform_biases", needs=("bias", "generator"))
INITIALIZATIONS.register(
    "local_minimum", f"{_HERE}.landscape:local_minimum_", needs=("images", "labels"), whole_set=True
)
