"""Compose the runs of a sweep as Hydra does, in a hundredth of the time.

Hydra composes each run from scratch in a quarter of a second; thousands of finished runs would take minutes to skip.
Here each file is read once, Hydra gives the order of merging once for all choices that are plain files, and plain
dictionaries are merged. Anything else (an added or deleted key, a value with `hydra:...`) is left to Hydra.
"""

import copy
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hydra import version
from hydra._internal import config_repository, defaults_list, hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.default_element import GroupDefault, InputDefault, ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from farkas_exp.config import arms
from farkas_exp.config.written import with_sources
from farkas_exp.registry import DATASETS

Values = dict[str, Any]


def _without_phases(value: Any, *, _root_: DictConfig) -> Any:
    """The value of `${without_phases:VALUE}`, a default for an image size: null where phases say the size."""
    return None if OmegaConf.select(_root_, "phases.schedule") else value


def is_searched(value: Any) -> bool:
    """Whether a value, as written, is to be taken from a search: `${best:KEY}` or `${beyond:KEY}`."""
    return isinstance(value, str) and value.startswith(("${best:", "${beyond:"))


def _in_memory(value: Any, *, _root_: DictConfig) -> Any:
    """The value of `${in_memory:VALUE}`, of an augmentation of images in memory: 0 for other data."""
    entry = DATASETS.get(str(OmegaConf.select(_root_, "dataset.name")))
    return value if entry is None or (entry.pixels and not entry.streamed) else 0


def _for_dataset(name: str, value: Any, *, _root_: DictConfig) -> Any:
    """The value of `${for_dataset:NAME,VALUE}`, an option of one data set: null for another."""
    return value if OmegaConf.select(_root_, "dataset.name") == name else None


_RESOLVERS: dict[str, tuple[Callable[..., Any], str]] = {
    "without_phases": (_without_phases, "phases"),
    "in_memory": (_in_memory, "dataset"),
    "for_dataset": (_for_dataset, "dataset"),
}
"""By name, with the one group that each reads."""

for _name, (_function, _) in _RESOLVERS.items():
    OmegaConf.register_new_resolver(_name, _function, replace=True)


def values_of(composed: DictConfig) -> Values:
    """The resolved values that Hydra composed, without its own; texts know how they were written.

    Raises:
        OmegaConfBaseException: a value that cannot be resolved.
    """
    own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    values: Values = with_sources(OmegaConf.to_container(own, resolve=True), OmegaConf.to_container(own))
    return values


class CommandLoader(ConfigLoaderImpl):
    """Hydra's loader, which composes a command once; Hydra asks twice, first to learn whether it is a sweep."""

    _asked: tuple[list[str], DictConfig] | None = None

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """What Hydra composes; for the second question the answer to the first, with the mode that Hydra chose."""
        asked, self._asked = self._asked, None
        given, composed = asked or ([], None)
        added = overrides[len(given) :]
        if composed is None or [*given, *added] != overrides or added[1:] or _lacks_choice(composed):
            args = (config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
            composed = super().load_configuration(*args)
            if not validate_sweep_overrides:
                self._asked = ([*overrides], composed)
            return composed
        self.validate_sweep_overrides_legal(OverridesParser.create().parse_overrides(given), run_mode, from_shell)
        for text in added:
            OmegaConf.update(composed, "hydra.mode", text.removeprefix("hydra.mode="))
            composed.hydra.overrides.hydra.append(text)
        return composed


def _lacks_choice(composed: DictConfig) -> bool:
    """Whether a group has no choice yet, which Hydra accepts in the configuration of a whole sweep only."""
    return bool(OmegaConf.missing_keys(composed.hydra.runtime.choices))


_interpolation_map = defaults_list._create_interpolation_map


def _map_if_needed(overrides: Any, defaults: list[InputDefault], self_added: bool) -> Any:
    """What `${...}` in a defaults list can refer to; Hydra builds it for each file, a fifth of a composition's time."""
    return _interpolation_map(overrides, defaults, self_added) if any(d.is_interpolation() for d in defaults) else None


hydra.ConfigLoaderImpl = CommandLoader  # type: ignore[misc] - the one place where Hydra makes it
defaults_list._create_interpolation_map = _map_if_needed
# these two take a tenth of a composition's time: Hydra deep-copies its repository, though it only replaces the list of
# sources in it, and parses the version "1.1" hundreds of times
config_repository.ConfigRepository.__deepcopy__ = lambda self, memo: copy.copy(self)  # type: ignore[attr-defined]
version._get_version = functools.cache(version._get_version)


class Compositions:
    """Composes the runs of one command, whose configuration is `master`."""

    def __init__(self, loader: Any, master: DictConfig) -> None:
        self._loader, self._master = loader, master
        self._name = master.hydra.job.config_name
        self._for_hydra = [str(text) for text in OmegaConf.to_container(master.hydra.overrides.hydra) or ()]
        self._parser = OverridesParser.create()
        self._parsed: dict[str, Override] = {}
        self._groups: dict[str, bool] = {}
        self._merged: dict[tuple[str, ...], Values] = {}
        self._orders: dict[tuple[Any, ...], list[ResultDefault]] = {}
        self._files: dict[tuple[str, str | None], Values] = {}
        self._repository = loader._parse_overrides_and_create_caching_repo(self._name, self._for_hydra)[1]

    def values(self, overrides: Sequence[str]) -> Values:
        """The nested values of the run with these overrides.

        Raises:
            HydraException: they do not compose.
            OmegaConfBaseException: a value that cannot be resolved.
        """
        found = self.plain_values(overrides)
        return self.by_hydra(overrides) if found is None else found

    def by_hydra(self, overrides: Sequence[str]) -> Values:
        """The values as Hydra itself composes them."""
        return values_of(self._loader.load_sweep_config(self._master, list(overrides)))

    def plain_values(self, overrides: Sequence[str]) -> Values | None:
        """The values composed here, or None if only Hydra can compose them."""
        parsed = [self._parse(text) for text in overrides]
        groups = [override for override in parsed if self._is_group(override)]
        singles = [override for override in parsed if not self._is_group(override)]
        if any(override.is_sweep_override() or override.is_hydra_override() for override in parsed):
            return None
        values = copied(self._chosen(groups))
        if not all(_apply(values, override) for override in singles):
            return None
        return _resolved(values)

    def _parse(self, text: str) -> Override:
        if text not in self._parsed:
            (self._parsed[text],) = self._parser.parse_overrides([text])
        return self._parsed[text]

    def _is_group(self, override: Override) -> bool:
        key = override.key_or_group
        if key not in self._groups:
            self._groups[key] = self._repository.group_exists(key)
        return self._groups[key] and not isinstance(override.value(), dict)

    def _chosen(self, groups: Sequence[Override]) -> Values:
        """The merged values of all files with these choices, in the order of the defaults list."""
        key = tuple(str(override.input_line) for override in groups)
        if key not in self._merged:
            merged: Values = {}
            for default in self._order(self._with_choices_of_arm(groups)):
                _merge(merged, self._file(default))
            merged.pop("hydra", None)
            self._merged[key] = merged
        return self._merged[key]

    def _with_choices_of_arm(self, groups: Sequence[Override]) -> list[Override]:
        """The choices, and those of a chosen arm as if given, too: one defaults list serves all arms alike."""
        given = {override.key_or_group for override in groups}
        files = [self._chosen_file(override) for override in groups if override.key_or_group == arms.GROUP]
        own = [
            self._parse(f"{str(default.group).removeprefix('/')}={default.value}")
            for file in files if file is not None
            for default in file.defaults_list if isinstance(default, GroupDefault) and default.is_override()
        ]  # fmt: skip
        return [*groups, *(override for override in own if override.key_or_group not in given)]

    def _chosen_file(self, override: Override) -> Any:
        """What is in the file of a choice, or None: it is no single file, or there is none."""
        choice = override.value()
        return self._repository.load_config(f"{override.key_or_group}/{choice}") if isinstance(choice, str) else None

    def _order(self, groups: Sequence[Override]) -> list[ResultDefault]:
        """The files in the order of merging; one list for all choices between plain files."""
        plain = {override.key_or_group: package for override in groups if (package := self._package(override))}
        key = tuple(
            (override.key_or_group, plain[override.key_or_group])
            if override.key_or_group in plain else override.input_line for override in groups
        )  # fmt: skip
        if key not in self._orders:
            every = [*map(self._parse, self._for_hydra), *groups]
            self._orders[key] = create_defaults_list(self._repository, self._name, every, True, False).defaults
        chosen = {override.key_or_group: override.value() for override in groups if override.key_or_group in plain}
        return [_with_choice(default, chosen) for default in self._orders[key]]

    def _package(self, override: Override) -> str | None:
        """The package of a choice if it is a file without a defaults list, or an arm, else None."""
        if override.is_add() or override.is_force_add() or override.is_delete() or override.package is not None:
            return None
        loaded = self._chosen_file(override)
        is_arm = override.key_or_group == arms.GROUP
        if loaded is None or not all(d.is_self() or (is_arm and d.is_override()) for d in loaded.defaults_list):
            return None
        return str(loaded.header["package"] or "in its group")

    def _file(self, default: ResultDefault) -> Values:
        key = (str(default.config_path), default.package)
        if key not in self._files:
            loaded = self._loader._load_single_config(default, self._repository).config
            values: Any = OmegaConf.to_container(loaded, resolve=False)
            self._files[key] = _without_defaults_list(values, default.package)
        return self._files[key]


def _with_choice(default: ResultDefault, chosen: Mapping[str, Any]) -> ResultDefault:
    group, _, _ = str(default.config_path).rpartition("/")
    return replace(default, config_path=f"{group}/{chosen[group]}") if group in chosen else default


def _without_defaults_list(values: Values, package: str | None) -> Values:
    inner = values
    for part in filter(None, (package or "").split(".")):
        inner = inner.get(part, {})
    if isinstance(inner, dict):
        inner.pop("defaults", None)
    return values


def copied(values: Any, leaf: Callable[[Any], Any] = lambda value: value) -> Any:
    """A copy of nested values; `leaf` changes each that is neither a mapping nor a list."""
    if isinstance(values, dict):
        return {key: copied(value, leaf) for key, value in values.items()}
    return [copied(value, leaf) for value in values] if isinstance(values, list) else leaf(values)


def _merge(into: Values, values: Values) -> None:
    """Merge as OmegaConf does: mappings key by key, anything else replaced, except by `???`."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        elif value != "???" or key not in into:
            into[key] = copied(value)


def _apply(values: Values, override: Override) -> bool:
    """Set one key as `KEY=VALUE` does; return False if only Hydra can."""
    value = override.value()
    is_set = not (override.is_add() or override.is_force_add() or override.is_delete())
    if not is_set or override.package is not None or isinstance(value, dict):
        return False
    *groups, last = override.key_or_group.split(".")
    for group in groups:
        inner = values.get(group)
        if not isinstance(inner, dict):
            return False
        values = inner
    if last not in values or isinstance(values[last], dict) or _holds_mapping(value):
        return False
    values[last] = copied(value)
    return True


def _holds_mapping(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_holds_mapping, value)))


def _resolved(values: Values) -> Values | None:
    """`values` with their `${...}` replaced, or None if only Hydra can."""
    texts = [text for text in _texts(values) if "${" in text]
    if not texts:
        return values
    if any("hydra" in text or "now:" in text for text in texts):
        return None
    read = _read_by(texts)
    part = {
        key: value for key, value in values.items() if read is None or key in read or "${" in "".join(_texts(value))
    }
    try:
        resolved: Any = OmegaConf.to_container(OmegaConf.create(part), resolve=True)
    except OmegaConfBaseException:
        return None  # Hydra's message names the key
    return {**values, **with_sources(resolved, part)}


_INTERPOLATION = re.compile(r"\$\{(?:(?P<resolver>\w+):[^${}]*|(?P<key>[A-Za-z_]\w*)(?:\.\w+)*)\}")


def _read_by(texts: Sequence[str]) -> set[str] | None:
    """The groups and keys that the interpolations read, or None for all; to resolve fewer values takes less time."""
    if any("${" in _INTERPOLATION.sub("", text) for text in texts):
        return None
    found = [match for text in texts for match in _INTERPOLATION.finditer(text)]
    resolvers = {match["resolver"] for match in found if match["resolver"]}
    if not resolvers <= _RESOLVERS.keys():
        return None
    return {match["key"] for match in found if match["key"]} | {_RESOLVERS[name][1] for name in resolvers}


def _texts(values: Any) -> list[str]:
    if isinstance(values, dict):
        return [text for value in values.values() for text in _texts(value)]
    if isinstance(values, list):
        return [text for value in values for text in _texts(value)]
    return [values] if isinstance(values, str) else []
