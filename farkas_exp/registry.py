"""What a name in the configuration stands for: each entry says what it is beside where it is built.

A registry knows the room that fills it and imports that room's catalogue when it is first asked. A catalogue imports
nothing heavy: an entry's builder may be written "module:function" and is imported when something is built. A package
from outside registers by the same call, from a module that an entry point of the group `farkas_exp.plugins` names:

    NETWORKS.register("my_net", "my_package.net:build", farkas=True, options={"depth": 4})

or that the configuration names: `plugins=[my_package]`. An option that the schema does not have becomes a key of the
group, with its default, or with what `config.option(default, at_least=0, ...)` declares of it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from farkas_exp.machine.errors import UserError, unknown

PLUGINS = "farkas_exp.plugins"
"""The group of entry points, each of which names a module that registers things when it is imported."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of one name without building it.

    Attributes:
        name: as the configuration has it.
        source: the builder, or where it is: "module:function".
        options: the keys of its group that it has, with what it takes where they are null (None: as the schema says).
    """

    name: str
    source: Callable[..., Any] | str
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def build(self) -> Callable[..., Any]:
        """The builder, imported when it is first needed.

        Raises:
            UserError: there is nothing at `source`.
        """
        if not isinstance(self.source, str):
            return self.source
        module, _, function = self.source.partition(":")
        try:
            return getattr(import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"{self.name}: cannot load {self.source!r} ({error})") from error


E = TypeVar("E", bound=Entry)


class Registry(Generic[E]):
    """The entries of one kind by name, in the order of their registration.

    Args:
        key: the configuration's key that names an entry.
        kind: the class of its entries, whose fields are the facts.
        catalogue: the module that registers the package's own entries.
    """

    def __init__(self, key: str, kind: type[E], catalogue: str) -> None:
        self.key = key
        self._kind = kind
        self._catalogue = catalogue
        self._entries: dict[str, E] = {}

    def register(self, name: str, source: Callable[..., Any] | str, **facts: Any) -> None:
        """Add an entry.

        Args:
            name: what the configuration is to call it.
            source: its builder, or "module:function".
            facts: the other fields of the entry.

        Raises:
            ValueError: the name is taken.
        """
        import_module(self._catalogue)  # this call may come from there; then it returns at once
        if name in self._entries:
            raise ValueError(f"{self.key}: {name!r} is registered already, as {self._entries[name].source!r}")
        self._entries[name] = self._kind(name=name, source=source, **facts)

    def __getitem__(self, name: str) -> E:
        """The entry of a name.

        Raises:
            UserError: an unknown name; the message gives the nearest one.
        """
        if name not in self:
            raise unknown(self.key, name, self)
        return self._entries[name]

    def get(self, name: str) -> E | None:
        """The entry of a name, None where there is none: for records of what may not be installed here."""
        return self._entries[name] if name in self else None

    def __contains__(self, name: object) -> bool:
        """Whether there is such an entry; other packages are only asked about names that are not this one's."""
        import_module(self._catalogue)
        if name not in self._entries:
            load_plugins()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """The names, those of other packages at the end."""
        import_module(self._catalogue)
        load_plugins()
        return iter(self._entries)

    def __len__(self) -> int:
        """How many there are."""
        return len(list(iter(self)))


def load_plugins(modules: Iterable[str] = ()) -> None:
    """Import the modules of other packages that register things: those of entry points, once, and `modules`.

    Raises:
        UserError: one of them cannot be imported.
    """
    _load_entry_points()
    for module in [modules] if isinstance(modules, str) else modules:
        try:
            import_module(str(module))
        except Exception as error:
            raise UserError(f"plugins: cannot import {module!r} ({type(error).__name__}: {error})") from error


@cache
def _load_entry_points() -> None:
    for plugin in entry_points(group=PLUGINS):
        try:
            plugin.load()
        except Exception as error:
            raise UserError(
                f"plugin {plugin.name}: cannot import {plugin.value!r} ({type(error).__name__}: {error})"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Network(Entry):
    """A network.

    Attributes:
        farkas: whether it is built of Farkas layers, so that the aggregation is a part of what it is.
        appends: whether its residual layers append their aggregated component (Algorithm 2), unless the aggregation
            says otherwise.
        twin: the Farkas network beside a plain one, which differs from it in that alone.
        positions: where a normalization may stand, `after` and `before` the activation, the default first; empty for a
            network that takes no normalization.
        affine: whether its normalizations are affine unless the configuration says otherwise.
        activated: whether it has activations, or is linear.
        spatial: whether it works on maps, (N, C, H, W), in place of features, (N, F).
        chooses_head: whether its last layer is chosen by `head.name`.
        authors: the defaults of its options that differ in `variant=authors`.
        label: how a table writes it.
    """

    farkas: bool = False
    appends: bool = False
    twin: str | None = None
    positions: tuple[str, ...] = ("after", "before")
    affine: bool = False
    activated: bool = True
    spatial: bool = True
    chooses_head: bool = False
    authors: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Normalization(Entry):
    """A normalization; its builder takes (channels, group of the configuration, whether on maps).

    Attributes:
        maps_only: whether it needs maps, (N, C, H, W), and cannot normalize features, (N, F).
        of_batch: whether the images of a batch are normalized together, so that one value a channel is too few.
        label: how a table writes it.
    """

    maps_only: bool = False
    of_batch: bool = False
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class ActivationFunction(Entry):
    """An element-wise function of a tensor.

    Attributes:
        cutoff: the c of Corollary 3.3 below which the function is flat.
    """

    cutoff: float


@dataclass(frozen=True, kw_only=True)
class Head(Entry):
    """A last layer; its builder takes the number of features and of classes.

    Attributes:
        trained: whether it has parameters.
    """

    trained: bool = True


@dataclass(frozen=True, kw_only=True)
class Initialization(Entry):
    """An initialization: a function of the network and, by name, of what it needs.

    Attributes:
        needs: the arguments that it takes beside the network: `generator`, `images`, `labels`, `twin`, and keys of its
            group such as `gain`.
        branches: whether it is for networks with residual branches.
        whole_set: whether its images are the whole training set, not a batch of it.
    """

    needs: tuple[str, ...] = ()
    branches: bool = False
    whole_set: bool = False

    def __post_init__(self) -> None:
        own = {name: None for name in self.needs if name in ("gain", "bias")}
        every = dict.fromkeys(("last_scale", "last_depth_exponent", "classifier_std"))
        object.__setattr__(self, "options", {**every, **own, **self.options})


@dataclass(frozen=True, kw_only=True)
class Dataset(Entry):
    """A data set; its builder takes the group of the configuration and the device, and returns `data.base.Arrays`.

    `options` are the keys of the group that it has and not every data set has.

    Attributes:
        streamed: whether its images are decoded while the network trains. Its builder then takes the arguments of
            `data.build_data` and returns a `data.base.ImageData`.
        pixels: whether its values are those of pixels, which are augmented, or points.
        classes: how many classes it has, where neither its files nor an option say it.
        image_files: whether it is a folder of image files, one folder a class.
        named_by_folder: whether the name of its folder says what the data are, so that it belongs to the identity.
        prints: "module:function" that gives the fingerprints of its files (`data.files.prints`); None where it has no
            files, or checks them when it reads them.
    """

    streamed: bool = False
    pixels: bool = True
    classes: int | None = None
    image_files: bool = False
    named_by_folder: bool = False
    prints: str | None = None

    def prints_of(self, *groups: Any) -> Any:
        """What `prints` says of the groups `dataset` and `phases`; empty without it."""
        return {} if self.prints is None else Entry(name=self.name, source=self.prints).build(*groups)


@dataclass(frozen=True, kw_only=True)
class Measure(Entry):
    """What may be measured of a network: a function of a `measures.Subject` that returns its figures by name.

    Attributes:
        pixels: whether it attacks images, so that their values have to be those of pixels.
        whole_set: whether it works on the whole test set, which one process alone has.
    """

    pixels: bool = False
    whole_set: bool = False


NETWORKS = Registry("model.name", Network, "farkas_exp.models.catalogue")
HEADS = Registry("head.name", Head, "farkas_exp.models.catalogue")
NORMALIZATIONS = Registry("normalization.name", Normalization, "farkas_exp.layers.catalogue")
ACTIVATIONS = Registry("activation.name", ActivationFunction, "farkas_exp.layers.catalogue")
AGGREGATIONS = Registry("aggregation.name", Entry, "farkas_exp.layers.catalogue")
WEIGHTS = Registry("weight.name", Entry, "farkas_exp.layers.catalogue")
INITIALIZATIONS = Registry("init.name", Initialization, "farkas_exp.initialization.catalogue")
DATASETS = Registry("dataset.name", Dataset, "farkas_exp.data.catalogue")
OPTIMIZERS = Registry("optimizer.name", Entry, "farkas_exp.training.catalogue")
MEASURES = Registry("diagnostics.measures", Measure, "farkas_exp.measures.catalogue")


@dataclass(frozen=True, kw_only=True)
class Rendering(Entry):
    """A report: its builder takes the records of runs and returns a `report.render.Report`.

    Attributes:
        summary: what it shows, in a line.
        needs_runs: whether there is nothing to show without runs.
        shared: the settings, as a function of a configuration, that the runs of one table have in common; the table at
            the end of a sweep shows the runs that share them with the sweep's own.
    """

    summary: str
    needs_runs: bool = True
    shared: str = "farkas_exp.runs.query:budget"

    @cached_property
    def shared_setting(self) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
        """The function at `shared`."""
        return Entry(name=self.name, source=self.shared).build


@dataclass(frozen=True, kw_only=True)
class Experiment(Entry):
    """A prepared set of runs, a file in conf/experiment/. `source` is the name of the report that its sweep ends in.

    Attributes:
        title: what it is, in a line.
        runs: how many there are.
        cost: what they take, as far as it is known.
        then: the experiment that goes on from it, in the same `runs_dir`.
        arguments: what its command needs, such as a folder of images.
    """

    title: str
    runs: str
    cost: str
    then: str | None = None
    arguments: str = ""


REPORTS = Registry("report", Rendering, "farkas_exp.studies.catalogue")
EXPERIMENTS = Registry("experiment", Experiment, "farkas_exp.studies.catalogue")
