"""Keep texts that look like numbers as texts: `runs_dir=2024_11_25` is that folder, not 20241125.

Hydra and YAML read values without the schema. Here the values of text keys are marked before Hydra sees them: in
overrides by quotes, in files by their tag. A `~` at the start of a path means home in both.
"""

import functools
import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.grammar.gen.OverrideLexer import CommonTokenStream, InputStream, OverrideLexer
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

from farkas_exp.config.extensions import every_extra
from farkas_exp.config.folders import home
from farkas_exp.config.options import declared, keys_of
from farkas_exp.config.schema import Config
from farkas_exp.machine.errors import UserError

SWEPT = "hydra.sweeper.params"
"""The key below which values are written as on the command line."""


def text_keys() -> Mapping[str, bool]:
    """The dotted keys of texts and lists of texts, also of other packages, and whether they are paths."""
    return {**_own_texts(), **{key: False for key, extra in every_extra().items() if _is_text(extra.type)}}


@functools.cache
def _own_texts() -> Mapping[str, bool]:
    return {key: declared(f).is_path for key, f in keys_of(Config) if _is_text(f.type)}


def _is_text(hint: Any) -> bool:
    return str in (hint, *typing.get_args(hint))


def keep_texts(overrides: Sequence[str]) -> list[str]:
    """Quote the values of text keys that Hydra would read as numbers or booleans.

    Values in lists and sweeps, too; null stays null. What is no valid override is left as it is.
    """
    keys = text_keys()
    return [_kept(override, keys) for override in overrides]


_OVERRIDE = re.compile(r"(?P<key>(\+\+?)?[A-Za-z_][\w.]*)=")
_HOME = re.compile(r"(?P<before>^|,)(?P<path>~[^,'\"\[\](){}]*)")
_LITERALS = (OverrideLexer.INT, OverrideLexer.FLOAT, OverrideLexer.BOOL)
_PRIMITIVE = {
    *_LITERALS, OverrideLexer.ID, OverrideLexer.NULL, OverrideLexer.INTERPOLATION, OverrideLexer.UNQUOTED_CHAR,
    OverrideLexer.COLON, OverrideLexer.ESC, OverrideLexer.QUOTED_VALUE,
}  # fmt: skip
_NUMERIC = ("range", "interval", "int", "float", "bool", "str")
"""Functions of Hydra that take numbers, or convert their arguments themselves."""


def _kept(override: str, keys: Mapping[str, bool]) -> str:
    match = _OVERRIDE.match(override)
    key = match["key"].lstrip("+") if match else ""
    if match is None or key not in keys:
        return override
    if keys[key]:
        value = _HOME.sub(lambda m: f"{m['before']}{quoted(home(m['path'], key))}", override[match.end() :])
        override = override[: match.end()] + value
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return override
    lexer = OverrideLexer(InputStream(override))
    lexer.removeErrorListeners()
    stream = CommonTokenStream(lexer)
    stream.fill()
    for token, inside in reversed(list(_literals([token for token in stream.tokens if token.type != -1]))):
        text = quoted(quoted(token.text)) if inside else quoted(token.text)  # Hydra's functions remove one pair
        override = override[: token.start] + text + override[token.stop + 1 :]
    return override


def _literals(tokens: Sequence[Any]) -> Iterator[tuple[Any, bool]]:
    """The tokens that are whole values and not texts, and whether they are inside of a function."""
    functions: list[str] = []
    values = [token for token in tokens if token.type != OverrideLexer.WS]
    begin = next((index + 1 for index, token in enumerate(values) if token.type == OverrideLexer.EQUAL), len(values))
    for index in range(begin, len(values)):
        token, before = values[index], values[index - 1]
        after = values[index + 1] if index + 1 < len(values) else None
        if token.type == OverrideLexer.POPEN:
            functions.append(before.text)
        elif token.type == OverrideLexer.PCLOSE and functions:
            functions.pop()
        alone = (index == begin or before.type not in _PRIMITIVE) and (after is None or after.type not in _PRIMITIVE)
        if token.type in _LITERALS and alone and not set(functions) & set(_NUMERIC):
            yield token, bool(functions)


def quoted(text: str) -> str:
    """A text, quoted for an override."""
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's source of YAML files, with texts kept as written."""

    def load_config(self, config_path: str) -> ConfigResult:
        """The configuration in a file.

        Raises:
            ConfigLoadError: there is no such file.
            UserError: its values have no keys.
            yaml.YAMLError: it is no YAML.
        """
        file = (Path(self.path) / self._normalize_file_name(config_path)).resolve()
        if not file.exists():
            raise ConfigLoadError(f"Config not found : {file}")
        stat, read_by = file.stat(), (*text_keys(), os.path.expanduser("~"))
        header, values = _read(file, config_path, (stat.st_ino, stat.st_mtime_ns, stat.st_size), read_by)
        path = f"{self.scheme()}://{self.path}"
        return ConfigResult(config=OmegaConf.create(values), path=path, provider=self.provider, header=dict(header))


@functools.lru_cache(maxsize=1024)
def _read(
    file: Path, config_path: str, version: tuple[int, ...], read_by: tuple[str, ...]
) -> tuple[dict[str, Any], Any]:
    """The header and the values of this version of a file, as the text keys and the home in `read_by` have them."""
    with open(file, "rb") as content:
        header = ConfigSource._get_header_dict(content.read(512).decode(errors="replace"))
        content.seek(0)
        values = read_yaml(content, _package(config_path, header.get("package")))
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected KEY: VALUE pairs, got {values!r}")
    return header, values


def read_yaml(content: str | BinaryIO, package: str = "") -> Any:
    """The values in a YAML text or file, by whose name errors call it; `package` is the dotted key of their group.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    loader = get_yaml_loader()(content)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}
        _mark(node, package, text_keys())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _package(config_path: str, package: str | None) -> str:
    """The key of a file's values: its folder, unless its header says otherwise."""
    if package is not None and package != "_group_":
        return "" if package == "_global_" else package
    return ".".join(Path(config_path).parent.parts)


def _mark(node: yaml.Node, key: str, texts: Mapping[str, bool]) -> None:
    """Tag the plain scalars of text keys as texts, from the node of `key` down."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if isinstance(name, yaml.ScalarNode):
                _mark(value, f"{key}.{name.value}" if key else name.value, texts)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _mark(item, key, texts)
    elif isinstance(node, yaml.ScalarNode) and (key in texts or key.startswith(f"{SWEPT}.")):
        if node.style is None and node.tag != "tag:yaml.org,2002:null":
            node.tag = "tag:yaml.org,2002:str"
        if texts.get(key) and isinstance(node.value, str):
            node.value = home(node.value, key)


SourcesRegistry.instance().types["file"] = FileConfigSource  # Hydra reads its files through this module
