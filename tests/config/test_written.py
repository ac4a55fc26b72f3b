"""What comes from the environment is used, and recorded as it was written where it decides no numbers."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from farkas_exp.config import parse, recorded
from farkas_exp.config.identity import identify
from farkas_exp.config.written import with_sources
from farkas_exp.launch.cli import main
from farkas_exp.runs import collect, read_json
from farkas_exp.runs.wandb import WandbMirror
from tests.configs import values

SECRET = "tell-nobody"


def parsed(**written: Any) -> Any:
    """A configuration, some of it as it is written."""
    made = {**values(), **written}
    return parse(with_sources(OmegaConf.to_container(OmegaConf.create(made), resolve=True), made))


@pytest.mark.parametrize("many", [[], ["-m", "seed=0,1"]])
def test_a_run_uses_the_environment_and_records_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: list[str]
) -> None:
    for name, value in (("TEAM", SECRET), ("PLACE", str(tmp_path / "runs")), ("NET", "mlp"), ("WIDTH", "6")):
        monkeypatch.setenv(name, value)
    started, start = [], WandbMirror.start

    def note(*arguments: Any) -> WandbMirror:
        started.append(arguments)
        return start(*arguments)

    monkeypatch.setattr(WandbMirror, "start", note)
    arguments = [
        "model=mlp", "model.depth=1", "dataset=digits", "dataset.train_limit=60", "epochs=1", "batch_size=20",
        "device=cpu", "progress=none", "failure.epochs=0", "wandb.mode=disabled", "wandb.entity=${oc.env:TEAM}",
        "wandb.group=${wandb.entity}", "wandb.tags=[one,${oc.env:TEAM}]", "wandb.name=of-${oc.env:TEAM}",
        "runs_dir=${oc.env:PLACE}", "model.name=${oc.env:NET}", "model.width='${oc.decode:${oc.env:WIDTH}}'",
    ]  # fmt: skip
    assert main([*arguments, *many]) == 0
    assert main([*arguments, *many]) == 0, "and again"
    records = collect(tmp_path / "runs")
    assert len(records) == len(started) == (2 if many else 1)
    for record, told in zip(records, started, strict=True):
        wandb = record.config["wandb"]
        assert (wandb["entity"], wandb["group"]) == ("${oc.env:TEAM}", "${wandb.entity}")
        assert wandb["tags"] == ["one", "${oc.env:TEAM}"]
        assert (wandb["name"], record.config["runs_dir"]) == ("of-${oc.env:TEAM}", "${oc.env:PLACE}")
        assert (record.config["model"]["name"], record.config["model"]["width"]) == ("mlp", 6)
        assert (
            yaml.safe_load((record.path / "config.yaml").read_text()) == read_json(record.path / "run.json")["config"]
        )
        assert told[0].entity == told[0].group == SECRET, "what W&B is asked for"
        assert told[-1] == {**record.config, "seed": told[-1]["seed"]}, "what W&B is told"
    holding = [
        path for path in (tmp_path / "runs").rglob("*") if path.is_file() and SECRET in path.read_text("latin-1")
    ]
    assert holding == []


def test_every_way_to_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM", SECRET)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("FOLDER", "~/pictures")
    plain = parse(values())
    tags = "${oc.decode:'[${oc.env:TEAM}]'}"
    made = parsed(
        wandb={"mode": "disabled", "name": "a ${oc.env:TEAM}", "tags": tags},
        experiment="${wandb.name}",
        plugins=["${oc.env:P,re}"],
    )
    assert (made.wandb.name, made.wandb.tags, made.experiment) == (f"a {SECRET}", (SECRET,), f"a {SECRET}")
    kept = recorded(made)
    assert kept["wandb"] == recorded(plain)["wandb"] | {"name": "a ${oc.env:TEAM}", "tags": [tags]}
    assert (kept["experiment"], kept["plugins"]) == ("${wandb.name}", ["${oc.env:P,re}"])
    assert identify(made) == identify(plain)
    assert recorded(parsed(wandb="${oc.create:{name:${oc.env:TEAM}}}"))["wandb"]["name"].startswith("${oc.create:")
    folder = parsed(dataset={**values()["dataset"], "name": "cifar10", "root": "${oc.env:FOLDER}"})
    assert (folder.dataset.root, recorded(folder)["dataset"]["root"]) == ("/home/me/pictures", "${oc.env:FOLDER}")
    assert recorded(plain)["runs_dir"] == plain.runs_dir


def test_what_decides_is_recorded_as_it_was_for_the_same_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INIT", "kaiming")
    made, plain = parsed(init={"name": "${oc.env:INIT}"}), parse({**values(), "init": {"name": "kaiming"}})
    assert recorded(made)["init"]["name"] == "kaiming"
    assert identify(made) == identify(plain)
    assert made == plain
