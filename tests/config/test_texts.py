"""Texts stay texts on the command line, in sweeps and in YAML files; a ~ means home in each of them."""

import os
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from farkas_exp.config.texts import FileConfigSource, keep_texts, read_yaml, text_keys
from farkas_exp.launch.cli import main
from farkas_exp.runs import collect
from tests.small_command import SMALL, small

LIKE_NUMBERS = ["2024_11_25", "1e3", "0123", "007", "1_0", "1.50", "-3", "inf", "nan", "TRUE", "false", "0x1F", "12:30"]


def read(override: str) -> object:
    """What Hydra makes of one value, or of each value of a sweep."""
    (parsed,) = OverridesParser.create().parse_overrides([override])
    if parsed.is_sweep_override():
        return [
            OverridesParser.create().parse_overrides([f"x={text}"])[0].value()
            for text in parsed.sweep_string_iterator()
        ]
    return parsed.value()


def test_the_keys_that_take_a_text():
    keys = text_keys()
    assert {"runs_dir", "arm", "dataset.label", "dataset.root", "wandb.name", "wandb.tags", "model.name"} <= keys.keys()
    assert not {"epochs", "lr.value", "model.widths", "device", "wandb.mode", "model"} & keys.keys()
    assert {key for key, is_path in keys.items() if is_path} == {"runs_dir", "dataset.root"}


@pytest.mark.parametrize("text", LIKE_NUMBERS)
@pytest.mark.parametrize("key", ["arm", "dataset.label", "runs_dir", "++wandb.name"])
def test_a_text_is_what_was_written(key: str, text: str):
    (kept,) = keep_texts([f"{key}={text}"])
    assert read(kept) == text
    assert keep_texts([kept]) == [kept]


@pytest.mark.parametrize("text", LIKE_NUMBERS)
def test_a_text_is_what_was_written_also_in_a_sweep_and_in_a_list(text: str):
    assert read(*keep_texts([f"arm={text},b,{text}"])) == [text, "b", text]
    assert read(*keep_texts([f"arm=choice({text}, b)"])) == [text, "b"]
    assert read(*keep_texts([f"wandb.tags=[{text}, b]"])) == [text, "b"]
    assert read(*keep_texts([f"wandb.tags=[{text}],[b]"])) == [[text], ["b"]]


@pytest.mark.parametrize(
    "override",
    [
        "epochs=2024_11_25", "lr.value=1e3", "arm=null", "arm=a1e3", "arm='1e3'", 'arm="7"', "arm=${epochs}", "arm=",
        "model=resnet18", "seed=range(3)", "arm=range(3)", "-m", "--cfg=job", "~arm", "arm=[1,", "arm==3", "foo=1",
    ],
)  # fmt: skip
def test_everything_else_stays_as_it_is(override: str):
    assert keep_texts([override]) == [override]


@pytest.mark.parametrize("text", ["runs_dir=~", "runs_dir=~/a", "dataset.root=~/b c", "runs_dir=~/1,~/2"])
def test_home_on_the_command_line(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home of mine/x'y")
    _, _, value = text.partition("=")
    expected = [part.replace("~", "/home of mine/x'y") for part in value.split(",")]
    assert read(*keep_texts([text])) == (expected if "," in value else expected[0])
    assert keep_texts(["arm=~/a"]) == ["arm=~/a"], "not for what is no path"


@pytest.mark.parametrize("text", LIKE_NUMBERS)
def test_a_text_in_a_file_is_what_was_written(text: str):
    content = f"arm: {text}\nepochs: 1_0\nseed: 3\n"
    content += f"dataset:\n  label: {text}\n  num_classes: 0x10\nwandb: {{tags: [{text}]}}\n"
    assert read_yaml(content) == {
        "arm": text, "epochs": 10, "seed": 3, "dataset": {"label": text, "num_classes": 16}, "wandb": {"tags": [text]},
    }  # fmt: skip
    assert read_yaml(f"label: {text}", "dataset") == {"label": text}
    assert read_yaml(f"hydra: {{sweeper: {{params: {{arm: {text}}}}}}}")["hydra"]["sweeper"]["params"]["arm"] == text


def test_null_and_home_in_a_file(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert read_yaml("arm: null\nruns_dir: ~/runs\ndataset: {root: ~, label: ~}") == {
        "arm": None, "runs_dir": "/home/me/runs", "dataset": {"root": None, "label": None},
    }  # fmt: skip
    assert read_yaml("dataset: {root: '~'}") == {"dataset": {"root": "/home/me"}}


def test_a_file_is_read_again_once_it_or_the_home_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, file = FileConfigSource("main", str(tmp_path)), tmp_path / "mine.yaml"
    file.write_text("# @package _global_\nruns_dir: ~/a\n")
    monkeypatch.setenv("HOME", "/one")
    first = source.load_config("mine")
    first.config.runs_dir, first.header["package"] = "changed", "changed"
    again = source.load_config("mine")
    assert (again.config, again.header["package"]) == ({"runs_dir": "/one/a"}, "_global_")
    monkeypatch.setenv("HOME", "/two")
    assert source.load_config("mine").config == {"runs_dir": "/two/a"}
    kept = file.stat()
    file.write_text("# @package _global_\nruns_dir: ~/b\n")
    os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns + 1))
    assert source.load_config("mine").config == {"runs_dir": "/two/b"}
    replaced = tmp_path / "replaced.yaml"
    replaced.write_text("# @package _global_\nruns_dir: ~/c\n")
    os.utime(replaced, ns=(kept.st_atime_ns, kept.st_mtime_ns + 1))
    replaced.replace(file)
    assert source.load_config("mine").config == {"runs_dir": "/two/c"}


def test_a_run_goes_where_its_text_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "own" / "local").mkdir(parents=True)
    (tmp_path / "own" / "local" / "mine.yaml").write_text(
        "# @package _global_\nruns_dir: ~/2024_11_25\nwandb: {name: 0123, group: 1e3}\n"
    )
    (tmp_path / "own" / "local" / "swept.yaml").write_text(
        "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {wandb.group: 1e3, wandb.name: '0123,1_0'}}}\n"
    )
    assert small(Path("1_000"), "wandb.group=1e3", "wandb.name=0123", "epochs=1") == 0
    (record,) = collect("1_000")
    assert (record.config["wandb"]["group"], record.config["wandb"]["name"]) == ("1e3", "0123")
    assert small(Path("1_000"), "-m", "wandb.group=1e3,2", "seed=1", "epochs=1", "runs_dir=2_0") == 0
    found = sorted((record.config["wandb"]["group"], record.seed) for record in collect("2_0"))
    assert found == [("1e3", 1)]
    assert main([f"--config-dir={tmp_path / 'own'}", *SMALL, "+local=mine", "epochs=1"]) == 0
    (record,) = collect(tmp_path / "home" / "2024_11_25")
    assert (record.config["wandb"]["group"], record.config["wandb"]["name"]) == ("1e3", "0123")
    runs_dir = tmp_path / "swept"
    assert main([f"--config-dir={tmp_path / 'own'}", *SMALL, f"runs_dir={runs_dir}", "+local=swept", "epochs=1"]) == 0
    (record,) = collect(runs_dir)
    assert (record.config["wandb"]["group"], record.config["wandb"]["name"]) == ("1e3", "0123")


@pytest.mark.parametrize("mode", [[], ["-m", "seed=0,1"]])
def test_chdir_moves_no_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: list[str]):
    monkeypatch.chdir(tmp_path)
    elsewhere = [f"hydra.run.dir={tmp_path}/elsewhere", f"hydra.sweep.dir={tmp_path}/elsewhere"]
    assert small(Path("mine"), *mode, "hydra.job.chdir=true", *elsewhere, "epochs=1") == 0
    assert len(collect(tmp_path / "mine")) == (2 if mode else 1)
    assert Path.cwd() == tmp_path
