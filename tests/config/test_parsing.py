import subprocess
import sys

import numpy as np
import pytest
import yaml

from farkas_exp.config import parse, schema_defaults, to_dict, unknown_key
from farkas_exp.machine.errors import UserError
from tests.configs import config, values
from tests.paths import ROOT


def test_a_resolved_config_parses_back_to_itself():
    made = config()
    assert parse(to_dict(made)) == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modle": {}}, "modle: unknown 'modle'; did you mean 'model'?"),
        ({"lr": {"valu": 1}}, "lr.valu: unknown 'valu'; did you mean 'value'?"),
        ({"epochs": "many"}, "epochs: expected a whole number, got 'many'"),
        ({"epochs": True}, "epochs: expected a whole number, got True"),
        ({"epochs": 1.5}, "epochs: expected a whole number, got 1.5"),
        ({"epochs": 0}, "epochs: 0 is out of range; it must be at least 1"),
        ({"lr": {"value": float("nan")}}, "lr.value: expected a finite number"),
        ({"lr": {"value": -0.1}}, "lr.value: -0.1 is out of range"),
        ({"lr": {"milestones": [5, 3]}}, "lr.milestones: [5, 3] is out of range"),
        ({"lr": {"milestones": [1, "x"]}}, "lr.milestones[1]: expected a whole number, got 'x'"),
        ({"lr": {"milestones": 5}}, "lr.milestones: expected a list"),
        ({"device": "tpu"}, "device: unknown 'tpu'; did you mean 'cpu'? choose from: auto, cpu, cuda"),
        ({"wandb": {"mode": "ofline"}}, "wandb.mode: unknown 'ofline'; did you mean 'offline'?"),
        ({"dataset": {"name": "???"}}, "dataset.name: missing"),
        ({"seed": -1}, "seed: -1 is out of range"),
        ({"lr": {"reference_epochs": "x"}}, "lr.reference_epochs: expected a whole number, got 'x'"),
        ({"dataset": {"noise": True}}, "dataset.noise: expected a number, got True"),
        ({"optimizer": {"nesterov": 1}}, "optimizer.nesterov: expected true or false, got 1"),
        ({"model": {"widths": [4, 8.5]}}, "model.widths[1]: expected a whole number, got 8.5"),
        ({"wandb": "offline"}, "wandb: expected a group of keys, got 'offline'"),
        ({"normalization": {"name": "batch", "alpha": 0.7}},
         "normalization.alpha: 0.7 does nothing here; it needs normalization.name=dyt (else 0.5)"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_the_key_and_what_would_be_right(change, message):
    with pytest.raises(UserError) as caught:
        config(**change)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_numbers_and_texts_of_numpy_are_recorded_as_those_of_python():
    given = values(lr={"value": np.float64(0.1)}, epochs=np.int64(3), precision=np.str_("bf16"), arm=np.str_("mine"))
    made = parse(given)
    assert made == parse(values(lr={"value": 0.1}, epochs=3, precision="bf16", arm="mine"))
    assert [type(each) for each in (made.lr.value, made.epochs, made.precision, made.arm)] == [float, int, str, str]


def test_a_folder_of_images_is_labelled_by_its_name():
    made = values(dataset={"name": "image_folder", "root": "/data/cats"})
    assert parse(made).dataset.label == "cats"


def test_a_group_without_its_required_key_is_named():
    made = values()
    del made["lr"]["value"]
    with pytest.raises(UserError, match=r"^lr\.value: missing"):
        parse(made)


def test_schema_defaults_hold_every_key_and_ask_for_what_has_no_default():
    defaults = schema_defaults()
    assert defaults["model"]["name"] == "???"
    assert defaults["dataset"]["name"] == "???"
    filled = schema_defaults()
    filled["model"]["name"], filled["dataset"]["name"], filled["lr"]["value"] = "resnet18", "digits", 0.1
    assert parse(filled).epochs == 200


def test_unknown_key_walks_into_groups():
    assert "did you mean 'momentum'" in str(unknown_key("optimizer.momentun"))
    assert "unknown 'foo'" in str(unknown_key("foo.bar"))


def test_the_command_line_front_imports_no_torch():
    code = "import sys, farkas_exp.launch.cli, farkas_exp.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_file_of_conf_repeats_a_default_of_the_schema():
    def repeated(values, defaults, where):
        for key, value in values.items():
            if isinstance(value, dict) and isinstance(defaults.get(key), dict):
                yield from repeated(value, defaults[key], f"{where}.{key}")
            elif key != "name" and key in defaults and (type(value), value) == (type(defaults[key]), defaults[key]):
                yield f"{where}.{key}"

    defaults, found = schema_defaults(), []
    for path in [ROOT / "conf" / "config.yaml", *(ROOT / "conf").glob("*/*.yaml")]:
        group, values = path.parent.name, yaml.safe_load(path.read_text()) or {}
        whole = group == "conf" or "defaults" in values or group in values
        if group not in ("hydra", "experiment", "debug"):  # the last two overrule what other files have changed
            found += repeated(values, defaults if whole else defaults.get(group, {}), f"{group}/{path.stem}")
    assert found == []
