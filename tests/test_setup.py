"""What the set-up makes: the environment of `make setup`, the console scripts, and their completion."""

import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from farkas_exp.launch.cli import main
from tests.paths import ROOT, tracked

PIP = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
  "-c import sys, torch"*) exit {cuda};;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python";;
esac
"""


def make(folder: Path, *arguments: str, cuda: bool = False) -> tuple[subprocess.CompletedProcess, list[str]]:
    """`make setup` in an empty environment, with a Python that only writes down what it is told."""
    python, log = folder / "python", folder / "log"
    python.write_text(PIP.format(log=log, cuda=int(cuda)))
    python.chmod(0o755)
    log.write_text("")
    command = ["make", f"PYTHON={python}", f"VENV={folder / 'venv'}", *arguments, "setup"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done, log.read_text().splitlines()


def test_make_setup_installs_what_is_pinned_and_then_the_package_editable(tmp_path):
    done, log = make(tmp_path)
    assert done.returncode == 0, done.stderr
    pinned, package = log[-2:]
    assert pinned.endswith("install --requirement requirements.lock")
    assert package.endswith("install --no-deps --no-build-isolation --editable .")
    assert (tmp_path / "venv" / ".ready").exists()
    assert make(tmp_path)[1] == []


def test_a_set_up_for_the_cpu_leaves_the_cuda_libraries_out_for_good(tmp_path):
    done, log = make(tmp_path, "TORCH=cpu")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "venv" / "cpu.txt").read_text().splitlines()
    left_out = set((ROOT / "requirements.lock").read_text().splitlines()) - set(lines)
    names = {line.split("==")[0] for line in left_out}
    assert {name for name in names if not name.startswith(("nvidia-", "cuda-"))} == {"triton"}
    assert {"torch", "numpy"} <= {line.split("==")[0] for line in lines}
    assert any(f"--no-deps --requirement {tmp_path / 'venv' / 'cpu.txt'}" in line for line in log)
    (tmp_path / "venv" / ".ready").unlink()
    assert not any("requirements.lock" in line for line in make(tmp_path)[1])


def test_a_set_up_for_the_cpu_without_a_cpu_build_is_one_line(tmp_path):
    done, log = make(tmp_path, "TORCH=cpu", cuda=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: TORCH=cpu: pip found no CPU build of PyTorch; give it the index of these:")
    assert log[-1].endswith("uninstall --yes torch torchvision")
    assert not (tmp_path / "venv" / ".ready").exists()
    done, log = make(tmp_path, "TORCH=gpu")
    assert done.returncode == 2
    assert done.stderr.startswith("error: TORCH=gpu: the choice is cpu")
    assert not any("install" in line for line in log)


def test_every_console_script_has_its_function():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {"farkas-exp", "farkas-report", "farkas-status", "farkas-best"} <= set(scripts)
    for place in scripts.values():
        module, _, function = place.partition(":")
        assert callable(getattr(import_module(module), function)), place


def test_the_command_line_is_completed(monkeypatch, capsys):
    line = "farkas-exp model=farkasnet3"
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.split() == ["model=farkasnet34"]


@pytest.mark.slow
def test_an_editable_installation_works_from_any_folder(tmp_path):
    source, site = tmp_path / "source", tmp_path / "venv"
    for path in tracked():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, source / path)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(site)], check=True)
    (packages,) = site.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(str(Path(pytest.__file__).parents[1]))
    python = site / "bin" / "python"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(source)]
    subprocess.run([python, *install], check=True)
    overrides = ["model=mlp", "dataset=digits", "augmentation=digits", "epochs=1", "wandb.mode=disabled", "-m"]
    launcher = ["hydra/launcher=local_parallel", "hydra.launcher.n_jobs=1"]  # which Hydra finds as a plug-in
    for command in (["farkas-exp", *overrides, *launcher], ["farkas-status"], ["farkas-report", "format=none"]):
        done = subprocess.run(
            [site / "bin" / command[0], *command[1:]], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
