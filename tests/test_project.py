"""Promises about the project's files: what a wheel carries, what is pinned, what must not travel."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def settings():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_wheel_names_every_package():
    roots = (ROOT / "farkas_exp", ROOT / "hydra_plugins")
    folders = {path.parent.relative_to(ROOT) for root in roots for path in root.rglob("__init__.py")}
    named = {name for name in settings()["tool"]["setuptools"]["packages"] if name != "farkas_exp.conf"}
    assert named == {".".join(folder.parts) for folder in folders}


def test_every_requirement_is_pinned_and_no_host_is_named():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert all(re.match(r"^[a-zA-Z0-9._-]+==\S+", line) for line in lines)
    pinned = {line.split("==")[0].lower() for line in lines}
    for line in (ROOT / "requirements.in").read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.split(r"[<>=]", line)[0].lower() in pinned


def test_the_projects_own_requirements_are_locked():
    pinned = {line.split("==")[0].lower() for line in (ROOT / "requirements.lock").read_text().splitlines()}
    for requirement in settings()["project"]["dependencies"]:
        assert re.split(r"[<>=]", requirement)[0].lower() in pinned


def test_make_help_lists_every_target():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^\.PHONY: (\S+)", (ROOT / "Makefile").read_text(), flags=re.M)
    assert len(targets) > 5
    for target in targets:
        assert re.search(rf"^  {re.escape(target)} ", shown, flags=re.M), target


@pytest.mark.parametrize("path", sorted((ROOT / "conf").rglob("*.yaml")), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_config_file_opens_with_what_it_is(path):
    assert path.read_text().startswith("#")
