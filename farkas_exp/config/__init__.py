"""The typed schema of a run, and the strict check that every configuration must pass.

Hydra composes YAML files and overrides into a nested mapping; `parse` turns it into a frozen `Config`. An unknown key
(even with Hydra's `+`), a missing value or a wrong type is a `UserError` with the full path of the key and what would
be right.

Importing this package imports neither torch nor Hydra, so `--help` and the skipping of finished runs stay fast.
"""

from farkas_exp.config.options import declared, option, outside
from farkas_exp.config.parsing import parse, schema_defaults, unknown_key
from farkas_exp.config.schema import (
    ActivationConfig,
    AggregationConfig,
    AttackConfig,
    AugmentationConfig,
    CallbackConfig,
    CheckpointConfig,
    Config,
    DatasetConfig,
    DiagnosticsConfig,
    DropoutConfig,
    FailureConfig,
    HeadConfig,
    InitConfig,
    LRConfig,
    ModelConfig,
    NormalizationConfig,
    OptimizerConfig,
    PhaseConfig,
    PhasesConfig,
    RegularizerConfig,
    ResidualConfig,
    WandbConfig,
    WeightConfig,
)
from farkas_exp.config.written import recorded, to_dict

__all__ = [
    "ActivationConfig", "AggregationConfig", "AttackConfig", "AugmentationConfig", "CallbackConfig", "CheckpointConfig",
    "Config", "DatasetConfig", "DiagnosticsConfig", "DropoutConfig", "FailureConfig", "HeadConfig", "InitConfig",
    "LRConfig", "ModelConfig", "NormalizationConfig", "OptimizerConfig", "PhaseConfig", "PhasesConfig",
    "RegularizerConfig", "ResidualConfig", "WandbConfig", "WeightConfig", "declared", "option", "outside", "parse",
    "recorded", "schema_defaults", "to_dict", "unknown_key",
]  # fmt: skip
