"""`checkpoint.keep`: what stays of a checkpoint when a run is done, and what can still be done with it."""

import pytest

import farkas_exp
from farkas_exp import runs
from farkas_exp.config.identity import identify
from farkas_exp.launch.execution import execute
from farkas_exp.machine.errors import UserError
from farkas_exp.runs import checkpoint, open_run, read_json
from tests.configs import config


def kept(folder, keep, **overrides):
    made = config(folder, checkpoint={"keep": keep}, epochs=2, optimizer={"ema": 0.5}, **overrides)
    assert execute(made).status == runs.FINISHED
    return made, open_run(made)


def test_the_weights_alone_are_evaluated_to_the_last_digit_and_the_run_is_finished_again(tmp_path):
    made, run = kept(tmp_path, "weights")
    assert checkpoint.has_weights_only(checkpoint.load(run))
    found = farkas_exp.load(run.path, "cpu").evaluate()
    assert found == {name: read_json(run.result)[name] for name in found}, "by the average"
    assert execute(made).status == "skipped"
    before = read_json(run.result)
    run.result.unlink()
    assert execute(made).status == runs.FINISHED  # without an optimizer, for there is nothing left to train
    assert read_json(run.result)["test_error"] == before["test_error"]


def test_without_a_checkpoint_the_run_is_skipped_and_loading_says_why(tmp_path):
    made, run = kept(tmp_path, "none")
    assert not run.checkpoint.exists()
    assert not run.previous_checkpoint.exists()
    assert execute(made).status == "skipped"
    with pytest.raises(UserError, match=r"its checkpoint was not kept \(checkpoint.keep=none, or prune\)"):
        farkas_exp.load(run.path).evaluate()
    with pytest.raises(UserError, match="was not kept"):
        farkas_exp.load(run.path).export("torchscript")
    assert identify(made) == identify(config(epochs=2, optimizer={"ema": 0.5}))


def test_a_run_that_lost_its_result_too_says_that_it_begins_again(tmp_path, capsys):
    made, run = kept(tmp_path, "none", progress="plain")
    run.result.unlink()
    capsys.readouterr()
    assert execute(made).status == runs.FINISHED
    assert "goes on from the beginning, without one: 2 recorded epochs are trained once more" in capsys.readouterr().out


def test_weights_from_which_training_would_have_to_go_on_are_refused(tmp_path):
    made, run = kept(tmp_path, "all")
    saved = checkpoint.load(run)
    saved["state"]["epoch"] = 1
    checkpoint.save(run, saved)
    checkpoint.keep(run, "weights")
    run.result.unlink()
    rows = run.metrics.read_text()
    with pytest.raises(UserError, match="has the weights of epoch 1 alone, from which no training goes on"):
        execute(made)
    assert run.metrics.read_text() == rows
