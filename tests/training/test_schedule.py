"""The schedule of the learning rate; phases: rate by step, batch by epoch, as the published schedules have them."""

import math
from typing import Any

import pytest

from farkas_exp.config import parse
from farkas_exp.config.identity import deciding_values, identify
from farkas_exp.config.schema import LRConfig
from farkas_exp.machine.errors import UserError
from farkas_exp.training.schedule import batch_size_at, learning_rate, learning_rate_at
from tests import configs
from tests.composing import composed

ONE = {"until": 3, "image_size": 32, "batch_size": 16, "lr_from": 0.2, "lr_to": 0.5}
TWO = {"until": 4, "image_size": 48, "batch_size": 8, "lr_from": 0.5, "lr_to": 0.1, "min_scale": 0.3}


def made(schedule=(ONE, TWO), batch_scale=1.0, epochs=4, **overrides: Any):
    base = {"model": {"name": "resnet50_imagenet"}, "lr": {"value": 0.01}, "dataset": {"name": "imagenet"}}
    base |= {"augmentation": {"crop_padding": 0, "cutout": 0}}
    phases = {"name": "test" if schedule else "none", "schedule": list(schedule), "batch_scale": batch_scale}
    return parse({**base, "phases": phases, "epochs": epochs, **overrides})


def test_the_papers_schedule_value_by_value():
    lr = LRConfig(0.1)
    expected = [0.1] * 60 + [0.02] * 60 + [0.004] * 40 + [0.0008] * 40
    assert [learning_rate(lr, epoch, 200) for epoch in range(200)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("epochs", "changes"), [(20, [6, 12, 16]), (10, [3, 6, 8]), (400, [120, 240, 320]), (3, [1, 2]), (1, [])]
)
def test_the_milestones_keep_their_share_of_a_run_of_other_length(epochs, changes):
    rates = [learning_rate(LRConfig(1.0), epoch, epochs) for epoch in range(epochs)]
    assert [epoch for epoch in range(1, epochs) if rates[epoch] != rates[epoch - 1]] == changes
    assert [learning_rate(LRConfig(1.0), epoch + 0.99, epochs) for epoch in range(epochs)] == rates, "by whole epochs"


def test_without_reference_epochs_the_milestones_stay():
    assert learning_rate(LRConfig(1.0, (5,), 0.5, None), 4, 1000) == 1.0
    assert learning_rate(LRConfig(1.0, (5,), 0.5, None), 5, 1000) == 0.5


def test_the_cosine_falls_to_zero_behind_the_warm_up_that_rises_step_by_step():
    own = configs.config(lr={"value": 0.4, "schedule": "cosine", "warmup": 1.5}, epochs=4)
    rates = [learning_rate_at(own, epoch, step, 4) for epoch in range(4) for step in range(4)]
    rising = [0.4 * (step + 1) / 6 for step in range(6)]
    falling = [0.4 * (1 + math.cos(math.pi * (step - 6) / 10)) / 2 for step in range(6, 16)]
    assert rates == pytest.approx(rising + falling)
    stepped = configs.config(lr={"value": 0.4, "warmup": 0.5}, epochs=4)
    rates = [learning_rate_at(stepped, 0, step, 4) for step in range(4)]
    assert rates == pytest.approx([0.2, 0.4, 0.4, 0.4])
    with pytest.raises(UserError, match=r"^lr.warmup: 5.0 is out of range; it must be at most 4, the epochs"):
        configs.config(lr={"warmup": 5.0}, epochs=4)


def test_the_rate_is_a_straight_line_over_the_steps_of_a_phase():
    config = made()
    rates = [learning_rate_at(config, epoch, step, 5) for epoch in range(3) for step in range(5)]
    assert rates == pytest.approx([0.2 + 0.3 * i / 15 for i in range(15)])
    assert [learning_rate_at(config, 3, step, 4) for step in range(4)] == pytest.approx([0.5, 0.4, 0.3, 0.2])


def test_batch_and_rate_scale_together():
    config = made(batch_scale=2.5)
    assert [batch_size_at(config, epoch) for epoch in range(4)] == [40, 40, 40, 20]
    assert learning_rate_at(config, 1, 3, 5) == pytest.approx(2.5 * learning_rate_at(made(), 1, 3, 5))
    rounded = made(batch_scale=0.3)  # 4.8 and 2.4: the rate follows the batch that is there
    assert [batch_size_at(rounded, epoch) for epoch in (0, 3)] == [5, 2]
    assert learning_rate_at(rounded, 0, 0, 5) == pytest.approx(0.2 * 5 / 16)


def test_without_phases_the_rate_is_the_epochs():
    config = made((), epochs=200)
    for epoch in (0, 59, 60, 199):
        assert learning_rate_at(config, epoch, 17, 390) == learning_rate(config.lr, epoch, 200)
    assert batch_size_at(config, 7) == config.batch_size


def line(config, epoch, size, batch, start, end):
    """A phase by its published row: its first epoch, and the rates at its two ends."""
    phases = config.phases.schedule
    phase = next(phase for phase in phases if epoch < phase.until)
    assert (phase.image_size, batch_size_at(config, epoch)) == (size, batch)
    assert learning_rate_at(config, epoch, 0, 100) == pytest.approx(start)
    assert learning_rate_at(config, phase.until - 1, 100, 100) == pytest.approx(end)
    return phase


def test_finlays_29_epochs():
    config = composed("dataset=imagenet", "dataset.root=x", "phases=finlay29")
    assert config.epochs == 29
    assert line(config, 0, 128, 1024, 0.5, 1.0).until == 8
    assert line(config, 8, 128, 1024, 1.0, 0.125).until == 15
    assert line(config, 15, 224, 448, 0.22, 0.022).until == 25
    assert line(config, 25, 224, 448, 0.022, 0.0022).until == 28
    assert line(config, 28, 288, 256, 1.25e-3, 1.25e-4).until == 29
    assert [(p.min_scale, p.rectangular) for p in config.phases.schedule] == [
        (None, False), (None, False), (0.087, False), (0.087, False), (0.5, True),
    ]  # fmt: skip


def test_dawnbenchs_28_epochs_on_one_machine():
    config = composed("dataset=imagenet", "dataset.root=x", "phases=dawnbench28")
    assert config.epochs == 28
    rows = [(0, 128, 512, 1.0, 2.0), (7, 128, 512, 2.0, 0.25), (13, 224, 224, 0.4375, 0.04375)]
    rows += [(22, 224, 224, 0.04375, 0.004375), (25, 288, 128, 0.0025, 0.00025)]
    for epoch, size, of_a_gpu, start, end in rows:
        line(config, epoch, size, 8 * of_a_gpu, start, end)
    assert [p.until for p in config.phases.schedule] == [7, 13, 22, 25, 28]
    assert [p.rectangular for p in config.phases.schedule] == [False] * 4 + [True]


def test_dawnbenchs_30_epochs_on_four_machines():
    config = composed("dataset=imagenet", "dataset.root=x", "phases=dawnbench30")
    assert config.epochs == 30
    rate, of_a_gpu = 0.5 * 4, (256, 224, 128)
    first, second, third = (rate * batch / 256 for batch in of_a_gpu)
    rows = [(0, 128, 256, first, 2 * first), (6, 128, 512, 2 * first, 2 * first), (11, 128, 512, 2 * first, first)]
    rows += [(13, 224, 224, second, second), (16, 224, 224, second, second / 10)]
    rows += [(24, 224, 224, second / 10, second / 100), (28, 288, 128, third / 100, third / 1000)]
    for epoch, size, batch, start, end in rows:
        line(config, epoch, size, 32 * batch, start, end)
    phases = config.phases.schedule
    assert [p.until for p in phases] == [6, 11, 13, 16, 24, 28, 30]
    assert [(p.min_scale, p.rectangular) for p in phases] == [(None, False)] * 3 + [(0.087, False)] * 3 + [(0.5, True)]


def test_the_schedule_is_the_identity_and_the_unused_rate_is_refused():
    assert identify(made()) != identify(made((ONE, {**TWO, "lr_to": 0.2})))
    assert identify(made()) != identify(made(batch_scale=2.0))
    with pytest.raises(UserError, match=r"^lr.value: 0.7 does nothing here; it needs phases=none \(else 0.01\)$"):
        made(lr={"value": 0.7})
    with pytest.raises(UserError, match=r"^batch_size: 64 does nothing here; it needs phases=none"):
        made(batch_size=64)
    assert "lr" not in deciding_values(made()), "known identities stay"
    assert identify(made(())) != identify(made((), lr={"value": 0.7}))
    assert "phases" not in deciding_values(made((), epochs=4)), "known identities stay"
    assert "-test-e4" in identify(made()).slug


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 5}, r"epochs: 5 is out of range; it must be at most 4, where the phases end"),
        ({"schedule": (TWO, ONE)}, r"phases.schedule\[1\].until: 3 is out of range; it must be at least 5"),
        ({"schedule": ({**ONE, "lr_to": 0.0},)}, r"phases.schedule\[0\].lr_to: 0.0"),
        ({"schedule": ({**ONE, "size": 3},)}, r"phases.schedule\[0\].size: unknown 'size'"),
        ({"schedule": ({"until": 3},)}, r"phases.schedule\[0\].image_size: missing"),
        ({"batch_scale": 0.0}, r"phases.batch_scale: 0.0 is out of range"),
        ({"schedule": (), "batch_scale": 2.0}, r"phases.batch_scale: 2.0 does nothing here; it needs phases"),
        ({"dataset": {"name": "imagenet", "image_size": 64}}, r"dataset.image_size: 64 does nothing .* \(else null\)"),
        ({"dataset": {"name": "imagenet", "workers": -1}}, r"dataset.workers: -1"),
        ({"augmentation": {"min_scale": 1.5}}, r"augmentation.min_scale: 1.5"),
    ],
)
def test_a_wrong_schedule_is_named_with_its_key(change, message):
    with pytest.raises(UserError, match=message):
        made(**change)


def test_the_last_phase_goes_on_and_a_batch_has_one_image_at_least():
    config = made()
    assert [config.phases.at(epoch).until for epoch in range(6)] == [3, 3, 3, 4, 4, 4]
    assert [batch_size_at(made(batch_scale=0.01), epoch) for epoch in (0, 3)] == [1, 1]
