"""`sweep.yaml`: the commands that W&B's agent makes of it, and what its agent gets to see."""

import sys

import pytest
import yaml

from farkas_exp.launch.cli import main
from farkas_exp.runs import read_json, read_rows
from farkas_exp.runs.collection import collect
from farkas_exp.runs.record import agent_run
from tests.paths import ROOT
from tests.wandb_file import complete

SMALL = ["batch_size=200", "epochs=1", "device=cpu", "progress=none", "wandb.mode=offline", "failure.epochs=0",
         "model.blocks=[1,1]", "model.widths=[4,4]"]  # fmt: skip


def command(values):
    """What the agent starts for these values of the parameters."""
    from wandb.sdk.launch.sweeps import utils

    sweep = yaml.safe_load((ROOT / "sweep.yaml").read_text())
    args = {key: {"value": value} for key, value in values.items()}
    made = {
        **utils.create_sweep_command_args({"args": args}),
        "interpreter": [sys.executable],
        "program": [sweep["program"]],
    }
    parts = [
        made[part[2:-1]] if part.startswith("${") else [part] for part in utils.create_sweep_command(sweep["command"])
    ]
    return [word for part in parts for word in part]


def chosen():
    """A value of each parameter."""
    parameters = yaml.safe_load((ROOT / "sweep.yaml").read_text())["parameters"]
    return {key: p.get("value", p.get("values", [p.get("min")])[-1]) for key, p in parameters.items()}


def test_the_file_makes_a_command_of_this_package_that_searches_on_held_out_images():
    words = command(chosen())
    assert words[1:3] == ["-m", "farkas_exp"]
    assert {"model=farkasnet18", "lr.value=0.003", "wandb.mode=online"} <= set(words)
    sweep = yaml.safe_load((ROOT / "sweep.yaml").read_text())
    assert sweep["metric"]["name"] == "validation_error"
    assert chosen()["dataset.validation"] > 0


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, None), ({"WANDB_RUN_ID": "a"}, None), ({"WANDB_SWEEP_ID": "s", "WANDB_RUN_ID": "a"}, "a")],
)
def test_the_agents_id_counts_only_under_an_agent(environment, expected):
    assert agent_run(environment) == expected


@pytest.mark.usefixtures("private_home")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # by W&B, of the agent's parameters
def test_the_agent_sees_a_new_run_and_one_that_is_done_under_its_own_ids(tmp_path, monkeypatch, capsys):
    parameters = tmp_path / "config.yaml"
    parameters.write_text(yaml.safe_dump({"model": {"value": "farkasnet18"}, "lr.value": {"value": 0.003}}))
    mirrored = []
    for run_id in ("first", "second"):
        agent = {"WANDB_SWEEP_ID": "sweep", "WANDB_RUN_ID": run_id, "WANDB_SWEEP_PARAM_PATH": str(parameters)}
        for key, value in agent.items():
            monkeypatch.setenv(key, value)
        assert main([*command(chosen())[3:], *SMALL, f"runs_dir={tmp_path}/runs"]) == 0
        sys.modules["wandb"].teardown()  # as the process would end
        (record,) = collect(tmp_path / "runs")
        mirrored = sorted(record.path.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)
        found = complete(mirrored[-1])
        assert found["id"] == run_id
        assert capsys.readouterr().out.startswith("finished" if run_id == "first" else "skipped")
        assert found["config"]["config"]["model"]["name"] == "farkasnet18"  # nested, beside the agent's flat keys
        assert found["config"]["model"] == "farkasnet18"
        assert [row["_step"] for row in found["history"]] == [1]
        assert found["summary"]["validation_error"] == record.result["validation_error"]
        assert found["exit_code"] == 0
    assert len(mirrored) == 2
    assert len(read_rows(record.path / "metrics.jsonl")) == 1
    assert read_json(record.path / "run.json")["wandb_id"] == "first"
    assert read_json(record.path / "environment.json")["starts"][0]["wandb_sweep"] == "sweep"
