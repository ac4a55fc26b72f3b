"""What the names of the configuration stand for: each entry has its builder, and what is known without building it.

A registry imports the catalogue that fills it at its first use. Catalogues import nothing heavy: a builder may be
written "module:function", which is imported when something is built. Another package registers by the same call, in a
module that an entry point of the group `farkas_exp.plugins` names:

    NETWORKS.register("my_net", "my_package.net:build", farkas=True, options={"depth": 4})

or that the configuration names: `plugins=[my_package]`. An option that the schema lacks becomes a key of the group,
given by its default or declared as `config.option(default, at_least=0, ...)`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import import_module
from importlib.metadata import entry_points
from keyword import iskeyword
from operator import attrgetter
from typing import Any, Generic, TypeVar

from farkas_exp.machine.errors import UserError, in_one_line, unknown

PLUGINS = "farkas_exp.plugins"
"""The group of entry points whose modules register things when they are imported."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of one name without building it.

    Attributes:
        name: in the configuration.
        source: the builder, or where it is: "module:function".
        options: its keys of the group, with the values that null stands for (None: the schema's default).
        label: its name in tables; empty for that of the configuration.
    """

    name: str
    source: Callable[..., Any] | str
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    @cached_property
    def build(self) -> Callable[..., Any]:
        """The builder, imported at its first use."""
        return self.imported(self.source)

    def imported(self, source: Callable[..., Any] | str) -> Callable[..., Any]:
        """A function, or the one at "module:function".

        Raises:
            UserError: there is nothing there.
        """
        if not isinstance(source, str):
            return source
        module, _, function = source.partition(":")
        try:
            return getattr(import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"{self.name}: cannot load {source!r} ({error})") from error


E = TypeVar("E", bound=Entry)


def _place(source: Callable[..., Any] | str) -> str:
    return repr(source if isinstance(source, str) else f"{source.__module__}:{source.__qualname__}")


class Registry(Generic[E]):
    """The entries of one kind by name, in the order of their registration.

    `key` is the configuration's key that names an entry, `kind` the class of the entries, `catalogue` the module that
    registers the package's own.
    """

    def __init__(self, key: str, kind: type[E], catalogue: str) -> None:
        self.key = key
        self._kind = kind
        self._catalogue = catalogue
        self._entries: dict[str, E] = {}

    def register(self, name: str, source: Callable[..., Any] | str, **facts: Any) -> None:
        """Add an entry: its builder, or "module:function", and the other fields of the entry.

        Raises:
            ValueError: the name is taken, it or an option's cannot stand in a command, or facts contradict each other.
        """
        import_module(self._catalogue)  # returns at once if this call comes from there
        if not re.fullmatch(r"[A-Za-z_][\w.-]*", str(name)):
            raise ValueError(f"{self.key}: {name!r} is no name: a letter, then letters, digits, '_', '-' and '.'")
        options = facts.get("options", {})
        if not isinstance(options, Mapping):
            raise ValueError(f"{self.key}: {name}: its options are a mapping to their defaults, not {options!r}")
        for key in options:
            if not key.isidentifier() or iskeyword(key) or key == "name":
                raise ValueError(f"{self.key}: {name} cannot have an option {key!r}; call it by another word")
        if name in self._entries:
            raise ValueError(f"{self.key}: {name!r} is registered already, as {_place(self._entries[name].source)}")
        self._entries[name] = self._kind(name=name, source=source, **facts)

    def __getitem__(self, name: str) -> E:
        """The entry of a name.

        Raises:
            UserError: an unknown name; the message has the nearest one.
        """
        if name not in self:
            raise unknown(self.key, name, self)
        return self._entries[name]

    def name_in(self, config: Any) -> str:
        """The name that a configuration has at the key."""
        return attrgetter(self.key)(config)

    def get(self, name: str) -> E | None:
        """The entry of a name, or None, as for a record that names something not installed here."""
        return self._entries[name] if name in self else None

    def label(self, name: str) -> str:
        """What an entry is called in tables: FarkasNet34 for farkasnet34. Without a label that is its name."""
        entry = self.get(name)
        return (entry and entry.label) or name

    def __contains__(self, name: object) -> bool:
        """Whether there is such an entry; load plugins only for names that are not our own."""
        import_module(self._catalogue)
        if name not in self._entries:
            load_plugins()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """The names, those of other packages last."""
        import_module(self._catalogue)
        load_plugins()
        return iter(self._entries)

    def __len__(self) -> int:
        """How many there are."""
        return len(list(iter(self)))


def load_plugins(modules: Iterable[str] = ()) -> None:
    """Import the plugins: those of entry points, once, and `modules`.

    Raises:
        UserError: one cannot be imported.
    """
    _load_entry_points()
    for module in [modules] if isinstance(modules, str) else modules:
        try:
            import_module(str(module))
        except (Exception, SystemExit) as error:
            raise UserError(f"plugins: cannot import {module!r} ({in_one_line(error)})") from error


@cache
def _load_entry_points() -> None:
    for plugin in entry_points(group=PLUGINS):
        try:
            plugin.load()
        except (Exception, SystemExit) as error:
            raise UserError(f"plugin {plugin.name}: cannot import {plugin.value!r} ({in_one_line(error)})") from error


@dataclass(frozen=True, kw_only=True)
class Network(Entry):
    """A network.

    Attributes:
        farkas: whether it has Farkas layers, and so an aggregation.
        appends: whether its residual layers append their aggregated component (Algorithm 2) by default.
        twin: of a plain network, the Farkas network that differs from it in that alone.
        positions: where a normalization may stand, `after` or `before` the activation or at the start of a `branch`,
            the default first; empty for a network without normalization.
        affine: whether its normalizations are affine by default.
        activated: whether it has activations, or is linear.
        depth: the number of layers it is known by, which orders the rows of tables; 0 for any.
        spatial: whether it works on maps, (N, C, H, W), or on features, (N, F).
        chooses_head: whether `head.name` chooses its last layer.
        scalars: whether it has FixUp's scalar biases and multipliers, which have a rule of their own in the optimizer.
        authors: the defaults of its options that differ in `variant=authors`.
    """

    farkas: bool = False
    appends: bool = False
    twin: str | None = None
    positions: tuple[str, ...] = ("after", "before")
    affine: bool = False
    activated: bool = True
    depth: int = 0
    spatial: bool = True
    chooses_head: bool = False
    scalars: bool = False
    authors: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not set(self.positions) <= {"after", "before", "branch"}:
            raise ValueError(f"model.name: {self.name}: its positions are some of ('after', 'before', 'branch')")


@dataclass(frozen=True, kw_only=True)
class Normalization(Entry):
    """A normalization; its builder takes (channels, group of the configuration, whether on maps).

    Attributes:
        maps_only: whether it needs maps, (N, C, H, W).
        of_batch: whether it normalizes the images of a batch together, and so needs several values a channel.
    """

    maps_only: bool = False
    of_batch: bool = False


@dataclass(frozen=True, kw_only=True)
class ActivationFunction(Entry):
    """An element-wise function of a tensor.

    Attributes:
        cutoff: the c of Corollary 3.3 below which the function is flat; minus infinity where it never is.
        fit: "module:function" that makes it fit the network that has been built, of (network, group of the
            configuration).
    """

    cutoff: float
    fit: str | None = None

    def fit_to(self, network: Any, config: Any) -> None:
        """Call `fit`, if there is one."""
        if self.fit is not None:
            self.imported(self.fit)(network, config)


@dataclass(frozen=True, kw_only=True)
class Initialization(Entry):
    """An initialization: a function of the network and, by name, of what it needs.

    Attributes:
        needs: its arguments beside the network: `generator`, `images`, `labels`, `twin`, and keys of its group such as
            `gain`.
        branches: whether it is for networks with residual branches.
        whole_set: whether its images are the whole training set, not a batch of it.
        scales: whether what it chooses is the scale of weights, which a standardized weight undoes.
    """

    needs: tuple[str, ...] = ()
    branches: bool = False
    whole_set: bool = False
    scales: bool = False

    def __post_init__(self) -> None:
        given = ("generator", "images", "labels", "twin", "gain", "bias", *self.options)
        wrong = [repr(name) for name in self.needs if name not in given]
        if isinstance(self.needs, str) or wrong:
            needed = ", ".join(wrong) or "a tuple of names"
            raise ValueError(f"init.name: {self.name} needs {needed}; choose from: {', '.join(given)}")
        idle = [key for key in self.options if key not in self.needs]
        if idle:
            raise ValueError(
                f"init.name: {self.name} has the option {idle[0]}, which it does not need: add it to `needs`"
            )
        own = {name: None for name in self.needs if name in ("gain", "bias")}
        every = dict.fromkeys(("last_scale", "last_depth_exponent", "classifier_std"))
        object.__setattr__(self, "options", {**every, **own, **self.options})


@dataclass(frozen=True, kw_only=True)
class Dataset(Entry):
    """A data set; its builder takes the group of the configuration and the device, and returns `data.base.Arrays`.

    `options` are the keys of the group that not every data set has.

    Attributes:
        streamed: whether images are decoded during training. Its builder then takes the arguments of
            `data.build.build_data` except `debug`, and returns a `data.base.ImageData`.
        pixels: whether its values are pixels, which are augmented, or points.
        classes: the number of classes, unless its files or an option give it.
        image_files: whether it is a folder of image files, with a folder for each class.
        named_by_folder: whether the name of its folder identifies the data.
        prints: the "module:function" for the fingerprints of its files (`data.files.prints`); None if it has no files,
            or checks them as it reads them.
    """

    streamed: bool = False
    pixels: bool = True
    classes: int | None = None
    image_files: bool = False
    named_by_folder: bool = False
    prints: str | None = None

    def prints_of(self, *groups: Any) -> Any:
        """The fingerprints for the groups `dataset` and `phases`; empty without `prints`."""
        return {} if self.prints is None else self.imported(self.prints)(*groups)


@dataclass(frozen=True, kw_only=True)
class Measure(Entry):
    """A measurement of a network: a function of a `measures.Subject` that returns figures by name.

    Attributes:
        pixels: whether it attacks images, and so needs pixels.
        whole_set: whether it needs the whole test set in one process.
        plane: whether it is for points of the plane.
    """

    pixels: bool = False
    plane: bool = False
    whole_set: bool = False


@dataclass(frozen=True, kw_only=True)
class Optimizer(Entry):
    """An optimizer.

    Attributes:
        recordable: whether its step can be recorded together with the gradients, and replayed: all that changes in it,
            the learning rate included, must be tensors on the device.
        matrices: whether it treats the weights of hidden layers differently; each group then says whether it is
            `hidden`.
    """

    recordable: bool = False
    matrices: bool = False


@dataclass(frozen=True, kw_only=True)
class Method(Entry):
    """What changes a training beside its loss; its builder is a class with the protocol of `methods.base.Method`.

    Attributes:
        asked: of an entry of `METHODS`, whether a configuration asks for it.
        group: of an entry of `METHODS`, the group that is its own, if it has one.
        of_batch: whether it needs the images of a batch together.
    """

    asked: Callable[[Any], bool] = lambda config: True
    group: str = ""
    of_batch: bool = False


NETWORKS = Registry("model.name", Network, "farkas_exp.models.catalogue")
HEADS = Registry("head.name", Entry, "farkas_exp.models.catalogue")
NORMALIZATIONS = Registry("normalization.name", Normalization, "farkas_exp.layers.catalogue")
ACTIVATIONS = Registry("activation.name", ActivationFunction, "farkas_exp.layers.catalogue")
AGGREGATIONS = Registry("aggregation.name", Entry, "farkas_exp.layers.catalogue")
WEIGHTS = Registry("weight.name", Entry, "farkas_exp.layers.catalogue")
INITIALIZATIONS = Registry("init.name", Initialization, "farkas_exp.initialization.catalogue")
DATASETS = Registry("dataset.name", Dataset, "farkas_exp.data.catalogue")
OPTIMIZERS = Registry("optimizer.name", Optimizer, "farkas_exp.training.catalogue")
MEASURES = Registry("diagnostics.measures", Measure, "farkas_exp.measures.catalogue")
REGULARIZERS = Registry("regularizer.name", Method, "farkas_exp.methods.catalogue")
ATTACKS = Registry("attack.name", Method, "farkas_exp.methods.catalogue")
CALLBACKS = Registry("callback.name", Method, "farkas_exp.methods.catalogue")
METHOD_GROUPS = (REGULARIZERS, ATTACKS, CALLBACKS)
METHODS = Registry("method", Method, "farkas_exp.methods.catalogue")
"""The methods that other keys ask for, such as `optimizer.ema`."""


def methods_of(config: Any) -> list[Method]:
    """The methods that a configuration asks for, in the order in which they act.

    Raises:
        UserError: a group names one that is not registered.
    """
    named = [group[group.name_in(config)] for group in METHOD_GROUPS]
    asked = [METHODS[name] for name in METHODS if METHODS[name].asked(config)]
    return [method for method in named if method.name != "none"] + asked


@dataclass(frozen=True, kw_only=True)
class Rendering(Entry):
    """A report: its builder takes the records of runs and returns a `report.render.Report`.

    Attributes:
        summary: one line on what it shows.
        needs_runs: whether it shows nothing without runs.
        shared: the "module:function" for the settings that the runs of one table share; the table at the end of a sweep
            shows all runs that share them with the sweep.
    """

    summary: str
    needs_runs: bool = True
    shared: str = "farkas_exp.runs.query:budget"


@dataclass(frozen=True, kw_only=True)
class Experiment(Entry):
    """A prepared set of runs, a file in conf/experiment/. `source` is the name of the report at the end of its sweep.

    Attributes:
        title: what it is, in one line.
        runs: their number.
        cost: what they take, as far as known.
        then: the experiment that follows it, in the same `runs_dir`.
        arguments: what its command needs, such as a folder of images.
    """

    title: str
    runs: str
    cost: str
    then: str | None = None
    arguments: str = ""


REPORTS = Registry("report", Rendering, "farkas_exp.studies.catalogue")
EXPERIMENTS = Registry("experiment", Experiment, "farkas_exp.studies.catalogue")
