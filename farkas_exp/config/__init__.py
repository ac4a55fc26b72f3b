"""The typed schema of a run, and the strict check that every configuration must pass.

Hydra composes YAML files and overrides into a nested mapping; `parse` turns it into a frozen `Config`. An unknown key
(even with Hydra's `+`), a missing value or a wrong type is a `UserError` with the full path of the key and what would
be right. The classes of the groups are in `schema`.

Importing this package imports neither torch nor Hydra, so `--help` and the skipping of finished runs stay fast.
"""

from farkas_exp.config.options import declared, option, outside
from farkas_exp.config.parsing import parse, schema_defaults, unknown_key
from farkas_exp.config.schema import Config
from farkas_exp.config.written import recorded, to_dict

__all__ = ["Config", "declared", "option", "outside", "parse", "recorded", "schema_defaults", "to_dict", "unknown_key"]
