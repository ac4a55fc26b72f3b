"""`load(run_dir)`: a run of the trainer as an object, with its network."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from farkas_exp.config import Config, declared, parse, to_dict
from farkas_exp.config.folders import check_reached
from farkas_exp.config.schema import DatasetConfig, PhasesConfig
from farkas_exp.config.store import choice_of
from farkas_exp.data.base import Batch, Batching, DataInfo, ImageData
from farkas_exp.data.build import build_data
from farkas_exp.data.device import NO_AUGMENTATION
from farkas_exp.data.files.decode import EVALUATION_SCALE
from farkas_exp.machine.errors import UserError, in_one_line
from farkas_exp.methods.base import Method, Training, chosen
from farkas_exp.registry import DATASETS
from farkas_exp.runs import DONE, FAILED, RunDirectory, RunRecord, checkpoint, read_data, record_at
from farkas_exp.runs.found import frame
from farkas_exp.trained.deployed import export, file_for
from farkas_exp.trained.preprocessing import Images, Preprocessing, grey
from farkas_exp.training.building import choose_device, network, placed
from farkas_exp.training.environment import check_same_data
from farkas_exp.training.evaluation import evaluation_sums, named_means
from farkas_exp.training.metrics import metrics_on
from farkas_exp.training.precision import as_configured, computing_in

AT_ONCE = 256
"""Images that are predicted in one batch."""
STREAMED_BATCH = 32
"""Images of other streamed data that are evaluated in one batch."""
VIEWS = ("validation", "train_limit", "normalize", "image_size", "draft", "copies")
"""Options of `dataset` that choose among the same images, or show them otherwise."""
NAMED = 3
"""Classes that a message names."""


def load(run: str | PathLike[str] | RunRecord, device: str | None = None) -> "Run":
    """The run in a run directory (`runs/<name>-<identity>/seed_<n>`).

        run = farkas_exp.load("runs/resnet18-batch-digits-lr0.1-e20-0123456789ab/seed_0")
        run.predict("seven.png"), run.evaluate(), run.network

    Args:
        run: its folder, or its record.
        device: where the network goes, `auto`, `cpu` or `cuda`; by default where it was trained.

    Raises:
        UserError: there is no run there, its record cannot be read, or there is no such device.
    """
    return Run(record_at(run.path if isinstance(run, RunRecord) else run), device)


class Run:
    """A run with its network; the costly parts are read on first use.

    Attributes:
        record: what its files say of it.
        config: its configuration.
        device: where its network is.
    """

    def __init__(self, record: RunRecord, device: str | None = None) -> None:
        self.record = record
        self.config: Config = parse(record.config)
        asked = parse({**record.config, "device": device}) if device else self.config  # which checks its name
        self.device = choose_device(asked.device)

    def __repr__(self) -> str:
        return f"Run({str(self.record.path)!r}, {self.record.state})"

    @property
    def result(self) -> dict[str, Any]:
        """Its outcome: status, errors, losses, seconds; empty while it has none."""
        return dict(self.record.result or {})

    @property
    def metrics(self) -> Any:
        """A row an epoch: losses, errors, rate, speed. A pandas data frame where pandas is installed, else a list."""
        return frame(self.record.metrics())

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.info.class_names

    @property
    def epoch(self) -> int:
        """The epochs after which the network has these weights."""
        return self._saved["state"]["epoch"]

    @property
    def steps(self) -> int:
        """The steps of the next epoch that these weights have made, too, if the run was stopped within it; else 0."""
        return self._saved["state"]["step"]

    @cached_property
    def info(self) -> DataInfo:
        """The facts of its data, from its record; for a record of version 0.1.0, from the data on this machine."""
        run = RunDirectory(self.record.path)
        data = read_data(run)
        if "image_shape" not in data:
            with self._data(self.config.dataset, own=True) as own:
                return own.info
        try:
            channels, height, width = map(int, data["image_shape"])
            mean, std = (tuple(map(float, data[key])) for key in ("mean", "std"))
            return DataInfo(
                name=data["name"], num_classes=int(data["classes"]), class_names=tuple(data["class_names"]),
                image_shape=(channels, height, width), train_size=data["train"], test_size=data["test"],
                fingerprint=data["fingerprint"], files=self.record.data, mean=mean, std=std,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{run.environment}: damaged, what it says of the data ({in_one_line(error)})") from None

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """What images go through before the network sees them: call it with images."""
        info, dataset, phases = self.info, self.config.dataset, self.config.phases
        entry, streamed = DATASETS[dataset.name], DATASETS[dataset.name].streamed
        channels, height, width = info.image_shape
        if phases.schedule:
            height = width = phases.at(self.config.epochs - 1).image_size
        scale = EVALUATION_SCALE if streamed else 1.0
        shape, draft = (channels, height, width), streamed and dataset.draft
        return Preprocessing(shape, info.mean, info.std, scale, draft, entry.pixels)

    @cached_property
    @as_configured()
    def network(self) -> nn.Module:
        """The trained network, in evaluation mode. It takes what `preprocessing` returns.

        Raises:
            UserError: its checkpoint is not there, or does not fit.
        """
        saved = self._saved
        model = network(self.config, self.info)
        checkpoint.restoring(RunDirectory(self.record.path), lambda: model.load_state_dict(saved["model"]))
        for method in chosen(self.config):
            if kept := saved.get("methods", {}).get(method.__name__):
                evaluated_as(method, self.config, model, kept)
        return placed(model, self.config, self.device).eval()

    def predict(self, images: Images) -> Tensor:
        """The class of each image, (N,), as a number: `run.classes[number]` is its name.

        Args:
            images: see `Preprocessing`: a tensor or array, or picture files.
        """
        return self.probabilities(images).argmax(1)

    @as_configured()
    @torch.no_grad()
    def probabilities(self, images: Images) -> Tensor:
        """The probability of each class for each image, (N, classes), on the CPU."""
        parts = []
        self.network.eval()  # it is the caller's, who may train it
        for part in self.preprocessing(images).split(AT_ONCE):
            with computing_in(self.config.precision, self.device):
                parts.append(self.network(part.to(self.device)).float().softmax(1).cpu())
        return torch.cat(parts)

    @as_configured()
    def evaluate(
        self, dataset: str | Mapping[str, Any] | DatasetConfig | None = None, **options: Any
    ) -> dict[str, float]:
        """The loss and errors of the network: by default what the run's record says, to the last digit.

            run.evaluate()                                    # its own test set, or the images that it held out
            run.evaluate(validation=0)                        # the test set of a run that has held images out
            run.evaluate("image_folder", root="photographs")  # other images of the same classes

        Other data are resized to the run's image size and standardized as its own are.

        Args:
            dataset: a choice of `dataset`, or the group with its keys; by default the run's own.
            options: keys of the group.

        Returns:
            Figures such as `test_error` (in percent), `test_loss`; `validation_error` on held-out images.

        Raises:
            UserError: the data are not there, are not those of the run, or have other classes or another shape.
        """
        if options.get("normalize", self.config.dataset.normalize) != self.config.dataset.normalize:
            raise UserError("dataset.normalize: images are standardized as those of the run were; leave it out")
        wanted = self._dataset(dataset, options)
        own = _same_images(wanted, self.config.dataset)
        with self._data(wanted, own) as data:
            if wanted.validation and not own:
                self._refuse_trained_on(wanted, data.info)
            batches = data.test_batches(self.epoch - 1) if own else self._translated(data)
            metrics = metrics_on(data.info)
            sums = evaluation_sums(self.network, batches, metrics, self.config.precision, self.device)
        return named_means(wanted.evaluated_on, metrics, sums)

    @as_configured()
    def export(self, format: str, path: str | PathLike[str] | None = None) -> Path:
        """Write the network for other programs; see `trained.deployed.export`.

        Args:
            format: `onnx`, `torchscript`, `pt2` or `safetensors`.
            path: the file; by default `network.onnx` and so on in the run directory.

        Raises:
            UserError: another format, no folder for the file, no weights, a package that the format needs is missing,
                or PyTorch cannot export the network to it.
        """
        target = file_for(format, self.record.path, path)
        facts = {"config": self.record.config, "classes": self.classes, "preprocessing": vars(self.preprocessing)}
        export(self.network, self.preprocessing, facts, format, target)
        return target

    @cached_property
    def _saved(self) -> dict[str, Any]:
        record = {"identity": self.record.identity, "seed": self.record.seed}
        saved = checkpoint.load_of(RunDirectory(self.record.path), record)
        if saved is None:
            why = "its checkpoint was not kept (checkpoint.keep=none, or prune)"
            if RunDirectory(self.record.path).checkpoint.exists():
                why = "its checkpoint is damaged"
            elif self.record.state not in DONE:
                why = "has no checkpoint yet"
            elif self.record.state == FAILED and self.record.epoch <= 1:
                why = "ended before its first checkpoint"
            raise UserError(f"{self.record.path}: no network to load: the run is {self.record.state}, and {why}")
        return saved

    def _refuse_trained_on(self, wanted: DatasetConfig, info: DataInfo) -> None:
        """Raise a `UserError` if a part of the run's own training set is asked for as held out."""
        own = self.config.dataset
        same_files = bool(info.files) and info.files == self.record.data
        if same_files or _same_images(replace(wanted, **{name: getattr(own, name) for name in VIEWS}), own):
            kept = f"what it held out (dataset.validation={own.validation:g}) or " if own.validation else ""
            raise UserError(
                f"dataset.validation: the run was trained on images of this part; evaluate it on {kept}the test set"
                " (dataset.validation=0)"
            )

    def _dataset(
        self, given: str | Mapping[str, Any] | DatasetConfig | None, options: Mapping[str, Any]
    ) -> DatasetConfig:
        """The group `dataset` that is asked for."""
        if isinstance(given, str):
            values = {**choice_of("dataset", given), "image_size": None}  # as large as the run's
        else:
            values = dict(given) if isinstance(given, Mapping) else to_dict(given or self.config.dataset)
        least = {"model": {"name": "mlp"}, "lr": {"value": 1.0}, "augmentation": to_dict(NO_AUGMENTATION)}
        return parse({**least, "dataset": {**values, **options}}).dataset

    @contextmanager
    def _data(self, dataset: DatasetConfig, own: bool) -> Iterator[ImageData]:
        """The images of `dataset`: the run's own as in its training, others made to fit its network."""
        config, streamed = self.config, DATASETS[dataset.name].streamed
        augmentation, batch_size, phases = config.augmentation, config.batch_size, config.phases
        if not own:
            dataset, augmentation = replace(dataset, normalize=False), NO_AUGMENTATION
            if phases.schedule and dataset.name == config.dataset.name:
                phases = replace(phases, schedule=(phases.at(config.epochs - 1),))
            else:
                batch_size, phases = STREAMED_BATCH if streamed else 1, PhasesConfig()
                _, height, width = self.preprocessing.shape
                if dataset.image_size is None and height == width and DATASETS[dataset.name].pixels:
                    dataset = replace(dataset, image_size=height)
        if own and dataset.root == config.dataset.root:
            check_reached(dataset, "name it: dataset.root=DIR")
        batching = Batching(batch_size, config.seed, self.device, config.channels_last, trains=False)
        data = build_data(dataset, augmentation, batching, phases, config.debug if own else None)
        try:
            if own:
                check_same_data(RunDirectory(self.record.path), replace(config, dataset=dataset), data.info)
            yield data
        finally:
            data.close()

    def _translated(self, data: ImageData) -> Iterator[Batch]:
        """The evaluation set of other data as the network takes it, its labels by the names of the classes."""
        own, theirs, shape = self.classes, data.info.class_names, data.info.image_shape
        if sorted(own) != sorted(theirs):
            raise UserError(
                f"dataset: {data.info.name} has {_named(theirs)}, and the run was trained on {_named(own)}; evaluate it"
                " on data with the same classes"
            )
        fades = shape == (3, *self.preprocessing.shape[1:]) and self.preprocessing.shape[0] == 1
        if shape != self.preprocessing.shape and not fades:
            raise UserError(
                f"dataset: {data.info.name} has images of the shape {shape}, and the network takes"
                f" {self.preprocessing.shape}"
            )
        number = torch.tensor([own.index(name) for name in theirs], device=self.device)
        for images, labels in data.test_batches():
            if fades:  # as `Preprocessing` has it of the same files
                images = grey((255 * images).round()).float() / 255
            yield self.preprocessing.standardized(images), number[labels]


def evaluated_as(method: type[Method], config: Config, model: nn.Module, kept: dict[str, Any]) -> None:
    """Give the network the weights with which a method of this state evaluates it, such as their average."""
    data: Any = None  # a method with a state works on weights
    acting = method(Training(config, model, data, model))
    acting.restore(kept)
    with acting.evaluating():
        weights = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights)


def _same_images(one: DatasetConfig, other: DatasetConfig) -> bool:
    """Whether both are the same data, wherever they lie."""
    deciding = [f.name for f in fields(one) if declared(f).decides]
    return type(one) is type(other) and all(getattr(one, name) == getattr(other, name) for name in deciding)


def _named(classes: Sequence[str]) -> str:
    """How many classes there are, and the first ones."""
    names = ", ".join(classes[:NAMED]) + (", ..." if len(classes) > NAMED else "")
    return f"{len(classes)} classes ({names})"
