"""Promises about the project's files: what a wheel carries, what is pinned, what must not travel."""

import ast
import importlib
import inspect
import json
import pkgutil
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from graphlib import TopologicalSorter
from pathlib import Path
from types import FunctionType, ModuleType

import pytest
import yaml

import farkas_exp
from farkas_exp.config.extensions import registries
from farkas_exp.registry import METHOD_GROUPS
from tests.paths import ROOT, tracked

NOT_IMPORTED = {"farkas_exp.kernels.triton_conv", "farkas_exp.kernels.triton_kernels", "farkas_exp.launch.slurm"}
"""Modules of packages that may not be installed."""


def settings():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture
def distribution(monkeypatch):
    """What setuptools makes of the project's files; nothing is built."""
    monkeypatch.chdir(ROOT)
    importlib.import_module("setuptools")  # provides distutils
    return importlib.import_module("distutils.core").run_setup("setup.py", stop_after="config")


def test_the_wheel_carries_every_file_of_the_package_and_of_its_configuration(distribution):
    command = distribution.get_command_obj("build_py")
    command.ensure_finalized()
    modules = {Path(path) for _, _, path in command.find_all_modules()}
    data = {Path(folder) / name for _, folder, _, names in command.data_files for name in names}
    wanted = tracked("farkas_exp", "hydra_plugins", "conf")
    assert len(wanted) > 200
    assert sorted(wanted - modules - data) == []
    assert {path.parts[0] for path in modules | data} == {"farkas_exp", "hydra_plugins", "conf"}
    assert "farkas_exp.conf" in distribution.packages
    assert Path("farkas_exp/py.typed") in data


def test_the_licence_and_the_citation_travel(distribution):
    assert distribution.metadata.license_expression == "MIT"
    assert distribution.metadata.license_files == ["LICENSE"]
    assert distribution.metadata.project_urls == {"Paper": "https://arxiv.org/abs/1910.02840"}
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Pooladian", "Finlay", "Oberman"]
    assert paper["identifiers"][0]["value"] == "arXiv:1910.02840"
    assert citation["version"] == farkas_exp.__version__
    newest = f"## {citation['version']} ({citation['date-released']})"
    assert re.findall("^## [0-9].*", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == newest


@pytest.mark.slow
def test_a_built_wheel_holds_them(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist")]
    source = tmp_path / "source"
    for path in tracked():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, source / path)
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {str(path) for path in tracked("farkas_exp", "hydra_plugins")}
    assert wanted | {f"farkas_exp/{path}" for path in tracked("conf")} <= names


def test_continuous_integration_runs_what_a_developer_does():
    script = (ROOT / ".ci" / "run").read_text()
    assert "make lint" in script
    assert "make test" in script
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    job, site = workflow["jobs"]["test"], workflow["jobs"]["docs"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert [step["run"] for step in site["steps"] if "run" in step] == ["make docs"]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {hook["entry"].split()[0] for hook in hooks} == {".venv/bin/ruff", ".venv/bin/pyright"}


def test_lint_covers_all_python_of_the_project():
    (sources,) = re.findall(r"^SOURCES := (.*)$", (ROOT / "Makefile").read_text(), flags=re.M)
    assert {path.parts[0] for path in tracked() if path.suffix == ".py"} == set(sources.split())


def test_every_requirement_is_pinned_and_no_host_is_named():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert all(re.match(r"^[a-zA-Z0-9._-]+==\S+", line) for line in lines)
    pinned = {line.split("==")[0].lower() for line in lines}
    for line in (ROOT / "requirements.in").read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.split(r"[\[<>=]", line)[0].lower() in pinned


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


def test_the_tests_of_a_room_are_in_the_folder_of_its_name():
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    rooms = {path.parent.relative_to(ROOT / "farkas_exp") for path in (ROOT / "farkas_exp").rglob("*.py")}
    assert folders - rooms == {Path("slurm")}


def imported(path):
    """The modules of the package that a file imports, wherever in it that stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "farkas_exp")
        elif isinstance(node, ast.ImportFrom) and (node.level or node.module.split(".")[0] == "farkas_exp"):
            assert not node.level, f"{path}: a relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_every_room_imports_only_rooms_below_it():
    plan = (ROOT / "docs" / "architecture.md").read_text()
    rooms = re.findall(r"^  (\w+)(?:/|\.py) ", plan, flags=re.M)
    package = ROOT / "farkas_exp"
    doors = {"__main__", "best", "status"}
    found = {path.name.removesuffix(".py") for path in package.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert found - {"__pycache__", "py.typed"} == {*rooms, *doors}
    below = {room: set(rooms[index:]) for index, room in enumerate(rooms)}
    upward = [
        f"{path.relative_to(package)}: {module}"
        for path in package.rglob("*.py")
        if (room := path.relative_to(package).parts[0].removesuffix(".py")) in below and room != "__init__"
        for module in imported(path)
        if module != "farkas_exp.__version__" and module.split(".")[1] not in below[room]
    ]
    assert upward == []


def test_no_modules_import_each_other_in_a_circle():
    """Also inside functions and for types; the circles within a room, which the order of the rooms leaves open."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "farkas_exp").rglob("*.py")
    }
    names = {name.removesuffix(".__init__"): name for name in files}
    module = {**names, **{name: name for name in files}}
    imports = {  # but of the face, which any module may ask for the version
        name: {module.get(found) or module[found.rpartition(".")[0]] for found in imported(path)} - {name}
        for name, path in files.items()
        if name != "farkas_exp.__init__"
    }
    TopologicalSorter(imports).prepare()  # raises where there is one, and names it


def test_the_training_room_reads_no_key_of_a_method():
    """A method says what it changes; `methods/` alone reads its options."""
    groups = [group.key.removesuffix(".name") for group in METHOD_GROUPS]
    pattern = re.compile(rf"config\.({'|'.join(groups)}|dropout)\b|\b(ema|clip_norm|clip_units|mixup|cutmix)\b")
    files = (ROOT / "farkas_exp" / "training").rglob("*.py")
    assert {path.name: found for path in files if (found := pattern.findall(path.read_text()))} == {}


def test_no_name_that_a_package_offers_is_one_of_its_modules():
    """Importing such a module would hide what the package offers under the same name."""
    taken = []
    for path in (ROOT / "farkas_exp").rglob("__init__.py"):
        package = importlib.import_module(".".join(path.parent.relative_to(ROOT).parts))
        taken += [
            f"{package.__name__}.{name}"
            for name in getattr(package, "__all__", ())
            if (path.parent / f"{name}.py").exists() or (path.parent / name).exists()
        ]
    assert taken == []


def test_every_public_method_has_a_docstring_of_its_own_or_of_the_method_that_it_overrides():
    importlib.import_module("farkas_exp.studies.catalogue")  # first: it sets the order in which studies are listed
    found = pkgutil.walk_packages(farkas_exp.__path__, "farkas_exp.")
    modules = [importlib.import_module(each.name) for each in found if each.name not in NOT_IMPORTED]
    bare = [
        f"{module.__name__}.{kind.__qualname__}.{name}"
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__ and not kind.__name__.startswith("_")
        for name, member in vars(kind).items()
        if not name.startswith("_") and isinstance(member, (FunctionType, classmethod, property))
        if not inspect.getdoc(getattr(kind, name)) and getattr(member, "__name__", "") != "<lambda>"
    ]
    assert bare == []


def test_what_tests_share_is_in_helper_modules():
    pattern = re.compile(r"^ *(?:from|import) +(tests\.(?:\w+\.)*test_\w+)", flags=re.M)
    tests = (ROOT / "tests").rglob("*.py")
    assert {str(path.relative_to(ROOT)): found for path in tests if (found := pattern.findall(path.read_text()))} == {}


def test_the_modules_and_tests_of_make_mutation_are_there():
    table = json.loads((ROOT / "scripts" / "mutation.json").read_text())
    named = {name for module, tests in table.items() for name in (module, *tests)}
    assert sorted(name for name in named if not (ROOT / name).is_file()) == []


def test_the_documentation_names_every_choice_of_every_group():
    page = (ROOT / "docs" / "configuration.md").read_text()
    choices = [path for path in (ROOT / "conf").glob("*/*.yaml") if path.parent.name not in ("hydra", "experiment")]
    assert len(choices) > 70
    names = {f"{path.parent.name}={path.stem}" for path in choices}
    for group, registry in registries().items():
        own = [name for name in registry if str(registry[name].source).startswith(("farkas_exp.", "torch."))]
        names |= {f"{group}={name}" for name in own}
    assert sorted(name for name in names if f"`{name.partition('=')[2]}`" not in page) == []


def headings(page):
    """The anchors of a page, as GitHub and the site name them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_and_heading_that_the_documentation_links_is_there():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "results").glob("*.md")]
    broken = []
    for page in pages:
        for target, heading in re.findall(r"\]\((?!http)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
            place = page.parent / target if target else page
            if not place.exists() or (heading and heading not in headings(place)):
                broken.append(f"{page.name}: {target}#{heading}")
    assert broken == []


def test_the_notebook_is_a_page_of_the_site():
    hook = runpy.run_path(str(ROOT / "scripts" / "notebook_page.py"))
    notebook = (ROOT / "docs" / hook["NOTEBOOK"]).read_text()
    text, cells = hook["page"](notebook), json.loads(notebook)["cells"]
    assert text.count("```python\n") == sum(cell["cell_type"] == "code" for cell in cells)
    assert all("".join(cell["source"]) in text for cell in cells)
    assert hook["on_page_markdown"]("[a](first_figure.ipynb)") == "[a](first_figure.md)"
    assert "hooks: [../scripts/notebook_page.py]" in (ROOT / "docs" / "mkdocs.yml").read_text()


def test_the_site_shows_every_page_and_all_that_the_package_offers():
    config = (ROOT / "docs" / "mkdocs.yml").read_text()
    pages = re.findall(r"(\S+\.md)$", config.partition("\nnav:")[2], flags=re.M)
    wanted = {str(path) for path in tracked("docs", "*.md") if path.suffix == ".md" and len(path.parts) < 3}
    made = {"results/README.md", "docs/first_figure.md"}
    assert sorted(pages) == sorted(wanted - {str(path) for path in tracked("results")} | made)
    names = re.findall(r"^::: (.+)$", (ROOT / "docs" / "api.md").read_text(), flags=re.M)
    assert not [name for name in names if isinstance(pkgutil.resolve_name(name), ModuleType)]
    assert {name.rpartition(".")[2] for name in names} >= {*farkas_exp.__all__, "survey", "Runs"}
