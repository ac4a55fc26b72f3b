"""The methods by name, or by the keys that ask for them, in the order in which they act; without PyTorch."""

from farkas_exp.registry import ATTACKS, CALLBACKS, METHOD_GROUPS, METHODS, REGULARIZERS

_HERE = "farkas_exp.methods"

for _group in METHOD_GROUPS:
    _group.register("none", f"{_HERE}.base:Method")

_ADDED = {"strength": None, "alone": None}
_SEPARATION = {**_ADDED, **dict.fromkeys(("coefficient", "reduction", "rho", "conv_point", "include_output"))}
for _name, _label in {"sep_u": "Sep-U", "sep_p": "Sep-P", "sep_up": "Sep-UP"}.items():
    REGULARIZERS.register(_name, f"{_HERE}.separation:Separation", label=_label, of_batch=True, options=_SEPARATION)
REGULARIZERS.register("weight_decay", f"{_HERE}.norm_bias:NormBias", options=_ADDED)  # mu = 0
REGULARIZERS.register("norm_bias", f"{_HERE}.norm_bias:NormBias", options={**_ADDED, "norm_squared": None})

ATTACKS.register(
    "pgd", f"{_HERE}.adversarial:AdversarialTraining", label="PGD",
    options=dict.fromkeys(("steps", "step_size", "epsilon", "random_start")),
)  # fmt: skip

_PROJECTION = dict.fromkeys(("threshold", "last_epochs", "every_epochs", "lr", "healing_epochs"))
for _name, _label in {"rank_min": "RankMin", "rank_max": "RankMax"}.items():
    CALLBACKS.register(_name, f"{_HERE}.rank_projection:RankProjection", label=_label, options=_PROJECTION)

METHODS.register("anomaly", f"{_HERE}.anomaly:Anomaly", asked=lambda config: config.debug == "anomaly")
METHODS.register("averaging", f"{_HERE}.averaging:Averaging", asked=lambda config: config.optimizer.ema > 0)
METHODS.register(
    "unit_clipping", f"{_HERE}.clipping:UnitClipping", asked=lambda config: config.optimizer.clip_units is not None
)
METHODS.register(
    "norm_clipping", f"{_HERE}.clipping:NormClipping", asked=lambda config: config.optimizer.clip_norm is not None
)
METHODS.register("dropout", f"{_HERE}.dropout:Dropout", asked=lambda config: config.dropout.rate > 0, group="dropout")
METHODS.register(
    "mixing", f"{_HERE}.mixing:Mixing", asked=lambda config: config.augmentation.mixup or config.augmentation.cutmix
)
