"""The package's own methods, in the order in which they act."""

from importlib import import_module

METHODS = (
    "adversarial", "anomaly", "averaging", "clipping", "dropout", "mixing", "norm_bias", "rank_projection",
    "separation",
)  # fmt: skip
for _name in METHODS:
    import_module(f"farkas_exp.methods.{_name}")
