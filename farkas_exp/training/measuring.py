"""Measure a run's network at the requested epochs, during training and afterwards."""

from functools import partial

import torch
from torch import nn

from farkas_exp.config import Config
from farkas_exp.data.base import ImageData
from farkas_exp.machine import distributed
from farkas_exp.measures.figures import Subject, check_measures, measure
from farkas_exp.runs import RunDirectory, checkpoint, read_run, write_record
from farkas_exp.runs.measurements import Gap, Measurements, described
from farkas_exp.training.building import build_model, choose_device, load_data
from farkas_exp.training.environment import check_same_data
from farkas_exp.training.precision import as_configured


class Measuring:
    """Fills the gaps in the measurements of one run."""

    def __init__(self, config: Config, run: RunDirectory, data: ImageData, device: torch.device) -> None:
        self.config, self.data = config, data
        self.initial = partial(build_model, config, data, device)
        self.measurements = Measurements(run, config.diagnostics)

    def fill(self, gap: Gap, model: nn.Module) -> None:
        """Measure `model`, the network after `gap.epoch` epochs, and record the figures."""
        self.measurements.put(gap, measure(Subject(self.config, model, self.data, self.initial), gap.measures))

    def at(self, epoch: int, model: nn.Module) -> None:
        """Measure `model`, the network after `epoch` epochs, if that is requested and missing."""
        for gap in self.measurements.gaps(epoch):
            if gap.epoch == epoch:
                self.fill(gap, model)

    def catch_up(self, epochs: int, model: nn.Module | None) -> list[Gap]:
        """Measure what a run of `epochs` finished epochs lacks; return what can no longer be measured.

        `model` is the network after them; None if it is gone, as in the middle of an epoch.
        """
        lost = []
        for gap in self.measurements.gaps(epochs):
            if gap.epoch == epochs and model is not None:
                self.fill(gap, model)
            elif gap.epoch == 0:
                self.fill(gap, self.initial())
            else:
                lost.append(gap)
        return lost


@as_configured()
def measure_finished(config: Config, run: RunDirectory) -> str:
    """Measure what a finished run lacks, as far as possible; return in words what was measured.

    The caller holds the run's lock.

    Raises:
        UserError: a mistake in the configuration, or other data than the run was trained on.
    """
    check_measures(config)
    device = choose_device(config.device, distributed.current())
    data = load_data(config, device)
    try:
        check_same_data(run, config, data.info)
        measuring = Measuring(config, run, data, device)
        standing = read_run(run.path)
        assert standing is not None
        before = measuring.measurements.gaps(standing.epoch)
        saved = checkpoint.load_of(run, write_record(run, config))
        if saved is None or saved["state"]["step"]:
            measuring.catch_up(0, None)
        else:
            model = measuring.initial()
            checkpoint.restoring(run, lambda: model.load_state_dict(saved["model"]))
            measuring.catch_up(saved["state"]["epoch"], model)
        left = measuring.measurements.gaps(standing.epoch)
        return described(gap for gap in before if gap not in left)
    finally:
        data.close()
