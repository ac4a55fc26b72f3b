"""`debug=...`: what it does, and that its runs are never taken for others."""

from dataclasses import replace

import pytest
import torch

import farkas_exp
from farkas_exp import runs
from farkas_exp.config.identity import identify
from farkas_exp.launch.cli import main
from farkas_exp.launch.execution import execute
from farkas_exp.machine.errors import UserError
from farkas_exp.methods.base import execution_mode
from farkas_exp.runs import collect, open_run, read_rows, read_run
from farkas_exp.training.trainer import Trainer
from tests.configs import config

SMALL = [
    "model=farkasnet18", "model.blocks=[1,1]", "model.widths=[4,8]", "normalization=batch", "dataset=digits",
    "dataset.train_limit=200", "batch_size=40", "device=cpu", "progress=none",
]  # fmt: skip


@pytest.mark.parametrize("debug", ["fast", "overfit", "anomaly"])
def test_a_debug_run_has_an_identity_and_a_folder_of_its_own(debug, tmp_path):
    made = config(tmp_path, debug=debug)
    assert identify(made).hash != identify(replace(made, debug=None)).hash
    path = open_run(made).path
    assert path.parent.parent == tmp_path / "debug"
    assert path.parent.name.startswith(f"debug_{debug}-")
    assert open_run(replace(made, debug=None)).path.parent.parent == tmp_path


def test_fast_is_two_batches_of_everything(tmp_path, capsys):
    assert main([*SMALL, "debug=fast", f"runs_dir={tmp_path}", "diagnostics.epochs=[0,2]"]) == 0
    assert collect(tmp_path) == []  # no report, search or status takes it for a run
    (record,) = collect(tmp_path / "debug")
    assert (record.state, record.epochs, record.config["wandb"]["mode"]) == ("finished", 2, "disabled")
    assert [row["epoch"] for row in record.diagnostics()] == [0, 2]
    errors = [row["train_error"] for row in record.metrics()] + [row["test_error"] for row in record.metrics()]
    assert all(error * 80 / 100 == pytest.approx(round(error * 80 / 100)) for error in errors[:2])
    found = farkas_exp.load(record).evaluate()
    assert found["test_error"] == record.result["test_error"]


def test_fast_takes_the_command_lines_values_and_a_whole_sweep(tmp_path, capsys):
    assert main(["-m", *SMALL, "debug=fast", "epochs=1", "seed=0,1", f"runs_dir={tmp_path}"]) == 0
    assert [record.epochs for record in collect(tmp_path / "debug")] == [1, 1]
    assert "2 finished" in capsys.readouterr().out


def test_overfit_sees_the_same_batch_in_every_epoch_and_its_loss_falls_to_zero(tmp_path, monkeypatch):
    seen = []
    step = Trainer._train_step

    def watched(self, images, labels):
        seen.append(images.clone())
        return step(self, images, labels)

    monkeypatch.setattr(Trainer, "_train_step", watched)
    made = config(
        tmp_path, debug="overfit", epochs=60, batch_size=10, lr={"milestones": []}, checkpoint={"every_epochs": 0}
    )
    assert execute(made).status == runs.FINISHED
    assert len(seen) == 60
    assert all(torch.equal(images, seen[0]) for images in seen)
    rows = read_rows(open_run(made).metrics)
    assert rows[0]["train_loss"] > 1
    assert rows[-1]["train_loss"] < 0.05


def broken(monkeypatch, change):
    """Let a change be made to the network before its third step."""
    step, count = Trainer._train_step, 0

    def changed(self, images, labels):
        nonlocal count
        count += 1
        if count == 3:
            with torch.no_grad():
                change(self.model)
        return step(self, images, labels)

    monkeypatch.setattr(Trainer, "_train_step", changed)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda model: model.classifier.bias.fill_(torch.inf), "the output of classifier (Linear)"),
        (lambda model: next(iter(model.parameters())).register_hook(lambda grad: grad * torch.nan),
         "the gradient of the parameter "),
    ],
)  # fmt: skip
def test_anomaly_names_the_first_number_that_is_not_finite(tmp_path, monkeypatch, change, expected):
    made = config(tmp_path, debug="anomaly", batch_size=50, model={"name": "resnet18"})
    broken(monkeypatch, change)
    outcome = execute(made)
    assert outcome.status == runs.CRASHED
    assert outcome.note.startswith(f"FloatingPointError: {expected}")
    assert "is not finite, in epoch 1" in outcome.note
    assert "FloatingPointError" in open_run(made).error.read_text()


def test_anomaly_of_a_healthy_run_changes_no_number(tmp_path):
    plain, looked = config(tmp_path), config(tmp_path, debug="anomaly")
    assert execute(plain).status == execute(looked).status == runs.FINISHED
    first, second = (read_run(open_run(made).path).result for made in (plain, looked))
    assert first["test_loss"] == second["test_loss"]


def test_anomaly_cannot_look_into_compiled_steps():
    with pytest.raises(UserError, match="compile: default hides what debug=anomaly looks at"):
        execution_mode(config(debug="anomaly", compile="default"), "default")
